"""What files from outside may say: refused by name and key before anything is built."""

import json
import os
import shutil
import struct

import pytest
import safetensors.numpy
from checkpoint_refusals import refusal

from tokenauction_jax.agents.checkpoints.load import (
    find_checkpoints,
    load_checkpoint,
)

SIZES = {
    "llama": (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        *("head_dim",),
    ),
    "gpt2": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"),
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def change(directory, name="config.json", **changes):
    path = directory / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    "value", [0, -1, True, 2.0, "2", [2], 2**31, 2**70, float("nan")]
)
@pytest.mark.parametrize("family", SIZES)
def test_sizes_are_refused_by_key(directory, family, value):
    base = dict.fromkeys(SIZES["gpt2"], 4) if family == "gpt2" else {}
    for key in SIZES[family]:
        shutil.copy(directory / "config.json", directory / "sound.json")
        change(directory, **base | {"model_type": family, key: value})
        assert f" {key}: " in refusal(directory)
        shutil.copy(directory / "sound.json", directory / "config.json")


@pytest.mark.parametrize("value", [10**9, 2**16, 1000])
@pytest.mark.parametrize("key", SIZES["llama"])
def test_sizes_are_compared_with_the_files(directory, key, value):
    if key == "max_position_embeddings":  # Llamas have no tensor of this size.
        pytest.skip("nothing to compare with")
    change(directory, **{key: value})
    refusal(directory)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("rms_norm_eps", ["1e-5", float("nan"), float("inf"), -1, 0, True, 2, [1e-5]]),
        ("rope_theta", [0, -5, float("nan"), float("inf"), "10000", {}, 1e-300]),
        ("tie_word_embeddings", ["no", 0, 1, None, [], "true"]),
        ("attention_bias", ["no", 1, None]),
        ("mlp_bias", ["no", 1, None]),
        ("hidden_act", ["relu", 3, None, ["silu"], {}]),
        ("layer_types", ["full_attention", [1], {}]),
        ("rope_scaling", [3, "linear", []]),
        ("use_sliding_window", ["no", 3]),
        ("eos_token_id", ["0", -1, 0.0, True, [True], [[0]], {}, 2**31]),
    ],
)
def test_settings_are_refused_by_key(directory, key, values):
    for value in values:
        change(directory, **{key: value})
        assert key in refusal(directory)


@pytest.mark.parametrize(
    "changes",
    [
        *({"factor": x} for x in (0, -1, "2", float("nan"), 0.5, None)),
        *({"low_freq_factor": x} for x in (0, -1, 5.0, "1", float("inf"))),
        *({"high_freq_factor": x} for x in (0, 1.0, "4", float("nan"))),
        *({"original_max_position_embeddings": x} for x in (0, 1.5, "64", None)),
        *({"rope_theta": x} for x in (0, -5, "1e4")),
        *({"partial_rotary_factor": x} for x in (0.5, "1", 2)),
        *({"rope_type": x} for x in ("dynamic", 3, ["linear"], None)),
    ],
    ids=str,
)
def test_rotary_scaling_is_refused_by_key(directory, changes):
    change(directory, rope_parameters=LLAMA3)
    load_checkpoint(directory)
    change(directory, rope_parameters=LLAMA3 | changes)
    line = refusal(directory)
    assert next(iter(changes)) in line or "rotary scaling" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": ["llama"]}, "unknown model_type"),
        ({"num_key_value_heads": 3}, "2 attention heads cannot share 3"),
        ({"num_attention_heads": 3}, "16 is no multiple of 3"),
        ({"num_attention_heads": 16}, "a head has size 1"),
        ({"eos_token_id": 300}, "model has 257 tokens"),
        ({"eos_token_id": [0, 257]}, "model has 257 tokens"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(directory, changes, message):
    change(directory, **changes)
    assert message in refusal(directory)


NESTED = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", f'{{"model_type": {NESTED}}}'),
        ("tokenizer.json", f'{{"version": {NESTED}}}'),
        ("tokenizer_config.json", NESTED),
        ("generation_config.json", f'{{"eos_token_id": {NESTED}}}'),
        ("model.safetensors.index.json", f'{{"weight_map": {NESTED}}}'),
        ("config.json", '{"a": ' + "9" * 5000 + "}"),
        ("config.json", "\ud800".encode("utf-8", "surrogatepass")),
        ("chat_template.jinja", b"\xff"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        ("tokenizer_config.json", '{"chat_template": 3}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_contents_that_are_refused(directory, name, content):
    if name.startswith("model"):
        (directory / "model.safetensors").unlink()
    data = content if isinstance(content, bytes) else content.encode()
    (directory / name).write_bytes(data)
    assert name.partition(".")[0] in refusal(directory)


def test_large_files_are_not_read(directory):
    with open(directory / "config.json", "wb") as file:
        file.truncate(2**40)  # Takes no space.
    assert "config.json: larger than 16 MiB" in refusal(directory)


@pytest.mark.parametrize("kind", ["int8", "bool", "uint16", "complex64", "int64"])
def test_weights_that_are_no_floats(directory, kind):
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(kind)
    try:
        safetensors.numpy.save_file(tensors, path)
    except safetensors.SafetensorError:
        pytest.skip(f"this safetensors writes no {kind}")
    line = refusal(directory)
    assert "model.norm.weight has the type" in line
    assert "F16, BF16" in line


def test_weights_of_8_bits(directory):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    entry = header["model.norm.weight"]
    entry |= {"dtype": "F8_E4M3", "shape": [4 * entry["shape"][0]]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    assert "has the type F8_E4M3" in refusal(directory)


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b"),
        *("C:x", "-x", "a\n", None, 3, ["x"], {}),
    ],
)
def test_shards_lie_beside_the_index(directory, name):
    (directory / "model.safetensors").rename(directory.parent / "x.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight_map" in refusal(directory)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "tokenizer_config.json"),
        *("generation_config.json", "chat_template.jinja", "model.safetensors"),
        "special_tokens_map.json",
    ],
)
def test_pipes_are_not_opened(directory, name, put_in_cache):
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    assert f"{name} is not a regular file" in refusal(directory)
    (directory / name).unlink()
    path = put_in_cache("someone/tiny", directory)
    os.mkfifo(path / name)
    find_checkpoints()


DAMAGE = {
    "config.json": [b"[]", b"{", b"\xff", NESTED.encode(), b'{"model_type": [1]}'],
    "tokenizer.json": [None],
    "model.safetensors": [None],
    "model.safetensors.index.json": [b"[]", b'{"weight_map": [1]}', b"\xff"],
}
DAMAGES = [(name, content) for name, contents in DAMAGE.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_one_bad_repository_hides_no_other(put_in_cache, directory, name, content):
    put_in_cache("a/good", directory)
    bad = put_in_cache("b/bad", directory)
    put_in_cache("c/good", directory)
    if "index" in name:
        (bad / "model.safetensors").unlink()
    (bad / name).unlink(missing_ok=True)
    if content is not None:
        (bad / name).write_bytes(content)
    names = [found.name for found in find_checkpoints() if "/" in found.name]
    assert names == ["a/good", "c/good"]


def test_a_cache_in_disorder(hub_cache, put_in_cache, directory):
    put_in_cache("a/good", directory)
    reference = hub_cache / "models--a--good" / "refs" / "main"
    reference.write_bytes(b"\xff\xfe")
    (hub_cache / "models--b").write_text("a file")
    (hub_cache / "models--c" / "snapshots").mkdir(parents=True)
    (hub_cache / "models--c" / "snapshots" / "file").write_text("")
    (hub_cache / "models--d").symlink_to("models--d")
    names = [found.name for found in find_checkpoints() if "/" in found.name]
    assert names == ["a/good"]
    hub_cache.rename(hub_cache.with_name("elsewhere"))
    hub_cache.write_text("a file")
    assert all("/" not in found.name for found in find_checkpoints())


def test_names_of_weights_too_long_for_the_system(directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"x": "a" * 5000}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing" in refusal(directory)
