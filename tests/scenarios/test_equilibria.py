"""Cells of studies whose agents bid as in an equilibrium."""

import numpy as np
import pytest
from reference import contests
from scipy import optimize

import tokenauction_jax as ta
from tokenauction_jax.scenarios.scenario import ScenarioError
from tokenauction_jax.studies import StudyError, reading

POINTS = {"kind": "table", "probs": [[1.0, 0.0], [0.0, 1.0]]}
CONTEST = {
    "agents": POINTS,
    "rule": {"aggregation": "linear", "payment": "pay_your_bid"},
    "bids": {"kind": "equilibrium"},
    "num_tokens": 1,
    "num_auctions": 64,
}


def drawn_bids(content):
    (cell,) = reading.validate_study(content).populations
    return cell.draw(0, content["num_auctions"])


def test_of_values_that_all_know():
    values, bids = drawn_bids(CONTEST | {"values": [2.0, 1.0]})
    np.testing.assert_allclose(bids, np.tile(contests.pair([2, 1]), (64, 1)), rtol=1e-5)
    np.testing.assert_array_equal(values, np.tile([2.0, 1.0], (64, 1)))


def test_of_drawn_values():
    """Each agent's factor is best against the other's, over the values of the cell."""
    content = CONTEST | {"values": {"kind": "log_normal"}, "num_auctions": 1000}
    values, bids = drawn_bids(content)
    factors = bids / values
    np.testing.assert_allclose(factors, factors[:1].repeat(1000, 0), rtol=1e-6)
    for agent in range(2):
        own, rivals = values[:, agent], bids[:, 1 - agent]

        def cost(factor, own=own, rivals=rivals):
            return np.mean(own * rivals / (factor * own + rivals) + factor * own)

        best = optimize.minimize_scalar(cost, bounds=(0, 2), options={"xatol": 1e-9}).x
        np.testing.assert_allclose(factors[0, agent], best, rtol=1e-3)


def test_as_a_factor():
    """Paired with the truth, in the same auctions."""
    levels = [{"kind": "truthful"}, {"kind": "equilibrium"}]
    study = CONTEST | {"values": [2.0, 1.0], "factors": {"bids": levels}}
    study.pop("bids")
    found = ta.studies.run(study).summary
    revenue = found.query("measure == 'revenue'").set_index("bids")["mean"]
    assert revenue["truthful"] == pytest.approx(3.0)
    assert revenue["equilibrium"] == pytest.approx(2 / 3, rel=1e-5)


def test_two_runs_find_the_same():
    content = CONTEST | {"values": {"kind": "gamma"}}
    np.testing.assert_array_equal(drawn_bids(content)[1], drawn_bids(content)[1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"agents": {"kind": "scenario", "scenario": "hawaii"}},
            "models take hours",
        ),
        ({"agents": {"kind": "dirichlet", "num_agents": 1}}, "nobody to bid against"),
        ({"values": np.ones((64, 2))}, "needs values that are drawn or fixed"),
        ({"bids": {"kind": "equilibrium", "tolerance": 0.0}}, "bids.tolerance"),
        ({"bids": {"kind": "equilibrium", "num_step": 3}}, "did you mean 'num_steps'"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(StudyError, match=match) as caught:
        reading.validate_study(CONTEST | change)
    assert len(str(caught.value)) < 500


def test_no_equilibrium():
    """Above an influence of n / (n - 1) there is none of certain bids."""
    rule = CONTEST["rule"] | {"influence": 3.0}
    bids = {"kind": "equilibrium", "num_steps": 5}
    content = CONTEST | {"values": [1.0, 1.0], "rule": rule, "bids": bids}
    with pytest.raises(ScenarioError, match=r"no equilibrium of linear.* gain 0\."):
        _ = reading.validate_study(content).populations
