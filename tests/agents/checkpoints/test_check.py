"""Trying a checkpoint, and surveying those of a machine."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from tiny_checkpoint import write_gguf

from tokenauction_jax.agents import (
    check_checkpoint,
    load_checkpoint,
    survey_checkpoints,
)
from tokenauction_jax.agents.checkpoints import check


def greedy(directory, count):
    """The most probable tokens, one pass over all before for each."""
    loaded = load_checkpoint(directory)
    tokens = loaded.tokenizer.encode_prompt(check.PROMPT)
    for _ in range(count):
        tokens.append(int(loaded.model(jnp.array([tokens]))[0, -1].argmax()))
    return loaded.tokenizer.decode(tokens[-count:])


def test_what_is_found(directory, oracle):
    found = check_checkpoint(directory, num_texts=2, num_tokens=3)
    weights = safetensors.numpy.load_file(directory / "model.safetensors")
    assert found.num_parameters == sum(array.size for array in weights.values())
    assert found.weight_bytes == 4 * found.num_parameters
    # Keys and values of 2 layers, 2 heads of 8 and 3 tokens.
    assert found.cache_bytes == 2 * 2 * 2 * 8 * 3 * 4
    assert (found.architecture, found.context_length) == ("llama", 128)
    assert found.vocab_size == 257
    assert found.end_tokens == ("<end>",)
    assert found.text == greedy(directory, 3)
    assert found.tokens_per_second > 0
    assert found.oracle == f"transformers {oracle.__version__}"
    assert found.difference < 1e-3  # Its weights are large, and so are its logits.


def test_a_difference_is_seen(directory, oracle, monkeypatch):
    loaded = load_checkpoint(directory)
    loaded.model.norm.weight[...] = 1.1 * loaded.model.norm.weight[...]
    monkeypatch.setattr(check, "load_checkpoint", lambda name: loaded)
    assert check_checkpoint(directory, num_texts=1, num_tokens=1).difference > 1e-2


def test_gguf_files_are_compared(directory, oracle, tmp_path):
    write_gguf(tmp_path / "model.gguf", directory)
    found = check_checkpoint(tmp_path / "model.gguf", num_texts=1, num_tokens=2)
    assert found.architecture == "llama"
    assert found.difference < 1e-3


def test_what_the_oracle_cannot_read_is_not_compared(directory, oracle, monkeypatch):
    def fail(*args, **options):
        raise KeyError("no such family")

    monkeypatch.setattr(oracle.AutoModelForCausalLM, "from_pretrained", fail)
    found = check_checkpoint(directory, num_texts=1, num_tokens=1)
    assert found.difference is None
    assert "cannot read it: 'no such family'" in found.oracle


def test_without_an_oracle_it_says_so(directory, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = check_checkpoint(directory, num_texts=1, num_tokens=1)
    assert found.difference is None
    assert found.oracle == "transformers and torch are not installed"


def test_texts_end_with_the_context(directory):
    length = len(load_checkpoint(directory).tokenizer.encode_prompt(check.PROMPT))
    path = directory / "config.json"
    raw = json.loads(path.read_text()) | {"max_position_embeddings": length + 2}
    path.write_text(json.dumps(raw))
    found = check_checkpoint(directory, num_texts=1, num_tokens=50)
    assert found.context_length == length + 2
    assert np.isfinite(found.tokens_per_second)


def test_a_survey_says_what_keeps_models_from_being_used(put_in_cache, directory):
    put_in_cache("a/good", directory)
    (put_in_cache("b/bad", directory) / "tokenizer.json").unlink()
    other = put_in_cache("c/other", directory) / "config.json"
    other.write_text(json.dumps({"model_type": "mixtral"}))
    found = {entry.name: entry for entry in survey_checkpoints() if "/" in entry.name}
    assert found["a/good"].problem is None
    assert (found["a/good"].context_length, found["a/good"].vocab_size) == (128, 257)
    assert "tokenizer.json missing" in found["b/bad"].problem
    assert found["c/other"].architecture == "mixtral"
    assert "unknown model_type 'mixtral'" in found["c/other"].problem
