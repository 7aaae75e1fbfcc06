"""The commands that issue receipts and replay them."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import refusal
from tiny_checkpoint import write_checkpoint

from tokenauction_jax import receipts
from tokenauction_jax.cli.main import main

pytestmark = pytest.mark.usefixtures("one_device")

SCENARIO = """
query = "Where to?"
model = '{model}'
num_auctions = 3
num_tokens = 5
rules = ["linear"]
[[agents]]
name = "Alpha"
prompt = "{{query}} Alpha!"
[[agents]]
name = "Beta"
prompt = "{{query}} Beta."
bid = 3.0
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenario")
    model = write_checkpoint(folder / "tiny")
    file = folder / "scenario.toml"
    file.write_text(SCENARIO.format(model=model))
    return file


@pytest.fixture(scope="module")
def receipt(scenario):
    file = scenario.parent / "receipt.json"
    main(["receipt", str(scenario), "--auction", "1", "--out", str(file)])
    return file


def run(*arguments):
    """The exit code of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def edited(receipt, tmp_path, change):
    """A copy of a receipt in which something was changed."""
    content = json.loads(receipt.read_text())
    change(content)
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(content))
    return file


def test_a_receipt_is_shown_and_replayed(capsys, receipt, tmp_path):
    page = tmp_path / "receipt.html"
    assert run("receipt", receipt, "--out", page) == 0
    out = capsys.readouterr().out
    for word in ("Auction 1, seed 0: linear, payment second_price", "Beta", "charged"):
        assert word in out
    assert f"Written to {page}" in out.replace("\n", "")
    assert "Receipt of auction 1" in page.read_text()
    assert run("replay", receipt) == 0
    size = len(receipts.read(receipt).tokens)
    out = capsys.readouterr().out
    assert out == f"Auction 1, seed 0: all of {size} tokens agree, bit for bit\n"


def test_options_are_those_of_simulate(capsys, scenario, tmp_path):
    file = tmp_path / "receipt.json"
    options = ["--bids", "2", "1", "--seed", "5", "--share", "0.25"]
    assert run("receipt", scenario, *options, "--out", file) == 0
    found = receipts.read(file)
    assert found.seed == 5
    assert found.bids == pytest.approx((0.75, 2.25))


def test_an_edited_receipt_is_rejected(capsys, receipt, tmp_path):
    def pay_less(content):
        content["tokens"][2]["payments"][1] = -1.0

    assert run("replay", edited(receipt, tmp_path, pay_less)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "token 2: payments of Beta is -1.0 in the receipt and " in line
    for place, value in [("seed", 1), ("bids", [1.0, 2.0]), ("auction", 0)]:
        wrong = edited(receipt, tmp_path, lambda x, new={place: value}: x.update(new))
        assert run("replay", wrong) == 1
        assert f"is not right: {place}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no receipt"),
        ("not JSON", "is no receipt"),
        ("[]", "is no receipt"),
        ("[" * 100_000, "is no receipt"),
        ('{"format": "tokenauction receipt 2"}', "another version"),
        ('{"format": "tokenauction receipt 1"}', "scenario: Field required"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_receipt(capsys, tmp_path, content, message):
    file = tmp_path / "receipt.json"
    if content is not None:
        file.write_text(content)
    assert message in refusal(capsys, "replay", file)
    assert message in refusal(capsys, "receipt", file)


def test_missing_keys(capsys, receipt, tmp_path):
    file = edited(receipt, tmp_path, lambda x: x["tokens"][0].pop("log_prob"))
    assert "tokens.0.log_prob: Field required" in refusal(capsys, "replay", file)


def test_a_model_that_is_gone(capsys, receipt, tmp_path):
    content = json.loads(receipt.read_text())
    content["scenario"]["model"] = "/nowhere"
    found = receipts.Receipt.from_dict(content).sealed()
    found.write(tmp_path / "gone.json")
    assert "/nowhere" in refusal(capsys, "replay", tmp_path / "gone.json")


def test_receipts_are_of_the_texts_of_a_simulation(capsys, scenario, tmp_path):
    """An auction alone has the tokens that it has among others."""
    folder, file = tmp_path / "demo", tmp_path / "receipt.json"
    assert run("simulate", scenario, "--sweep", "--out", folder) == 0
    asked = ["--auction", "1", "--share", "0.25", "--out", file]
    assert run("receipt", folder, *asked) == 0
    found = receipts.read(file)
    table = pd.read_parquet(folder / "texts.parquet").set_index(["share", "auction"])
    row = table.loc[0.25, 1]
    np.testing.assert_allclose(found.bids, row["bids"], rtol=1e-6)
    assert found.text == row["text"]
    kept = found.tokens[: len(row["tokens"])]  # Without the end token.
    assert len(found.tokens) - len(kept) in (0, 1)
    assert [token.token for token in kept] == list(row["tokens"])
    assert [token.piece for token in kept] == list(row["pieces"])
    close = {"rtol": 1e-4, "atol": 1e-6}
    for one, other in zip(kept, row["attribution"], strict=True):
        np.testing.assert_allclose(one.attribution, other, **close)
    last = found.tokens[-1]
    np.testing.assert_allclose(last.total_payments, row["payments"], **close)
    expected = row["expected_payments"]
    np.testing.assert_allclose(last.total_expected_payments, expected, **close)
    capsys.readouterr()
    line = refusal(capsys, "receipt", folder, "--seed", "1")
    assert "is a simulation that ran: leave out --seed" in line
    (folder / "manifest.json").write_text("{}")
    assert "cannot read" in refusal(capsys, "receipt", folder)


def test_folders_of_studies(capsys, receipt, tmp_path, monkeypatch):
    asked = []

    def of_cell(*arguments, **numbers):
        asked.append((*arguments, numbers))
        return receipts.read(receipt)

    monkeypatch.setattr(receipts, "of_cell", of_cell)
    file = tmp_path / "receipt.json"
    numbers = ["--cell", "2", "--auction", "4"]
    assert run("receipt", tmp_path, *numbers, "--out", file) == 0
    assert asked == [(tmp_path, {"cell": 2, "auction": 4})]
    assert receipts.read(file) == receipts.read(receipt)
    capsys.readouterr()
    assert "leave out --rule" in refusal(capsys, "receipt", tmp_path, "--rule", "x")


def test_folders_of_nothing(capsys, tmp_path):
    assert "is not the folder of a study" in refusal(capsys, "receipt", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "liner"], "no rule 'liner' here"),
        (["--auction", "-1"], "auction is -1"),
        (["--cell", "0"], "is a scenario: leave out --cell"),
        (["--share", "2"], "less than or equal to 1"),
        (["--out", "receipt.txt"], "neither FILE.json nor FILE.html"),
        (["--out", "/nowhere/receipt.json"], "is not a folder"),
        (["--bids", "1"], "--bids has 1 numbers"),
    ],
)
def test_bad_arguments(capsys, scenario, arguments, message):
    assert message in refusal(capsys, "receipt", scenario, *arguments)


def test_bad_arguments_of_files(capsys, receipt, tmp_path):
    assert "leave out --auction" in refusal(capsys, "receipt", receipt, "--auction", 1)
    assert "exists" in refusal(capsys, "receipt", receipt, "--out", receipt)
    assert "no scenario" in refusal(capsys, "receipt", "hawai")
    assert "tolerance is -1" in refusal(capsys, "replay", receipt, "--tolerance", -1)
