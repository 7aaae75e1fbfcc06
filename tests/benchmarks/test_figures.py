"""How times are kept, shown and compared."""

import dataclasses
import doctest
import io
import json
import os
import time

import pytest

from benchmarks import comparison, figures, harness, plot, tables
from benchmarks.figures import Case, Figure, Part, Report


def report(slowdown=1.0, **environment):
    """Two cases along A, with a peer and a limit; ours slowed down."""
    cases = []
    for size in (10, 100):
        ours = [slowdown * x for x in (1.0, 1.1, 0.9)]
        shown = [
            Figure("ours", "ours", size, ours, 3.0),
            Figure("NumPy", "peer", size, [2.0, 2.2, 1.8], 2.0, memory=2**21),
            Figure("copy", "limit", 2 * size, [0.5, 0.55, 0.45], 1.0),
        ]
        sizes = {"A": size, "T": 4}
        cases.append(Case(f"A {size}", "auction", sizes, shown, along=["A"]))
    part = Part("step", cases, ["torch is not installed"], 2.5, 2**30, None)
    return Report(1, "2026-01-02 03:04:05", True, environment, [part])


def printed(show, *arguments):
    screen = tables.console()
    screen.file = io.StringIO()
    show(screen, *arguments)
    return screen.file.getvalue()


def test_json_keeps_everything(tmp_path):
    path = tmp_path / "a.json"
    figures.write(path, report(devices=["cpu"]))
    assert figures.read(path) == report(devices=["cpu"])


DAMAGE = [
    (lambda x: x["parts"][0]["cases"][0]["figures"][0].update(seconds=[]), "seconds"),
    (lambda x: x["parts"][0]["cases"][0]["figures"][0].update(seconds=[-1]), "seconds"),
    (lambda x: x["parts"][0]["cases"][0]["figures"][0].update(count=0), "count"),
    (lambda x: x["parts"][0]["cases"][0].update(figures=[]), "figures"),
    (lambda x: x.update(format=2), "format"),
    (lambda x: x.pop("parts"), "parts"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGE, ids=range(len(DAMAGE)))
def test_other_files_are_refused(tmp_path, damage, named):
    path = tmp_path / "a.json"
    content = dataclasses.asdict(report())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{named}.*name a file that --out wrote"):
        figures.read(path)
    path.write_text("no JSON")
    with pytest.raises(ValueError, match="no figures of python -m benchmarks"):
        figures.read(path)
    with pytest.raises(ValueError, match=r"cannot read .*b\.json"):
        figures.read(tmp_path / "b.json")


def test_ratios_are_by_rounds():
    """A slow round slows both, and their ratio not at all."""
    shown = [
        Figure("ours", "ours", 2, [1.0, 50.0, 1.0], 1.0),
        Figure("NumPy", "peer", 4, [6.0, 300.0, 6.0], 1.0),
    ]
    case = Case("A 2", "auction", {"A": 2, "T": 5}, shown)
    assert case.ratio(shown[1]) == pytest.approx((3, 3, 3))
    assert shown[0].each == pytest.approx((0.5, 0.5, 25))
    assert case.tokens_per_second(shown[0]) == pytest.approx((10, 0.2, 10))
    by_token = dataclasses.replace(case, unit="token")
    assert by_token.tokens_per_second(shown[0]) == pytest.approx((2, 0.04, 2))


def test_an_equal_run_has_no_regression():
    found = comparison.changes(report(), report())
    assert len(found) == 6
    assert not any(change.verdict for change in found)
    assert comparison.regressions(found) == []
    shown = printed(comparison.show, report(), found, report())
    assert "6 figures within the spread, 0 slower, 0 faster" in shown


@pytest.mark.parametrize(
    ("slowdown", "verdict"),
    [(1.5, "slower"), (0.5, "faster"), (1.15, ""), (0.9, "")],
)
def test_what_is_beyond_the_spread_is_marked(slowdown, verdict):
    old, new = report(jax="1"), report(slowdown, jax="2")
    found = comparison.changes(old, new)
    ours = [change for change in found if change.new.role == "ours"]
    assert [change.verdict for change in ours] == [verdict] * 2
    assert not any(change.verdict for change in found if change not in ours)
    marked = ours if verdict == "slower" else []
    assert comparison.regressions(found) == marked
    shown = printed(comparison.show, old, found, new)
    assert "jax: 1 -> 2" in shown
    assert "limits take 1.00 times" in shown
    rows = [line for line in shown.splitlines() if line.endswith(verdict or "?")]
    assert all(str(slowdown) in row for row in rows)
    assert len(rows) == (2 if verdict else 0)


def test_a_slower_peer_is_no_regression():
    old, new = report(), report()
    new.parts[0].cases[0].figures[1].seconds[:] = [20.0, 21.0, 22.0]
    found = comparison.changes(old, new)
    assert [x.place[2] for x in found if x.verdict == "slower"] == ["NumPy"]
    assert comparison.regressions(found) == []


def test_other_sizes_have_no_counterpart():
    new = report()
    new.parts[0].cases[:] = new.parts[0].cases[:1]
    found = comparison.changes(report(), new)
    assert len(found) == 3
    shown = printed(comparison.show, report(), found, new)
    assert "3 without a counterpart" in shown


def test_the_table_says_how_much_of_a_limit_is_reached():
    shown = printed(tables.show_part, report().parts[0])
    (numpy, _) = (line for line in shown.splitlines() if line.startswith("NumPy"))
    assert "200,000" in numpy  # us per auction
    assert "180,000-220,000" in numpy
    assert "2.00 (2.00-2.00)" in numpy
    assert "2 MiB" in numpy
    assert shown.count("25 % of it reached") == 2
    assert "torch is not installed" in shown
    assert "peak memory 1,024 MiB" in shown


def test_the_plot_has_a_panel_for_each_size(tmp_path):
    found = plot.curves(report())
    assert found.keys() == {"A"}
    ours = found["A"]["step: ours"]
    assert [size for size, _ in ours] == [10, 100]
    assert [rate.median for _, rate in ours] == pytest.approx([40, 400])
    assert found["A"].keys() == {"step: ours", "step: NumPy"}
    path = tmp_path / "a.png"
    assert plot.save(report(), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_digits_of_a_number():
    assert doctest.testmod(tables) == (0, 1)


def test_nothing_varies_and_nothing_is_plotted(tmp_path):
    alone = report()
    alone.parts[0].cases[:] = alone.parts[0].cases[:1]
    assert not plot.save(alone, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_contenders_take_turns():
    order = []

    def contender(name, seconds):
        def call(turn):
            order.append((name, turn))
            time.sleep(seconds)

        return harness.Contender(name, "ours", call, 2)

    pair = [contender("a", 0.02), contender("b", 0.001)]
    slow, fast = harness.take_turns(pair, rounds=2)
    once = [("a", 0), ("b", 0)]
    # What is short is called once more before it counts.
    twice = [(name, turn) for turn in (1, 2) for name in "aabb"]
    assert order == once + twice
    assert [len(x.seconds) for x in (slow, fast)] == [2, 2]
    assert slow.each.low >= 0.01
    assert fast.each.low < slow.each.low


def test_a_call_may_know_its_time():
    times = iter([9.0, 4.0, 5.0])

    def call(turn):
        return harness.Timed(next(times), memory=turn + 1)

    (figure,) = harness.take_turns([harness.Contender("x", "ours", call, 1)], 2)
    assert (figure.first, figure.seconds, figure.memory) == (9.0, [4.0, 5.0], 3)


def test_a_process_that_is_killed_is_told():
    with pytest.raises(ValueError, match=r"abort.* was ended from outside"):
        harness.alone(os.abort)
