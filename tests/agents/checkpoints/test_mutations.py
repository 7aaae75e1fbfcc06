"""Damaged files of every kind: an answer or one line, soon and in little memory."""

import json
import shutil
import time

import damaged_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import write_checkpoint, write_gguf

from tokenauction_jax.agents.checkpoints.load import CheckpointError, load_checkpoint
from tokenauction_jax.agents.checkpoints.peft import load_adapter, save_adapter
from tokenauction_jax.agents.models.lora import new_adapter

SECONDS, MEBIBYTES = 30, 1024
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m.content | trim }}"
    "{% endif %}{% endfor %}{{ eos_token }}"
)
SHARD, INDEX = "model-00001-of-00001.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a directory, a sharded one, a GGUF file and an adapter."""
    folder = tmp_path_factory.mktemp("sound")
    plain = folder / "plain"
    write_checkpoint(plain)
    (plain / "chat_template.jinja").write_text(TEMPLATE)
    (plain / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    model = load_checkpoint(plain).model
    save_adapter(
        folder / "adapter", new_adapter(jax.random.key(0), model, 2), model, "x"
    )
    shutil.copytree(plain, folder / "shards")
    (folder / "shards" / "model.safetensors").rename(folder / "shards" / SHARD)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": SHARD, "x": SHARD}}
    (folder / "shards" / INDEX).write_text(json.dumps(index))
    write_gguf(folder / "model.gguf", plain)
    pieces = {
        "model": "llama",
        "merges": None,
        "scores": np.arange(0.0, -257, -1).tolist(),
        "bos_token_id": 0,
    }
    pieces = {f"tokenizer.ggml.{key}": value for key, value in pieces.items()}
    write_gguf(folder / "pieces.gguf", plain, pieces)
    added = {"0": {"content": "<end>", "special": True}, "88": {"content": "x"}}
    added = {"added_tokens_decoder": added, "eos_token": {"content": "<end>"}}
    (folder / "shards" / "tokenizer_config.json").write_text(json.dumps(added))
    return folder


KINDS = {
    "plain/config.json": damaged_files.mutated_json,
    "plain/generation_config.json": damaged_files.mutated_json,
    "plain/tokenizer.json": damaged_files.mutated_tokenizer,
    "plain/tokenizer_config.json": damaged_files.mutated_json,
    "plain/chat_template.jinja": damaged_files.mutated_template,
    "plain/model.safetensors": damaged_files.mutated_safetensors,
    f"shards/{INDEX}": damaged_files.mutated_json,
    "shards/tokenizer_config.json": damaged_files.mutated_json,
    "pieces.gguf": lambda rng, data: damaged_files.mutated_bytes(rng, data, 9000),
    "model.gguf": lambda rng, data: damaged_files.mutated_bytes(rng, data, 6000),
    "adapter/adapter_config.json": damaged_files.mutated_json,
    "adapter/adapter_model.safetensors": damaged_files.mutated_safetensors,
}


def answer(folder, name, base):
    """Does what a run does with a model or an adapter, except to compile it."""
    if name.startswith("adapter"):
        return load_adapter(folder / "adapter", base)
    place = name.partition("/")[0]
    model, tokenizer = load_checkpoint(folder / place)[1:3]
    tokens = tokenizer.encode_prompt("Two weeks in Hawaii, naïvely?\n")
    tokenizer.decode(tokens)
    tokenizer.pieces(tokens[:99])  # Of what a model writes, never of prompts.
    return jax.eval_shape(lambda tokens: model(tokens), jnp.zeros((1, 3), jnp.int32))


@pytest.mark.parametrize("name", KINDS)
def test_sound_files_are_answered(sound, name):
    answer(sound, name, load_checkpoint(sound / "plain").model)


@pytest.mark.parametrize(
    "cases", [range(25), pytest.param(range(500), marks=pytest.mark.slow)], ids=len
)
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_answer_or_are_refused(sound, tmp_path, name, cases):
    resource = pytest.importorskip("resource")
    base = load_checkpoint(sound / "plain").model
    folder = tmp_path / "copy"
    shutil.copytree(sound, folder)
    data = (sound / name).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusals = []
    for case in cases:
        rng = np.random.default_rng([list(KINDS).index(name), case])
        (folder / name).write_bytes(KINDS[name](rng, data))
        start = time.perf_counter()
        try:
            answer(folder, name, base)
        except CheckpointError as error:
            refusals.append(str(error))
        except BaseException as error:  # Rust code ends in a `BaseException`.
            raise AssertionError(f"case {case} of {name}") from error
        assert time.perf_counter() - start < SECONDS, case
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEBIBYTES * 2**10
    assert len(refusals) > len(cases) / 10  # Or this would test nothing.
    assert all(len(line) < 500 and "\n" not in line for line in refusals)
