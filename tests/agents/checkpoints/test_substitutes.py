"""What may lie in the place of a file or a setting, and what is said of it."""

import json

import pytest
from checkpoint_refusals import refusal

from tokenauction_jax.agents.checkpoints.load import load_checkpoint


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"),
        *("tokenizer_config.json", "generation_config.json", "added_tokens.json"),
        *("special_tokens_map.json", "model.safetensors.index.json"),
    ],
)
def test_pointers_of_git_are_no_files(directory, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    if name.endswith("index.json"):
        (directory / "model.safetensors").unlink()
    (directory / name).write_text(pointer)
    assert f"{name} is a Git LFS pointer: run git lfs pull" in refusal(directory)
    (directory / "model.gguf").write_text(pointer)
    line = refusal(directory / "model.gguf")
    assert "model.gguf is a Git LFS pointer: run git lfs pull" in line


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"]
)
def test_weights_that_only_code_can_read(directory, name):
    (directory / name).write_bytes(b"PK")
    load_checkpoint(directory)
    (directory / "model.safetensors").unlink()
    line = refusal(directory)
    assert f"the weights are in {name}" in line
    assert "save_pretrained(folder, safe_serialization=True)" in line


def test_the_first_llamas_do_not_say_how_long_texts_may_be(directory):
    config = json.loads((directory / "config.json").read_text())
    del config["max_position_embeddings"]
    (directory / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(directory).model.config.context_length == 2048
