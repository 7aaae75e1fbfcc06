"""Text from outside is shown, and does nothing."""

import ast
import csv
import io
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenauction_jax import outside

ANY = st.text(st.characters())  # Surrogates, controls and unassigned ones included.
HIDDEN = [
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    and character not in "\u200c\u200d"
]


@given(ANY)
def test_nothing_hidden_stays(text):
    shown = outside.visible(text, keep="\n")
    assert set(HIDDEN).intersection(shown) <= {"\n"}
    assert outside.visible(shown, keep="\n") == shown
    assert shown.encode().decode() == shown


def test_every_control_character_is_an_escape():
    for character in HIDDEN:
        shown = outside.visible(character)
        assert shown.startswith("\\")
        assert ast.literal_eval(f"'{shown}'") == character


@pytest.mark.parametrize(
    "text",
    [
        *("", "plain", "caf\xe9 \u4e2d\u6587 \u05e9\u05dc\u05d5\u05dd", "a\xa0b"),
        *(
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "[/b] {x} %s",
            "\u0645\u06cc\u200c",
        ),
    ],
)
def test_what_is_harmless_is_left_as_it_is(text):
    assert outside.visible(text) == text


@given(ANY, st.integers(1, 40))
def test_what_is_shortened_keeps_both_ends(text, length):
    short = outside.shortened(text, length)
    assert len(short) <= length
    if len(text) <= length:
        assert short == text
    elif length > 2:
        assert (short[0], short[-1]) == (text[0], text[-1])


@given(st.text(st.characters(), max_size=3000) | st.text("\0\n x", min_size=490))
def test_errors_are_a_line_below_500_characters(text):
    told = str(outside.OutsideError(text))
    assert len(told) < 500 - len("tokenauction: ")
    assert outside.visible(told) == told
    assert "\n" not in told


@pytest.mark.parametrize(
    "value",
    [16**5000, 10**400, "x" * 10**6, list(range(10**5)), {"a": [[[[[1]]]]]}, None, 0.1],
    ids=range(7),
)
def test_any_value_is_quoted_in_short(value):
    assert len(outside.quoted(value)) <= 60


FORMULAS = (
    *("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1+1", "\xa0=1"),
    *("=", "-", "@", "\uff1d1+1", "-x", '=HYPERLINK("http://x")', "\x1b=1", '",=1+1'),
)


@given(st.lists(ANY | st.sampled_from(FORMULAS), min_size=1))
def test_no_cell_of_csv_is_a_formula(texts):
    frame = pd.DataFrame({"=name": texts, "n": -1.5})
    rows = list(csv.reader(io.StringIO(outside.csv(frame))))
    assert rows[0] == ["'=name", "n"]
    assert len(rows) == 1 + len(texts)
    for text, (cell, number) in zip(texts, rows[1:], strict=True):
        assert number == "-1.5"
        assert outside.visible(cell) == cell
        assert cell.removeprefix("'") == outside.visible(text).removeprefix("'")
        if cell.strip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20"):
            float(cell)  # It is a number.


@pytest.mark.parametrize("text", FORMULAS[:-2])
def test_formulas_are_quoted(text):
    cell = outside.csv(pd.DataFrame({"a": [text]})).split("\n", 1)[1]
    assert cell.lstrip('"')[0] in "'\\"


@pytest.mark.parametrize("text", ["-0.5", "+1", "-1e-3", "1", "a=b", "x"])
def test_numbers_and_words_are_cells_as_they_are(text):
    assert outside.csv(pd.DataFrame({"a": [text]})) == f"a\n{text}\n"
