import io

import numpy as np
import pytest
from rich.console import Console

from tokenauction_jax.cli.displays import numbers
from tokenauction_jax.cli.displays import progress as live
from tokenauction_jax.reports import labels
from tokenauction_jax.statistics.moments import Statistics
from tokenauction_jax.studies.plan import Plan
from tokenauction_jax.studies.reading import validate_study
from tokenauction_jax.studies.session import Progress

STUDY = validate_study({"factors": {"values.sigma": [0.5, 1.0]}, "num_auctions": 100})
PLAN = Plan(10, 10, 100, [["0", "1", "2"]] * 2, [False, False])


def progress(done, rate=20.0):
    shape = (2, 50, len(PLAN.columns))
    measures = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    statistics = Statistics.of(
        measures, np.ones(shape[:2], bool), np.zeros((2, shape[2]), bool), []
    )
    return Progress(np.array(done), 100, rate, statistics)


def shown(terminal, monkeypatch, *states):
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=100, highlight=False
    )
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    with live.StudyProgress(console, STUDY, PLAN) as display:
        for state in states:
            display.show(state)
    return console.file.getvalue()


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    text = shown(False, monkeypatch, progress([50, 30]), progress([100, 100]))
    first, last = text.splitlines()
    assert first.startswith("80 of 200 auctions, 20 auctions/s, 6.0 s left; widest")
    assert "welfare/total_variation" in first
    assert "±" in first
    assert last.startswith("200 of 200 auctions, 20 auctions/s; widest")
    assert "\x1b" not in text


def test_on_a_terminal_every_cell_has_a_row(monkeypatch):
    text = shown(True, monkeypatch, progress([50, 30]))
    for part in ("cell", "auctions", "welfare/total_variation", "0.5", "1", "50", "30"):
        assert part in text


def test_nothing_is_invented_before_the_first_chunk(monkeypatch):
    start = Progress(np.zeros(2, int), 100, 0.0, None)
    text = shown(False, monkeypatch, start)
    assert text.strip() == "0 of 200 auctions, 0 auctions/s"


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (123.4, 56.0, "123 ± 56"),
        (0.5, 0.0, "0.5 ± 0"),
        (-0.0, 0.0, "0 ± 0"),
        (-1e-9, 3e-4, "0.00000 ± 0.00030"),
        (np.nan, np.nan, labels.DASH),
        (3.0, np.nan, "3"),
    ],
)
def test_numbers_have_the_digits_that_they_deserve(mean, half, expected):
    assert labels.pair(mean, half) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(3.21, "3.2 s"), (123, "2:03"), (3723, "1:02:03")]
)
def test_durations(seconds, expected):
    assert numbers.duration(seconds) == expected
