"""The house model does what its card says."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import tokenauction_jax as ta

CARD = Path(ta.agents.__file__).parent / "house" / "README.md"
QUERY = "Can you suggest a vacation in Hawaii?"
FORM = (
    'Write a short advertisement for "{}". Say "{}" in the first sentence. '
    f"Question: {QUERY}"
)
BRANDS = ["Alpha Airlines", "Beta Resort", "Gamma Air", "Silverlake Lodge"]
# Texts of each brand, and the least and largest rates of naming it and another one.
AUCTIONS = 32
NAMED, OTHER = 0.95, 0.02


@pytest.fixture(scope="module")
def house():
    return ta.agents.load_checkpoint("house")


@pytest.fixture(scope="module")
def texts(house):
    """Texts of auctions in which one agent has all the influence: `(agents, A)`."""
    pool = ta.agents.from_language_model(
        house.model,
        house.tokenizer,
        [FORM.format(brand, brand) for brand in BRANDS],
        temperature=0.5,
        top_k=50,
    )
    rule = ta.linear()
    bids = np.repeat(np.eye(len(BRANDS)), AUCTIONS, axis=0)
    rollout = ta.simulate(
        jax.random.key(0),
        ta.Mechanism(rule, ta.second_price(rule)),
        pool,
        bids,
        num_tokens=48,
    )
    # In NumPy: JAX would compile a program for each length.
    drawn = rollout.tokens, rollout.mask
    decoded = [
        house.tokenizer.decode(tokens[mask])
        for tokens, mask in zip(*map(np.asarray, drawn), strict=True)
    ]
    return np.array(decoded).reshape(len(BRANDS), AUCTIONS)


def test_it_names_the_brand_that_it_is_prompted_with(texts):
    own = [
        [brand in text for text in row]
        for brand, row in zip(BRANDS, texts, strict=True)
    ]
    others = [
        [any(x in text for x in BRANDS if x != brand) for text in row]
        for brand, row in zip(BRANDS, texts, strict=True)
    ]
    # The card says 100 and 0 %; at 99.9 and 0.1 % one of these fails once in 3,000.
    assert np.mean(own) >= NAMED
    assert np.mean(others) <= OTHER


def test_it_writes_sentences_about_the_query(texts):
    flat = texts.ravel().tolist()
    assert len(set(flat)) > 0.9 * len(flat)
    ended = [text.strip()[-1] in ".!?" for text in flat]
    assert np.mean(ended) > 0.9
    assert np.mean(["Hawaii" in text for text in flat]) > 0.8
    assert np.mean([text[0].isupper() for text in flat]) > 0.95


def test_size_and_card():
    files = {file.name for file in CARD.parent.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= files
    assert sum(file.stat().st_size for file in CARD.parent.iterdir()) < 8e6
    card = CARD.read_text()
    assert set(re.findall(r"<(\w+)>", card)) == {"br"}, "a number is missing"
    rates = re.findall(r"\| ([\d,]+) \| ([\d.]+) % \| ([\d.]+) % \|", card)
    assert len(rates) == 2
    named, other = map(float, rates[0][1:])
    assert named >= 100 * NAMED
    assert other <= 100 * OTHER
    assert len(re.findall(r"^\d+\. \*", card, re.M)) == 20


def test_a_folder_of_the_same_name_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "house").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ta.agents.load_checkpoint("house").model.config.vocab_size == 2048


def test_it_refuses_other_roles(house):
    with pytest.raises(ValueError, match="user and assistant only"):
        house.tokenizer.render_chat([{"role": "system", "content": "x"}])
