"""Written directories load again, here and in `transformers`, with the same answers."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_decoder import VARIANTS, make

from tokenauction_jax import files
from tokenauction_jax.agents import load_checkpoint
from tokenauction_jax.agents.checkpoints.export import raw_config, write_directory
from tokenauction_jax.agents.checkpoints.load import CheckpointError
from tokenauction_jax.agents.checkpoints.rotary import read_rotary
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.models.config import Rotary

TEMPLATE = "{% for m in messages %}<bos>{{ m.content }}{% endfor %}"


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return Tokenizer(
        tiny_tokenizer,
        end_tokens=[0],
        chat_template=TEMPLATE,
        special_tokens={"eos_token": "<end>", "bos_token": "<bos>"},
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant, tokenizer, tmp_path):
    changes = {"vocab_size": 300, "context_length": 128, **VARIANTS[variant]}
    if variant != "gpt2":
        changes["rotary"] = read_rotary(6, {"rope_theta": 5000.0})
    model = make(**changes)
    write_directory(tmp_path / "out", model, tokenizer)
    found = load_checkpoint(tmp_path / "out")
    differences = jax.tree.map(
        lambda x, y: np.abs(x - y).max(), nnx.state(model), nnx.state(found.model)
    )
    assert max(jax.tree.leaves(differences)) == 0
    wanted, got = model.config.layers, found.model.config.layers
    for one, other in zip(wanted, got, strict=True):
        angles = [x.rotary.frequencies if x.rotary else () for x in (one, other)]
        np.testing.assert_allclose(*angles, rtol=1e-6)
        plain = [dataclasses.replace(x, rotary=None) for x in (one, other)]
        assert plain[0] == plain[1]
    kept = [dataclasses.replace(x.config, layers=()) for x in (model, found[1])]
    assert kept[0] == kept[1]
    assert found.tokenizer.vocabulary == tokenizer.vocabulary
    assert found.tokenizer.end_tokens == (0,)
    assert found.tokenizer.render_chat("x") == "<bos>x"


@pytest.mark.sweep(8)
def test_transformers_agrees(
    family, save_tiny, oracle, oracle_logits, tmp_path, long_prompt
):
    """What `transformers` saved, loaded and written here, loads there the same."""
    original = save_tiny(family, tmp_path)
    loaded = load_checkpoint(tmp_path)
    base = loaded.raw_config
    write_directory(tmp_path / "out", loaded.model, loaded.tokenizer, base=base)
    again = oracle.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    ).eval()
    tokenizer = oracle.AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer(long_prompt)["input_ids"]
    assert tokens == loaded.tokenizer.encode(long_prompt)
    assert tokenizer.eos_token == "<end>"
    tokens = tokens[:128]  # The longest context of the tiny GPT-2.
    due, found = (oracle_logits(model, tokens) for model in (original, again))
    np.testing.assert_allclose(found, due, atol=1e-5)


def test_half_precision_on_disk(tokenizer, tmp_path):
    model = make(vocab_size=300, rotary=read_rotary(6, {"rope_theta": 1e4}))
    write_directory(tmp_path, model, tokenizer, dtype=np.float16)
    exact, stored = (
        nnx.state(x)["embedding"][...] for x in (model, load_checkpoint(tmp_path).model)
    )
    np.testing.assert_array_equal(stored, exact.astype(np.float16))
    sizes = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert 2 * count < sizes[0] < 2 * count + 10_000


def test_angles_that_nobody_described():
    scaled = make(rotary=Rotary((1.0, 0.1, 0.002))).config
    with pytest.raises(CheckpointError, match="its rotary embedding is scaled"):
        raw_config(scaled)


def test_a_folder_that_cannot_be_written(tokenizer, tmp_path):
    (tmp_path / "file").write_text("kept")
    model = make(vocab_size=300, rotary=read_rotary(6, {"rope_theta": 1e4}))
    with pytest.raises(CheckpointError, match="cannot write"):
        write_directory(tmp_path / "file", model, tokenizer)
    assert (tmp_path / "file").read_text() == "kept"


def test_weights_come_last_and_no_file_in_part(tokenizer, tmp_path, monkeypatch):
    """As a full disk makes the last file fail."""
    model = make(vocab_size=300, rotary=read_rotary(6, {"rope_theta": 1e4}))
    write = files.write

    def full(path, content):
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_directory(tmp_path, model, tokenizer)
    found = {file.name for file in tmp_path.iterdir()}
    assert {"config.json", "tokenizer.json"} < found
    assert not any("safetensors" in name for name in found)
    with pytest.raises(CheckpointError, match="safetensors missing"):
        load_checkpoint(tmp_path)


def test_others_may_read_the_files(tokenizer, tmp_path):
    model = make(vocab_size=300, rotary=read_rotary(6, {"rope_theta": 1e4}))
    write_directory(tmp_path / "out", model, tokenizer)
    plain = tmp_path / "plain"
    plain.touch()
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert modes == {plain.stat().st_mode}
