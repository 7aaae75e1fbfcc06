import math

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Text
from small_results import small_results

import tokenauction_jax as ta
from tokenauction_jax.reports import drawing, figures, labels

EXPECTED = {
    "welfare": {"response-agents-num-agents", "revenue-welfare", "effects"},
    "lambda": {"response-values-share", "weight", "revenue-welfare", "effects"},
    "misreport": {"regret", "weight", "revenue-welfare", "effects"},
    "single": set(),
}


def charts(results):
    return {chart.name: chart for chart in figures.charts(results)}


def curves(axes):
    """The points of each curve."""
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    return [np.asarray(curve.get_offsets()) for curve in found]


def bars(axes):
    """The end points of every interval."""
    found = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [segment for c in found for segment in c.get_segments()]


def test_every_cell_is_drawn_at_its_mean_with_its_interval():
    results = small_results("welfare")
    table = labels.estimates(results)
    (axes,) = figures.welfare(results).figure.axes
    points = [line.get_xdata()[0] for line in axes.lines]
    rows = [table[cell, "welfare", "total_variation", ""] for cell in range(6)]
    assert points == pytest.approx([row["mean"] for row in rows])
    ends = [segment[:, 0] for segment in bars(axes)]
    expected = np.array([[row["low"], row["high"]] for row in rows])
    np.testing.assert_allclose(ends, expected, rtol=1e-12)


def test_regret_is_the_paired_difference_to_the_truth_under_each_valuation():
    results = small_results("misreport")
    panels = figures.regret(results).figure.axes
    assert len(panels) == 3
    rows = {
        (row["rule"], row["bids.factor"], row["valuation"]): row["mean"]
        for row in labels.rows(results.differences)
        if (row["factor"], row["measure"], row["agent"])
        == ("bids.factor", "expected_utility", "Alpha")
    }
    order = ["0", "0.25", "0.5", "0.8", "1", "1.25", "2", "4"]
    for axes, valuation in zip(
        panels, ("total_variation", "forward_kl", "reverse_kl"), strict=True
    ):
        for curve, rule in zip(curves(axes), results.factors["rule"], strict=True):
            expected = [rows.get((rule, factor, valuation), 0.0) for factor in order]
            np.testing.assert_allclose(curve[:, 1], expected)
            assert curve[:, 0] == pytest.approx([float(x) for x in order])


def test_weight_is_on_the_x_axis():
    results = small_results("misreport")
    table = labels.estimates(results)
    axes = figures.weight(results).figure.axes[0]
    shares = [table[cell, "weight", "", "Alpha"]["mean"] for cell in range(8)]
    np.testing.assert_allclose(curves(axes)[0][:, 0], sorted(shares))


def test_a_weight_that_only_follows_the_number_of_agents_is_not_swept():
    results = small_results("welfare")
    moved = results.summary.query("measure == 'weight' and agent == '0'")
    assert np.ptp(moved["mean"]) > 0.1
    assert figures.weight(results) is None


def test_what_excludes_zero_is_filled():
    results = small_results("lambda")
    effects = results.effects
    effects.loc[:, ["mean", "low", "high"]] = 0.1, -0.2, 0.4
    chosen = (effects["factor"] == "rule") & (effects["measure"] == "welfare")
    effects.loc[chosen, ["mean", "low", "high"]] = 0.3, 0.2, 0.4
    axes = figures.effects(results).figure.axes[0]
    faces = [
        line.get_markerfacecolor() for line in axes.lines if len(line.get_xdata()) == 1
    ]
    assert len(faces) == 5
    assert faces.count("white") == 4
    assert faces[0] == drawing.COLOURS[0]


def shown(text):
    return text.get_visible() and text.get_text()


def texts(figure):
    """Every label, title and number of a tick that is seen."""
    for axes in figure.axes:
        yield from (axes.xaxis.label, axes.yaxis.label)
        yield from (text for text in axes.get_children() if isinstance(text, Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks()
            yield from (t.label1 for t in ticks if low <= t.get_loc() <= high)


@pytest.mark.parametrize("name", ["welfare", "misreport"])
def test_missing_numbers_are_said_to_be_missing(name):
    results = small_results(name)
    for frame in (results.summary, results.differences, results.effects):
        frame.loc[frame.index % 3 == 0, ["low", "high"]] = math.nan
        frame.loc[frame.index % 5 == 0, ["low", "high"]] = -math.inf, math.inf
        frame.loc[frame["measure"] == "welfare", ["mean", "low", "high"]] = math.nan
        frame.loc[frame["measure"] == "welfare", "n"] = 0
    results.summary["infinite"] = 3
    found = charts(results)
    written = [text.get_text() for text in found["welfare"].figure.axes[0].texts]
    assert set(written) == {"no estimate"}
    assert "†" in found["welfare"].caption
    for chart in found.values():
        chart.figure.draw_without_rendering()


def test_a_measure_that_was_not_taken():
    results = small_results("lambda")
    for name in ("summary", "differences", "effects"):
        frame = getattr(results, name)
        setattr(results, name, frame[frame["measure"] == "welfare"])
    assert set(charts(results)) == {"welfare", "response-values-share", "effects"}


def test_names_are_text_whatever_they_hold(tmp_path):
    names = ("<script>$\\frac$&amp;", "\N{ROCKET} " + "long " * 30)
    rule = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    rules = [ta.studies.Level(label, rule) for label in ("$x_$", names[1], "<b>")]
    found = charts(small_results("lambda", names, rules))
    assert len(found) == 6
    for name in ("weight", "welfare", "effects"):
        drawing.save(found[name], tmp_path)
    for path in tmp_path.glob("*.svg"):
        assert "<script" not in path.read_text()


def test_the_same_results_give_the_same_files_and_settings_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        drawing.save(figures.welfare(small_results("lambda")), folder)
    for name in ("welfare.svg", "welfare.png"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", EXPECTED)
def test_the_figures_of_a_study_fit_and_nothing_covers_a_label(name):
    found = charts(small_results(name))
    assert set(found) == EXPECTED[name] | {"welfare", "shortfalls"}
    for chart in found.values():
        chart.figure.draw_without_rendering()
        edge = chart.figure.bbox.padded(1)
        boxes = [
            text.get_window_extent() for text in texts(chart.figure) if shown(text)
        ]
        boxes += [legend.get_window_extent() for legend in chart.figure.legends]
        for i, box in enumerate(boxes):
            assert edge.x0 <= box.x0 < box.x1 <= edge.x1, chart.name
            assert edge.y0 <= box.y0 < box.y1 <= edge.y1, chart.name
            assert not box.count_overlaps(boxes[i + 1 :]), chart.name


def test_axes_of_shipped_studies_say_what_they_sweep():
    for name, factor, label in (
        ("lambda", "values.share", "share of the first agent's value"),
        ("welfare", "agents.num_agents", "number of agents"),
    ):
        found = charts(small_results(name))
        axes = found[f"response-{factor.replace('.', '-').replace('_', '-')}"].figure
        assert {text.get_text() for text in texts(axes)} >= {label}
