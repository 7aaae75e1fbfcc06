"""Scorecards: whose rows do not depend on what else was run, and what is refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax import suite
from tokenauction_jax.cli import main
from tokenauction_jax.suite import mechanisms, scorecard, yardsticks

DOCS = pathlib.Path(__file__).parents[2] / "docs"
MINE = """
import tokenauction_jax as ta

rule = ta.linear()
mechanism = ta.Mechanism(rule, ta.second_price(rule))
reply_rule = ta.replies.best_of()
auction = ta.replies.reply_auction(reply_rule, num_replies=16)


@ta.record
class Failing:
    name = "failing"

    def write(self, key, pool, bids, **options):
        raise RuntimeError("no text")


failing = Failing()
number = 3
"""


@pytest.fixture(autouse=True)
def few(one_device, monkeypatch):
    monkeypatch.setattr(yardsticks, "_QUICK", 32)


def run(names, out=None, **options):
    options = {"quick": True, "only": ["misreports"]} | options
    return suite.run(names, out, **options)


def test_rows_do_not_depend_on_what_else_runs(tmp_path):
    heard = []
    together = run(
        ["linear", "best_of"], tmp_path / "one", listen=lambda *told: heard.append(told)
    )
    assert [told[:2] for told in heard] == [
        ("linear", "misreports"),
        ("best_of", "misreports"),
    ]
    run(["linear"], tmp_path / "two")
    heard.clear()
    apart = run(
        ["linear", "best_of"], tmp_path / "two", listen=lambda *told: heard.append(told)
    )
    # The row that was there is not run again.
    assert [told[0] for told in heard] == ["best_of"]
    assert apart == together == scorecard.read(tmp_path / "two" / "scorecard.json")
    for name in ("scorecard.json", "scorecard.md"):
        one, two = (tmp_path / x / name for x in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    page = (tmp_path / "one" / "scorecard.md").read_text()
    assert page.count("| `best_of` |") == 2
    assert "## misreports" in page
    row = together.find("best_of", "misreports")
    assert row.forward_passes.mean == 3 * 8 * 16
    assert row.lying_gain.mean <= row.lying_gain.high
    assert 0 < row.share.mean < 1
    frame = together.to_pandas()
    assert frame["mechanism"].tolist() == ["linear", "best_of"]
    assert frame["share.mean"].iloc[1] == row.share.mean


def test_a_row_is_what_the_study_says():
    study = yardsticks.study("misreports", mechanisms.section("linear"), quick=True)
    results = ta.studies.run(study)
    row = scorecard.row("linear", "misreports", True, "", results)
    utility = results.summary.query("measure == 'log_ratio_utility'")
    utility = utility.pivot_table(index="bids.factor", columns="agent", values="mean")
    gains = utility["0"] - utility.loc["1", "0"]
    assert row.worst_off.mean == utility.loc["1"].min() < utility.loc["1"].max()
    found = row.lying_gain.mean, row.absence_gain.mean
    wanted = gains[["0.5", "2"]].max(), gains["0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert gains["0.5"] != gains["2"]
    revenue = results.summary.query("measure == 'expected_revenue' and cell == 0")
    assert row.revenue.mean == revenue["mean"].item() > 0


def test_mechanisms_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    names = [f"{file}:{name}" for name in ("mechanism", "reply_rule", "auction")]
    known = run(["linear", "best_of", *names])
    expected = [known.find(name, "misreports") for name in ("linear", "best_of")]
    for name, wanted in zip(names, [*expected, expected[1]], strict=True):
        found = known.find(name, "misreports")
        changes = {"mechanism": wanted.mechanism, "digest": wanted.digest}
        assert dataclasses.replace(found, **changes) == wanted
    for name, message in (
        ("failing", "failing by misreports: RuntimeError: no text"),
        ("number", "is not a Mechanism, a ReplyMechanism or a TextAuction"),
        ("missing", "has no attribute 'missing'"),
    ):
        with pytest.raises(suite.SuiteError, match=message):
            run([f"{file}:{name}"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mosaik", "is not a mechanism .*did you mean 'mosaic"),
        ("linear+clark", "no 'clark' here, did you mean 'clarke'"),
        ("log_linear+second_price", "second_price"),
        ("mosaic(0)", "got 0"),
        ("power_mean(0.5)", "has no default payment"),
    ],
)
def test_what_is_no_mechanism(name, message):
    with pytest.raises(suite.SuiteError, match=message):
        run([name])


def test_other_scorecards_are_refused(tmp_path):
    path = tmp_path / "scorecard.json"
    for text, message in (
        ("{", "is no scorecard"),
        ('{"rows": [1]}', "is no scorecard"),
        ('{"rows": [], "more": 1}', "is no scorecard"),
    ):
        path.write_text(text)
        with pytest.raises(suite.SuiteError, match=message):
            run(["linear"], tmp_path)
    content = json.loads((DOCS / "scorecard.json").read_text())
    content["rows"][0]["version"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(suite.SuiteError, match="is of version 0 of the suite"):
        run(["linear"], tmp_path)
    with pytest.raises(suite.SuiteError, match="no yardstick 'easier'"):
        run(["linear"], only=["easier"])


def test_every_yardstick_is_a_study_that_all_built_in_mechanisms_go_through():
    for name in suite.YARDSTICKS:
        for quick in (True, False):
            for mechanism in suite.BUILT_IN:
                rule = mechanisms.section(mechanism)
                study = yardsticks.study(name, rule, quick)
                assert study.description
                assert study.reference == "mean"


def test_the_page_of_the_documentation_is_that_of_its_numbers():
    card = scorecard.read(DOCS / "scorecard.json")
    assert card.to_markdown() == (DOCS / "scorecard.md").read_text()
    assert card.mechanisms == list(suite.BUILT_IN)
    cases = {(row.mechanism, row.yardstick) for row in card.rows}
    assert len(cases) == len(suite.BUILT_IN) * len(suite.YARDSTICKS)
    assert not any(row.quick for row in card.rows)
    # That of no auction is the reference itself.
    for row in card.rows:
        if row.mechanism == "none" and row.share is not None:
            assert row.share.low < 0 < row.share.high


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["linear", "mosaic", "segment", "none"])
def test_numbers_of_the_documentation_come_out_again(mechanism):
    card = scorecard.read(DOCS / "scorecard.json")
    found = suite.run([mechanism], only=["easy", "misreports"])
    for row in found.rows:
        wanted = card.find(mechanism, row.yardstick)
        both = suite.Scorecard((row,)), suite.Scorecard((wanted,))
        assert both[0].to_markdown() == both[1].to_markdown()


def test_the_command(tmp_path, capsys):
    main(["suite", "list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in suite.YARDSTICKS)
    with pytest.raises(SystemExit) as caught:
        main(["suite", "run", "mosaik", "--out", str(tmp_path / "suite")])
    assert caught.value.code == 2
    assert "is not a mechanism" in capsys.readouterr().err
    assert not (tmp_path / "suite").exists()


def test_it_is_part_of_the_package():
    assert ta.suite is suite
