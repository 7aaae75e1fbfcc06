"""What is told of intervals that cannot be trusted, on real small studies."""

import io

import pytest
from rich.console import Console

import tokenauction_jax as ta
from tokenauction_jax.cli.displays.study import show_results
from tokenauction_jax.reports import figures, pages

TABLE = {"kind": "table", "probs": [[0.9, 0.1], [0.2, 0.8]]}
HEAVY = {"kind": "log_normal", "sigma": 2.0}


pytestmark = pytest.mark.usefixtures("one_device")


def run(**study):
    default = {"agents": TABLE, "num_tokens": 1, "keep_auctions": 0}
    return ta.studies.run(default | study)


def shown(results):
    console = Console(file=io.StringIO(), width=100)
    show_results(console, results)
    return " ".join(console.file.getvalue().split())


def page(results, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "charts", lambda _: [])
    return pages.write_report(results, tmp_path / "report").read_text("utf-8")


def test_a_study_that_is_not_precise_enough_says_so(tmp_path, monkeypatch):
    stop = {"measure": "revenue", "half_width": 1e-3}
    found = run(values=HEAVY, num_auctions=300, stop=stop)
    told = "All auctions ran without knowing expected_revenue to 0.001"
    assert f"{told} in every cell and difference" in shown(found)
    written = page(found, tmp_path, monkeypatch)
    assert f"{told} in every cell and difference" in written
    assert "∞]" in written


def test_a_study_that_is_precise_enough_has_no_warning(tmp_path, monkeypatch):
    values = {"kind": "fixed", "amounts": [2.0, 1.0]}
    stop = {"measure": "revenue", "half_width": 0.5}
    found = run(values=values, num_auctions=10_000, stop=stop)
    assert found.stopped_early
    for text in (shown(found), page(found, tmp_path, monkeypatch)):
        assert "All auctions ran" not in text
        assert "too narrow" not in text


def test_skewed_measures_are_told_of(tmp_path, monkeypatch):
    found = run(values=HEAVY, num_auctions=300)
    assert found.summary.query("measure == 'expected_revenue'")["doubtful"].all()
    assert "of these intervals may be too narrow: the measure is skewed" in shown(found)
    written = page(found, tmp_path, monkeypatch)
    assert '<small class="warning">skewed or rare</small>' in written


def test_symmetric_measures_are_not(tmp_path, monkeypatch):
    found = run(values={"kind": "uniform", "low": 1.0, "high": 2.0}, num_auctions=300)
    assert "too narrow" not in shown(found)
    written = page(found, tmp_path, monkeypatch)
    assert "skewed or rare</small>" not in written
