"""The corpus says what it should: every ad is for its brand and answers its query."""

import importlib.util
import itertools
import json
import random
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "house_model"
COUNT = 4000


@pytest.fixture(scope="module")
def corpus():
    spec = importlib.util.spec_from_file_location("corpus", FOLDER / "corpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(corpus):
    return list(corpus.examples(7, COUNT))


def test_brands_and_trades(corpus):
    assert len(corpus.BRANDS) >= 12
    assert len(set(corpus.BRANDS.values())) >= 4
    assert {"Alpha Airlines", "Beta Resort", "Gamma Air"} <= set(corpus.BRANDS)


def test_ads_name_their_brand_early_and_no_other(corpus, rows):
    for row in rows:
        if "begun" in row:
            continue
        text, brand = row["completion"], row["brand"]
        assert brand in text
        assert brand in row["prompt"]
        named = text.index(brand) + len(brand)
        assert len(text[:named].split()) <= 12
        assert not re.search(r"[.?!] ", text[:named])
        for other in corpus.BRANDS:
            assert other == brand or not re.search(rf"\b{other}\b", text)


def test_texts_that_others_began_come_to_the_brand(rows):
    begun = [row for row in rows if "begun" in row]
    assert 0.1 * COUNT < len(begun) < 0.3 * COUNT
    for row in begun:
        assert row["brand"] in row["begun"] + row["completion"]
        assert row["completion"][0] == " "
        assert row["begun"][-1] != " "


def test_texts_are_clean(rows):
    for row in rows:
        text = row.get("begun", "") + row["completion"]
        assert text.isascii()
        assert text[-1] in ".?!"
        assert text[0].isupper()
        assert not re.search(r"  |\n|\.\.|[{}\[\]|]| [,.?!]|\b(\w+) \1\b", text), text
        assert 12 <= len(text.split()) <= 80


def test_wording_varies(rows):
    whole = [row["completion"] for row in rows if "begun" not in row]
    assert len(set(whole)) > 0.95 * len(whole)
    openings = {" ".join(text.split()[:5]) for text in whole}
    assert len(openings) > 1000


def test_ads_answer_their_query(corpus, rows):
    """Nearly always the place that a prompt asks about."""
    asked = [
        (place[1], row.get("begun", "") + row["completion"])
        for row in rows
        if (place := re.search(r"(?:vacation in|flight to) ([A-Z]\w+)", row["prompt"]))
    ]
    assert len(asked) > 100
    assert sum(place in text for place, text in asked) > 0.95 * len(asked)


def test_held_out_brands_are_new(corpus, rows):
    seen = {row["brand"].split()[0] for row in rows}
    rng = random.Random(0)
    reserved = [corpus.synthetic_brand(rng, "coffee", True) for _ in range(300)]
    new = [x for x in reserved if corpus.is_reserved(x.split()[0])]
    assert 100 < len(new) < 200
    assert seen.isdisjoint(x.split()[0] for x in new)
    for trade in set(corpus.BRANDS.values()):
        made_up = corpus.synthetic_brand(rng, trade)
        assert made_up not in corpus.BRANDS


def test_same_seed_same_corpus(corpus, rows):
    again = itertools.islice(corpus.examples(7, COUNT), 50)
    assert json.dumps(rows[:50]) == json.dumps(list(again))
    assert next(corpus.examples(8, 1)) != rows[0]
