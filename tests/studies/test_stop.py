"""A study that stops because of its intervals keeps what they promise."""

import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.measures import columns
from tokenauction_jax.studies.plan import headline
from tokenauction_jax.studies.reading import validate_study

pytestmark = pytest.mark.usefixtures("one_device")

# Only the first agent draws the second token, in one auction of 500.
RARE = {"kind": "table", "probs": [[0.997, 0.003], [1.0, 0.0]]}
FIXED = {"kind": "fixed", "amounts": [2.0, 1.0]}


def phi(x):
    return np.log1p(x) - x / (1 + x)


# The total variation between the agents times what each second price is a mean of.
REVENUE = 0.003 * (phi(2.0) + 2 * phi(0.5))


def run(**study):
    default = {"agents": RARE, "values": FIXED, "num_tokens": 1, "keep_auctions": 0}
    return ta.studies.run(default | study, blocks_per_chunk=1)


def row(found, measure, **where):
    table = found.summary[found.summary["measure"] == measure]
    for name, level in where.items():
        table = table[table[name] == level]
    return table.iloc[0]


@pytest.mark.slow
def test_a_rare_revenue_is_covered_where_the_study_stops():
    """One study in eight has no event at its first look."""
    stop = {"measure": "revenue", "half_width": 1e-3}
    for seed in range(15):
        found = run(seed=seed, num_auctions=200_000, stop=stop)
        assert found.stopped_early
        assert 1024 < found.num_auctions < 100_000
        for measure in ("revenue", "expected_revenue"):
            estimate = row(found, measure)
            assert estimate["low"] <= REVENUE <= estimate["high"]
            assert estimate["high"] > estimate["low"]
        asked = row(found, "expected_revenue")
        off = max(asked["high"] - asked["mean"], asked["mean"] - asked["low"])
        assert off <= 1e-3


def test_without_bounds_it_waits_for_enough_events():
    stop = {"measure": "revenue", "half_width": 1e-2}
    values = {"kind": "log_normal", "sigma": 0.5}
    few = run(values=values, num_auctions=20_000, stop=stop, seed=1)
    estimate = row(few, "expected_revenue")
    assert not few.stopped_early
    assert few.finished
    assert estimate["effective"] < 50
    # Payments are not negative.
    assert (estimate["low"], estimate["high"]) == (0, np.inf)
    assert few.missed_precision == (
        "expected_revenue to 0.01 in every cell and difference"
    )
    enough = run(values=values, num_auctions=400_000, stop=stop, seed=1)
    assert enough.stopped_early
    assert not enough.missed_precision
    estimate = row(enough, "expected_revenue")
    assert 0 < estimate["low"] < estimate["high"] < 0.02
    assert estimate["effective"] >= 50
    assert estimate["nonzero"] >= estimate["effective"]


def test_what_has_not_varied_is_not_known_without_bounds():
    """No text of thousands has the token of probability 1e-9."""
    found = run(
        agents={"kind": "table", "probs": [[1 - 1e-9, 1e-9], [1.0, 0.0]]},
        num_auctions=2048,
        stop={"measure": "log_prob", "half_width": 1.0},
    )
    estimate = row(found, "log_prob")
    assert not found.stopped_early
    assert (estimate["low"], estimate["high"]) == (-np.inf, 0)


def test_what_cannot_vary_is_known_at_the_first_look():
    """Distributions, values and bids are the same everywhere."""
    found = run(num_auctions=10_000, stop={"measure": "welfare", "half_width": 1e-9})
    assert found.num_auctions == 1024
    for valuation in ("total_variation", "forward_kl"):
        estimate = row(found, "welfare", valuation=valuation)
        assert estimate["low"] == estimate["mean"] == estimate["high"]


@pytest.mark.parametrize("measure", ["revenue", "payment", "utility"])
def test_payments_are_judged_by_what_they_are_on_average(measure):
    study = validate_study(
        {"stop": {"measure": measure, "half_width": 0.1, "agent": 1}}
    )
    found = columns(3)[headline(study.outline(), columns(3))]
    assert found.measure == f"expected_{measure}"
    assert found.agent in (None, 1)
