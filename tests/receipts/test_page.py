"""The page and the terminal table of a receipt, with names that are no HTML."""

import io
import re
from html.parser import HTMLParser

import pytest

from tokenauction_jax.cli.displays import receipt as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.outside import visible
from tokenauction_jax.receipts import Receipt, Token
from tokenauction_jax.reports import labels

HOSTILE = '<script>document.title = "taken"</script>', "B\x1b[2J\"'&<img src=x>"
PIECES = ("Fly", " <b>Alpha</b>", "\n", "\x1b[2J & more", "")


def receipt(tokenizer=True):
    """Written by hand, which only a replay would mind."""
    tokens = [
        Token(
            position=i,
            token=10 + i,
            piece=piece if tokenizer else None,
            log_prob=-0.5 * i,
            log_p=(-1.0, float("-inf")),
            weights=(0.25, 0.75),
            attribution=(0.9, 0.1) if i % 2 else (0.2, 0.8),
            payments=(0.125, 0.0),
            expected_payments=(0.0625, 2.5),
            total_payments=(0.125 * (i + 1), 0.0),
            total_expected_payments=(0.0625 * (i + 1), 2.5 * (i + 1)),
        )
        for i, piece in enumerate(PIECES)
    ]
    environment = {"backend": "cpu", "versions": {"jax": "0.9"}}
    return Receipt(
        scenario={"query": "Where <to>?", "agents": []},
        rule="linear",
        share=None,
        setting=None,
        auction=7,
        aggregation="linear",
        payment_rule="second_price",
        seed=3,
        num_tokens=9,
        agents=HOSTILE,
        bids=(1.0, 3.0),
        dtype="float32",
        sampler="race",
        digests={},
        commits={},
        environment=environment | {"tokenauction_jax": "0.1.0"},
        valid=True,
        text="".join(PIECES) if tokenizer else None,
        tokens=tuple(tokens),
    ).sealed()


class Reader(HTMLParser):
    """Collects ids, links and rows of tables, and checks that tags close."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.tables, self.told = [], [], [], []
        self._open = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[x] for x in ("src", "href") if x in attrs]
        names = ("aria-labelledby", "aria-describedby")
        self.told += [attrs[x] for x in names if x in attrs]
        if tag == "th":
            assert attrs["scope"] in ("col", "row", "rowgroup")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def page():
    return receipt().to_html()


def test_the_page_needs_no_other_file(page):
    reader = Reader(page)
    assert all(link.startswith("#") for link in reader.links)
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert not re.search(r"@import|url\(", page)


def test_names_and_pieces_are_text(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "&lt;b&gt;Alpha&lt;/b&gt;" in page


def test_the_tables_say_what_was_paid(page):
    totals, tokens = Reader(page).tables
    assert len(totals) == 3
    assert totals[1][1:] == ["1", "0.25", "2.4", "0.625", "0.3125"]
    assert totals[2][1:] == ["3", "0.75", "2.6", "0", "12.5"]
    head, *rows = tokens
    assert len(rows) == 2 * len(PIECES)
    # The first of two rows has what both agents have in common.
    assert len(rows[0]) == len(head) == len(rows[1]) + 5
    first = ["0", "Fly", "10", "1", "0", visible(HOSTILE[0])]
    paid = ["0.3679", "0.25", "0.2", "0.125", "0.0625", "0.125", "0.0625"]
    assert rows[0] == first + paid
    impossible = ["0", "0.75", "0.8", "0", "2.5", "0", "2.5"]
    assert rows[1] == [visible(HOSTILE[1]), *impossible]
    assert [row[1] for row in rows[::2]][2:] == ["\\n", "\\x1b[2J & more", "(end)"]


def test_what_it_follows_from_is_told(page):
    assert "Where &lt;to&gt;?" in page
    assert "environment.versions.jax" in page


def test_tables_have_titles_and_notes(page):
    reader = Reader(page)
    assert len(reader.told) == 4
    assert set(reader.told) <= set(reader.ids)


def test_tokens_of_tables_are_numbers():
    text = re.sub("<[^>]*>", "", receipt(tokenizer=False).to_html())
    assert "10 11 12 13 14" in text


@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_terminal_shows_each_token(tokenizer):
    console = Console(file=io.StringIO(), width=100)
    display.show_receipt(console, receipt(tokenizer))
    out = console.file.getvalue()
    assert visible(out, keep="\n") == out
    assert "Auction 7, seed 3: linear, payment second_price" in out
    for word in ("0.3679", "0.0625", labels.number(0.625), "tokens", "owed"):
        assert word in out
    assert ("(end)" in out) == tokenizer
    assert ("14" in out) != tokenizer
