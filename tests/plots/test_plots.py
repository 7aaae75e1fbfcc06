"""Figures show the numbers that they were given, read back from their axes."""

import dataclasses
import io
import math

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from small_results import small_results

import tokenauction_jax as ta
from tokenauction_jax.reports import drawing, figures

LOG_PROBS = jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]]))
NAMES = ["airline", "resort"]
# Of the present bid and the best one.
MARKS = (":", "--")
X = {"x_label": "bid (money)", "y_label": "utility (money per text)"}


def points(axes):
    """The marked points of each curve."""
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    return [np.asarray(curve.get_offsets()) for curve in found]


def intervals(axes):
    found = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [segment[:, 1] for c in found for segment in c.get_segments()]


def bars(axes, count):
    """Heights of the bars of each of `count` agents."""
    heights = [bar.get_height() for bar in axes.patches if bar_like(bar)]
    return np.reshape(heights, (count, -1))


def bar_like(patch):
    return isinstance(patch, matplotlib.patches.Rectangle)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture(scope="module")
def mechanism():
    rule = ta.linear()
    return ta.Mechanism(rule, ta.second_price(rule))


@pytest.fixture(scope="module")
def pool():
    return ta.agents.tabular(LOG_PROBS)


@pytest.fixture(scope="module")
def rollout(mechanism, pool):
    bids = [1.0, 2.0]
    key = jax.random.key(0)
    return ta.simulate(key, mechanism, pool, bids, num_tokens=6, num_auctions=3)


@pytest.fixture(scope="module")
def receipt():
    agents = {"kind": "table", "probs": np.exp(LOG_PROBS).tolist()}
    study = ta.studies.Study(
        agents=agents, values=[1.0, 2.0], num_tokens=6, num_auctions=4, seed=3
    )
    return ta.receipts.of_cell(study, auction=2)


def test_curves_have_their_points_and_intervals():
    x, mean = [1.0, 2.0, 4.0], [[0.1, 0.3, math.nan], [1.0, 2.0, 3.0]]
    low, high = np.array(mean) - 0.1, np.array(mean) + 0.2
    figure = ta.plots.curves(x, mean, low, high, names=NAMES, zero=True, **X)
    (axes,) = figure.axes
    first, second = points(axes)
    np.testing.assert_allclose(first, [[1, 0.1], [2, 0.3]])
    np.testing.assert_allclose(second, np.transpose([x, mean[1]]))
    vertical = [ends for ends in intervals(axes) if np.ptp(ends) > 0]
    kept = [[a, b] for a, b in zip(low.ravel(), high.ravel(), strict=True) if a == a]
    np.testing.assert_allclose(vertical, kept)
    assert (axes.get_xlabel(), axes.get_ylabel()) == tuple(X.values())
    assert legend(figure) == NAMES


def test_a_long_curve_is_whole_though_few_points_are_marked():
    x = np.linspace(0, 1, 401)
    (axes,) = ta.plots.curves(x, x**2, **X).figure.axes
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 401]
    np.testing.assert_allclose(line.get_ydata(), x**2)
    assert len(points(axes)[0]) <= 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [1.0, 2.0]}, r"mean has shape \(2,\)"),
        ({"x": [[1.0]]}, "mean has shape"),
        ({"low": [0.0] * 3}, "low and high, or neither"),
        ({"low": [0.0] * 3, "high": [1.0]}, "high has shape"),
        ({"names": NAMES}, "names must be 1"),
    ],
)
def test_curves_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        ta.plots.curves(**{"x": [1.0, 2.0, 3.0], "mean": [1.0] * 3} | given, **X)


def test_a_token_shows_what_is_wanted_drawn_and_paid(mechanism):
    bids, words = [1.0, 2.0], ["flights", "beaches", "pools"]
    options = {"names": NAMES, "words": words}
    figure = ta.plots.token(mechanism, bids, LOG_PROBS, **options, most=2)
    wants, pays = figure.axes
    shown = [0, 2]  # q is .4, .23, .37
    lengths = [
        np.array([bar.get_width() for bar in axes.patches]) for axes in (wants, pays)
    ]
    np.testing.assert_allclose(
        lengths[0], np.exp(LOG_PROBS)[:, shown].ravel(), rtol=1e-6
    )
    paid = [mechanism.payment.conditional(jnp.array(bids), LOG_PROBS, i) for i in shown]
    np.testing.assert_allclose(lengths[1], np.transpose(paid).ravel(), rtol=1e-6)
    q = np.exp(mechanism.aggregation.log_prob(jnp.array(bids), LOG_PROBS))
    np.testing.assert_allclose(wants.lines[0].get_xdata(), q[shown], rtol=1e-6)
    called = [label.get_text() for label in wants.get_yticklabels()]
    assert called == ["flights", "pools"]
    assert legend(figure) == [*NAMES, "aggregate"]
    assert "2 likeliest of 3" in wants.get_ylabel()


def test_a_token_that_cannot_be_drawn():
    rule = ta.log_linear()
    mechanism = ta.Mechanism(rule, ta.clarke(rule))
    apart = jnp.log(jnp.eye(2))
    with pytest.raises(ValueError, match="no token"):
        ta.plots.token(mechanism, [1.0, 1.0], apart)
    with pytest.raises(ValueError, match="words must be 2"):
        ta.plots.token(mechanism, [1.0, 1.0], apart, words=["a"])
    with pytest.raises(ValueError, match="names must be 2 different"):
        ta.plots.token(mechanism, [1.0, 1.0], apart, names=["a", "a"])


def test_a_text_of_a_rollout(rollout):
    figure = ta.plots.text(rollout, 1, names=NAMES)
    probability, charged, total = figure.axes
    (q,) = (line.get_ydata() for line in probability.lines)
    np.testing.assert_allclose(q, np.exp(rollout.log_prob[1]), rtol=1e-6)
    paid = np.asarray(rollout.payments[1])
    np.testing.assert_allclose(bars(charged, 2), paid.T)
    expected = np.concatenate([line.get_ydata() for line in charged.lines])
    given = np.asarray(rollout.expected_payments[1]).T
    np.testing.assert_allclose(expected, given[given != 0])
    sums = [line.get_ydata() for line in total.lines]
    np.testing.assert_allclose(sums, paid.cumsum(0).T, rtol=1e-6)
    numbers = [label.get_text() for label in total.get_xticklabels()]
    assert numbers == [str(token) for token in rollout.tokens[1].tolist()]
    assert legend(figure) == [*NAMES, "aggregate", "mean given the token"]


def test_a_text_of_a_receipt_has_who_wanted_and_brought_each_token(receipt):
    figure = ta.plots.text(receipt)
    probability, share, charged, _ = figure.axes
    *wanted, _ = (line.get_ydata() for line in probability.lines)
    frame = receipt.to_pandas()
    for agent in range(2):
        np.testing.assert_allclose(wanted[agent], np.exp(frame[f"log_p/{agent}"]))
    brought = frame[["attribution/0", "attribution/1"]].to_numpy()
    np.testing.assert_allclose(bars(share, 2), brought.T)
    (weights,) = (p.get_data().values for p in share.patches if not bar_like(p))
    np.testing.assert_allclose(weights, frame["weight/0"])
    bids = [p.get_data().values for p in charged.patches if not bar_like(p)]
    np.testing.assert_allclose(bids, np.tile([[1.0], [2.0]], (1, 6)))
    assert legend(figure)[:2] == ["agent 0", "agent 1"]


def test_what_policies_bid_is_drawn(mechanism, pool):
    bidders = ta.Bidders([ta.bidding.schedule([1.0, 3.0]), ta.bidding.constant(2.0)])
    key = jax.random.key(1)
    rollout = ta.simulate(key, mechanism, pool, bidders, num_tokens=2, num_auctions=1)
    _, charged, _ = ta.plots.text(rollout).axes
    bids = [p.get_data().values for p in charged.patches if not bar_like(p)]
    np.testing.assert_allclose(bids, [[1.0, 3.0], [2.0, 2.0]])


def test_texts_that_are_not_there(rollout, receipt):
    with pytest.raises(ValueError, match="from 0 to 2"):
        ta.plots.text(rollout, 3)
    with pytest.raises(ValueError, match="2 different"):
        ta.plots.text(rollout, names=["airline"])
    with pytest.raises(ValueError, match="is of one text"):
        ta.plots.text(receipt, names=NAMES)
    with pytest.raises(ValueError, match="no token"):
        ta.plots.text(dataclasses.replace(receipt, tokens=()))


def test_a_figure_of_a_study_is_that_of_its_report():
    results = small_results("lambda")
    charts = {chart.name: chart.figure for chart in figures.charts(results)}
    for name, expected in charts.items():
        drawn = ta.plots.study(results, name)
        for axes, same in zip(drawn.axes, expected.axes, strict=True):
            for a, b in zip(points(axes), points(same), strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"'regrets'.*welfare.*response-values-share"):
        ta.plots.study(results, "regrets")


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (ta.plots.text, "what ta.simulate returned, got Linear"),
        (lambda x: ta.plots.token(x, [1.0], jnp.zeros((1, 1))), "ta.Mechanism"),
        (ta.plots.audit, "what ta.audit returned, got Linear"),
        (ta.plots.study, "ta.studies.run"),
        (ta.plots.optimisation, "ta.optimisation.run"),
        (ta.plots.best_response, "ta.bidding.best_response"),
        (ta.plots.equilibrium, "ta.bidding.equilibrium"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_cannot_be_drawn_is_named(draw, match):
    with pytest.raises(ValueError, match=match):
        draw(ta.linear())


def test_a_figure_of_an_optimisation():
    results = ta.optimisation.run("contest")
    axes = ta.plots.optimisation(results, "trajectories").axes[0]
    last = [curve[-1, 1] for curve in points(axes)]
    np.testing.assert_allclose(last, results.bids, rtol=1e-6)
    with pytest.raises(ValueError, match="trajectories"):
        ta.plots.optimisation(results, "regret")


@pytest.fixture(scope="module")
def game(pool):
    first_price = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    options = {"valuation": ta.total_variation(), "num_tokens": 1}
    return (first_price, pool), options | {"values": jnp.array([6.0, 4.0])}


def test_a_best_response_is_where_its_line_is(game):
    place, options = game
    key = jax.random.key(0)
    found = ta.bidding.best_response(key, *place, [1.0, 2.0], 0, **options)
    (axes,) = ta.plots.best_response(found, present=1.0).axes
    tried, payoffs = np.asarray(found.grid), np.asarray(found.payoffs)
    curve = next(line.get_xydata() for line in axes.lines if len(line.get_xdata()) > 2)
    kept = tried <= curve[:, 0].max()
    np.testing.assert_allclose(curve, np.stack([tried, payoffs], 1)[kept], rtol=1e-6)
    marks = [
        line.get_xdata()[0] for line in axes.lines if line.get_linestyle() in MARKS
    ]
    np.testing.assert_allclose(marks, [1.0, float(found.bid)])
    several = jax.tree.map(lambda x: x[None], found)
    with pytest.raises(ValueError, match="one by one"):
        ta.plots.best_response(several)


def test_an_equilibrium_shows_its_steps(game):
    place, options = game
    found = ta.bidding.equilibrium(jax.random.key(0), *place, **options)
    figure = ta.plots.equilibrium(found, names=NAMES)
    curves = [line.get_ydata() for line in figure.axes[0].lines]
    steps = int(found.num_steps)
    drawn = [curve for curve in curves if len(curve) == steps]
    np.testing.assert_allclose(drawn, np.asarray(found.history)[:steps].T, rtol=1e-6)
    assert "gap" in figure.axes[0].get_title(loc="left")
    assert legend(figure) == NAMES
    with pytest.raises(ValueError, match="names must be 2"):
        ta.plots.equilibrium(found, names=["airline"])
    several = jax.tree.map(lambda x: x[None], found)
    with pytest.raises(ValueError, match="one by one"):
        ta.plots.equilibrium(several)


def test_an_audit_has_a_line_a_property():
    rule = ta.linear()
    found = ta.audit(rule, ta.second_price(rule), num_instances=32, vocab_size=3)
    endless = dataclasses.replace(found.findings[0], worst=math.inf, verdict="fails")
    unchecked = dataclasses.replace(found.findings[1], verdict="not checked")
    findings = (endless, unchecked, *found.findings[2:])
    found = dataclasses.replace(found, findings=findings)
    figure = ta.plots.audit(found)
    held, worst = figure.axes
    checked = [each for each in findings if each.verdict != "not checked"]
    shares = [line.get_xdata()[0] for line in held.lines]
    expected = [each.holds_on / each.instances for each in checked]
    np.testing.assert_allclose(shares, expected)
    violations = [line.get_xdata()[0] for line in worst.lines]
    expected = [1.0, *(each.worst for each in checked[1:]), found.tolerance]
    np.testing.assert_allclose(violations, expected)
    looks = {line.get_color() for line in held.lines[:1]}
    assert looks == {drawing.COLOURS[1]}
    labels = [label.get_text() for label in held.get_yticklabels()]
    assert [each.property for each in findings] == [
        label for label in labels if label not in ("linear", "payment second_price")
    ]
    assert [text.get_text() for text in held.texts] == ["no estimate"]


def test_figures_show_in_notebooks_and_leave_settings_alone(rollout):
    before = dict(matplotlib.rcParams)
    figure = ta.plots.text(rollout)
    assert isinstance(figure, Figure)
    pixels = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert pixels.shape[1] == figure.get_figwidth() * 100
    assert dict(matplotlib.rcParams) == before


def test_nothing_sticks_out_of_a_figure(mechanism, rollout, receipt):
    shown = [
        ta.plots.token(mechanism, [1.0, 2.0], LOG_PROBS, names=["a" * 60, "b"]),
        ta.plots.text(rollout, names=["a" * 60, "b $x$"]),
        ta.plots.text(receipt),
    ]
    for figure in shown:
        figure.draw_without_rendering()
        edge = figure.bbox.padded(1)
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for box in boxes:
            assert edge.x0 <= box.x0 < box.x1 <= edge.x1
            assert edge.y0 <= box.y0 < box.y1 <= edge.y1
