"""Closed answers by brute force: no bid of a fine grid does better."""

import numpy as np
import pytest

from reference import aggregation, bidding, contests, payments

GRID = np.linspace(1e-4, 6, 60_001)


def gains(values, bids, influence=1.0):
    """What each agent gains by its best bid of the grid, or by none."""
    found = []
    now = contests.payoffs(values, bids, influence)
    for i in range(len(bids)):
        others = np.delete(np.asarray(bids, float) ** influence, i).sum()
        own = np.concatenate([[0], GRID])
        share = own**influence / (own**influence + others)
        found.append((-values[i] * (1 - share) - own).max() - now[i])
    return np.array(found)


@pytest.mark.parametrize("values", [(1.0, 1.0), (2.0, 1.0), (5.0, 0.3)])
def test_pair(values):
    bids = contests.pair(values)
    assert gains(values, bids).max() <= 1e-12
    np.testing.assert_allclose(contests.unequal(values), bids, rtol=1e-12)
    assert gains(values, bids * [1.1, 1]).max() > 1e-4
    first = values[0] ** 2 * values[1] / (values[0] + values[1]) ** 2
    np.testing.assert_allclose(bids[0], first, rtol=1e-12)


@pytest.mark.parametrize("agents", [2, 3, 5])
@pytest.mark.parametrize("influence", [0.5, 1.0, 1.2])
def test_alike(agents, influence):
    values = np.full(agents, 1.7)
    bids = np.full(agents, contests.alike(1.7, agents, influence))
    assert gains(values, bids, influence).max() <= 1e-12


@pytest.mark.parametrize("agents", [2, 3, 5])
def test_too_much_influence_leaves_no_equilibrium(agents):
    """At the bids of the formula it is better to stay out."""
    limit = agents / (agents - 1)
    with pytest.raises(ValueError, match="no equilibrium"):
        contests.alike(1.0, agents, limit + 0.1)
    for factor, better in ((0.99, False), (1.1, True)):
        influence = limit * factor
        bids = np.full(agents, influence * (agents - 1) / agents**2)
        assert (gains(np.ones(agents), bids, influence).max() > 1e-3) == better


@pytest.mark.parametrize(
    ("values", "inside"),
    [((3.0, 2.0, 1.5), 3), ((1.0, 3.0, 4.0, 2.5), 3), ((0.1, 2.0, 0.2, 2.0), 2)],
)
def test_unequal(values, inside):
    bids = contests.unequal(values)
    assert (bids > 0).sum() == inside
    assert gains(values, bids).max() <= 1e-12
    for agent in range(len(values)):
        others = bids.sum() - bids[agent]
        reply = contests.best_bid(values[agent], others)
        np.testing.assert_allclose(bids[agent], reply, atol=1e-12)


def distributions(seed, agents, vocabulary=4):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(vocabulary), agents)
    return np.log(p), rng.uniform(1, 3, agents)


def one_token(values, log_probs, bids, agent):
    """The reference's worth of one token to an agent."""
    auction = bidding.Auction(
        bidding.Mechanism("linear", "pay_your_bid"),
        bidding.Table(log_probs, 1),
        np.asarray(bids),
        np.asarray(values),
    )
    return float(bidding.exact(auction, bidding.utility(agent, "total_variation")))


def test_point_masses_are_the_contest():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.eye(3))
    values, bids = np.array([3.0, 2.0, 1.0]), np.array([0.5, 0.7, 0.2])
    due = contests.payoffs(values, bids)
    found = [one_token(values, log_probs, bids, i) for i in range(3)]
    np.testing.assert_allclose(found, due, rtol=1e-12)


@pytest.mark.parametrize(("seed", "agents"), [(0, 2), (1, 3), (2, 4)])
def test_general_distributions(seed, agents):
    log_probs, values = distributions(seed, agents)
    bids = contests.general(values, log_probs)
    if agents == 2:
        due = contests.general_pair(values, log_probs)
        np.testing.assert_allclose(bids, due, rtol=1e-9)
    assert (bids > 0).sum() >= 2
    for agent in range(agents):
        now = one_token(values, log_probs, bids, agent)
        for own in (*np.linspace(0, 2, 101), *(bids[agent] * np.array([0.9, 1.1]))):
            moved = bids.copy()
            moved[agent] = own
            assert one_token(values, log_probs, moved, agent) <= now + 1e-12


def test_segment_price_by_its_noise():
    """Draws the auction itself; six standard errors of a bounded payment."""
    rng = np.random.default_rng(0)
    bids, clicks = np.array([1.5, 0.7, 2.0]), np.array([0.1, 0.4, 0.2])
    scores = bids * clicks
    noise = rng.gumbel(size=(400_000, 3))
    ranks = np.log(scores) + noise
    for agent in range(3):
        rival = np.delete(ranks, agent, axis=1).max(1)
        # The least bid times click rate that would have won this draw.
        critical = np.exp(rival - noise[:, agent])
        paid = np.where(critical < scores[agent], critical, 0)
        due = contests.segment_price(scores[agent], scores.sum() - scores[agent])
        error = paid.std() / np.sqrt(len(paid))
        assert abs(paid.mean() - due) < 6 * error


def test_segment_price_is_the_second_price_of_point_masses():
    scores = np.array([0.15, 0.28, 0.4])
    with np.errstate(divide="ignore"):
        found, _ = payments.second_price(scores, np.log(np.eye(3)))
    others = scores.sum() - scores
    due = contests.segment_price(scores, others)
    np.testing.assert_allclose(found.astype(float), due, rtol=1e-12)
    q = np.exp(aggregation.linear(scores, np.log(np.eye(3) + 1e-300)))
    np.testing.assert_allclose(q.astype(float), scores / scores.sum(), rtol=1e-12)
