"""What files from outside may say: refused by name and key before anything is built."""

import json
import os
import shutil
import struct
import time

import gguf
import numpy as np
import pytest
import safetensors.numpy
from tiny_checkpoint import write_checkpoint, write_gguf

from tokenauction_jax.agents.checkpoints import gguf_file
from tokenauction_jax.agents.checkpoints.load import (
    CheckpointError,
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


@pytest.fixture
def directory(tmp_path):
    """A tiny Llama to damage."""
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


def change(directory, name="config.json", **changes):
    path = directory / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def refusal(path):
    """The line with which a checkpoint is refused, at once."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.perf_counter() - start < 5
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_no_gguf_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal("/dev/zero")


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


def gguf_bytes(
    kind, value, key=b"general.architecture", count=1, tensors=b"", number=0
):
    """A file with one entry of metadata."""
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
    header = b"GGUF" + struct.pack("<IQQ", 3, number, count)
    return header + entry + tensors


def tensor(shape, kind=0, offset=0, name=b"token_embd.weight"):
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


NUMBER = (4, struct.pack("<I", 1))


@pytest.mark.parametrize(
    "data",
    {
        "array of 2^60": gguf_bytes(9, struct.pack("<IQ", 0, 2**60)),
        "strings of 2^60": gguf_bytes(9, struct.pack("<IQ", 8, 2**60)),
        "string of 2^60": gguf_bytes(8, struct.pack("<Q", 2**60)),
        "nested arrays": gguf_bytes(9, struct.pack("<IQ", 9, 1) * 9999),
        "nested empty arrays": gguf_bytes(9, struct.pack("<IQIQ", 9, 2**60, 9, 0)),
        "array of nothing": gguf_bytes(9, struct.pack("<IQ", 99, 1)),
        "unknown type": gguf_bytes(13, b"\0" * 99),
        "key of 2^60": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60),
        "2^60 keys": gguf_bytes(*NUMBER, count=2**60),
        "2^60 tensors": gguf_bytes(*NUMBER, number=2**60),
        "not UTF-8": gguf_bytes(8, struct.pack("<Q", 1) + b"\xff"),
        "architecture is a list": gguf_bytes(9, struct.pack("<IQ", 4, 0)),
        "2^32 dimensions": gguf_bytes(
            *NUMBER, number=1, tensors=b"\0" * 8 + b"\xff" * 99
        ),
        "overflow": gguf_bytes(*NUMBER, number=1, tensors=tensor([2**32, 2**32])),
        "beyond": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], offset=2**63)),
        "type": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], kind=999)),
        "block": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], kind=2)),
        "twice": gguf_bytes(*NUMBER, number=2, tensors=2 * tensor([1])) + b"\0" * 99,
        "alignment": gguf_bytes(4, b"\0" * 4, key=b"general.alignment"),
        "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    }.items(),
    ids=lambda item: item[0],
)
def test_gguf_files_that_lie_about_lengths(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data[1])
    refusal(path)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("llama.context_length", [0, "128", 1.5, [128]]),
        ("llama.block_count", [0, 2**31, True]),
        ("llama.embedding_length", [0, 2**31]),
        ("llama.feed_forward_length", [0, "24"]),
        ("llama.attention.head_count", [0, 3, [2, 2], "2"]),
        ("llama.attention.head_count_kv", [0, [2, 2]]),
        ("llama.attention.key_length", [0, 1.5]),
        ("llama.attention.layer_norm_rms_epsilon", [0.0, -1.0, float("nan"), "1"]),
        ("llama.rope.freq_base", [0.0, -5.0, float("inf"), "1"]),
        ("llama.rope.scaling.factor", [0.0, -1.0, float("nan"), 0.5]),
        ("llama.rope.scaling.type", [3]),
        ("tokenizer.ggml.tokens", ["a", [1, 2]]),
        ("tokenizer.ggml.merges", ["a", [1]]),
        ("tokenizer.ggml.token_type", ["a", ["a"], 3]),
        ("tokenizer.ggml.pre", [3]),
        ("tokenizer.ggml.eos_token_id", [257, 2**31, -1, "0", [0]]),
        ("tokenizer.ggml.bos_token_id", [257, -1, "0"]),
        ("tokenizer.ggml.add_bos_token", ["no", 1]),
        ("tokenizer.chat_template", [3, ["a"]]),
    ],
)
def test_gguf_settings_are_refused_by_key(directory, tmp_path, key, values):
    path = tmp_path / "model.gguf"
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_gguf(path, directory, scaled)
    load_checkpoint(path)
    for value in values:
        write_gguf(path, directory, scaled | {key: value})
        assert key.rpartition(".")[2] in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 1000, "1000 layers, but the files hold 20 tensors"),
        ("llama.block_count", 3, "9 parameters without a tensor"),
        ("llama.embedding_length", 2**31 - 1, "no multiple of attention.head_count 2"),
        ("llama.embedding_length", 10**9, "a head has size 500000000"),
        ("llama.embedding_length", 32, "they belong to different checkpoints"),
        ("llama.feed_forward_length", 10**9, "asks for (16, 1000000000)"),
        ("llama.attention.head_count", 16, "a head has size 1"),
        ("llama.attention.head_count", 10**9, "no multiple of attention.head_count"),
        ("llama.attention.head_count_kv", 3, "2 attention heads cannot share 3"),
        ("llama.attention.key_length", 7, "a head has size 7"),
        ("llama.attention.key_length", 10**9, "a head has size 1000000000"),
        ("llama.rope.scaling.type", "long", "unsupported rotary scaling 'long'"),
        ("tokenizer.ggml.tokens", ["a"], "out of vocabulary"),
        ("tokenizer.ggml.merges", ["a zz"], "out of vocabulary"),
        ("tokenizer.ggml.merges", ["a"], "tokenizer.ggml: "),
        ("tokenizer.ggml.pre", "other", "unknown pre-tokenizer 'other'"),
        ("tokenizer.ggml.model", "llama", "tokenizer.ggml has no 'scores'"),
        ("tokenizer.ggml.model", "t5", "unknown tokenizer model 't5'"),
        ("tokenizer.ggml.model", ["gpt2"], "unknown tokenizer model"),
        ("tokenizer.ggml.add_bos_token", True, "no 'bos_token_id'"),
        ("general.architecture", "mamba", "unknown architecture 'mamba'"),
    ],
)
def test_gguf_settings_are_compared_with_the_file(
    directory, tmp_path, key, value, message
):
    write_gguf(tmp_path / "model.gguf", directory, {key: value})
    assert message in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType), ids=lambda k: k.name)
def test_gguf_types_are_floats_or_refused(tmp_path, kind):
    """Every type of the format is read as floats, or refused in one line."""
    items, size = gguf.GGML_QUANT_SIZES[kind]
    infos = tensor([items], kind.value)
    data = gguf_bytes(*NUMBER, number=1, tensors=infos)
    data += b"\0" * (-len(data) % 32) + b"\0" * size
    (tmp_path / "model.gguf").write_bytes(data)
    stored = gguf_file.read_gguf(tmp_path / "model.gguf").tensors["token_embd.weight"]
    try:
        values = stored.read()
    except CheckpointError as error:
        assert f"unknown type {kind.name}" in str(error)  # noqa: PT017
    else:
        assert np.issubdtype(values.dtype, np.floating)
        assert values.shape == stored.shape == (items,)


def test_names_of_weights_too_long_for_the_system(directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"x": "a" * 5000}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing" in refusal(directory)
