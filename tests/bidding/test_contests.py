"""Best responses and equilibria against closed answers, and truth where it is best."""

from dataclasses import replace

import bidding_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bidding_cases import instance, name, under
from reference import bidding, contests
from scipy import optimize, stats

import tokenauction_jax as ta

# One run of this file in a million alarms falsely: it has fewer scores than a hundred.
NORMAL = stats.norm.isf(1e-6 / 2 / 100)
KEY = 0
# What a bid, relative to the values, and a gap may err by where nothing is sampled.
BID, GAP = 1e-3, 1e-4
TV = ta.total_variation()


def contest(influence=1.0):
    """`linear` with `pay_your_bid`."""
    return ta.Mechanism(ta.linear(influence), ta.pay_your_bid())


def point_masses(agents):
    """Each agent wants a token of its own."""
    return ta.agents.tabular(jnp.log(jnp.eye(agents)))


def smooth(seed, agents):
    """General distributions and values."""
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(4), agents))
    return log_probs, rng.uniform(1, 3, agents)


def gap(mechanism, pool, bids, values, valuation=TV, **options):
    options = {"num_tokens": 1} | options
    return ta.bidding.equilibrium_gap(
        *(jax.random.key(KEY), mechanism, pool, bids),
        values=values,
        valuation=valuation,
        **options,
    )


def equilibrium(mechanism, pool, values, **options):
    return ta.bidding.equilibrium(
        *(jax.random.key(KEY), mechanism, pool),
        values=values,
        valuation=TV,
        num_tokens=1,
        num_auctions=None,
        **options,
    )


def assert_reached(found, bids, values):
    np.testing.assert_allclose(found.bids, bids, atol=BID * np.max(values))
    assert found.converged
    assert abs(found.gap) <= GAP * np.max(values)
    assert found.gap_error == 0
    # A bid of next to nothing is none.
    np.testing.assert_array_equal(np.asarray(found.bids) > 0, np.asarray(bids) > 0)


def shading(weights, rivals):
    """The factor that is best in a contest against these bids, `(A,)` each."""

    def cost(factor):
        bids = factor * weights
        return np.mean(weights * rivals / (bids + rivals) + bids)

    return optimize.minimize_scalar(cost, bounds=(0, 2), options={"xatol": 1e-9}).x


class TestUnits:
    """Bids that are factors on values."""

    def test_response_to_drawn_values(self):
        """Knowing only its own value an agent shades it against the law of others'."""
        values = np.random.default_rng(2).lognormal(0, 0.5, (500, 2))
        found = ta.bidding.best_response(
            *(jax.random.key(KEY), contest(), point_masses(2), [0.4, 0.3], 0),
            values=values,
            valuation=TV,
            num_tokens=1,
            unit=values,
        )
        # The search and the gain use the same rows: only draws differ.
        best = shading(values[:, 0], 0.3 * values[:, 1])
        np.testing.assert_allclose(found.bid, best, rtol=BID)
        assert found.gain > 0

    def test_equilibrium_of_factors(self):
        values = np.random.default_rng(3).lognormal(0, 0.5, (500, 2))
        found = equilibrium(contest(), point_masses(2), values, unit=values)
        assert found.converged
        for agent in range(2):
            rivals = found.bids[1 - agent] * values[:, 1 - agent]
            best = shading(values[:, agent], np.asarray(rivals, float))
            np.testing.assert_allclose(found.bids[agent], best, rtol=BID)

    def test_values_that_all_know(self):
        values = np.array([3.0, 1.0])
        factors = equilibrium(contest(), point_masses(2), values, unit=values)
        bids = equilibrium(contest(), point_masses(2), values)
        np.testing.assert_allclose(factors.bids * values, bids.bids, atol=BID)


def test_undefined_auctions_are_counted():
    """A bidder with a token of its own leaves nothing to a log-linear auction."""
    pool, values = point_masses(2), [2.0, 1.0]
    mechanism = ta.Mechanism(ta.log_linear(), ta.pay_your_bid())
    game = {"values": values, "valuation": TV, "num_tokens": 2, "num_auctions": 5}
    found = ta.bidding.best_response(
        jax.random.key(KEY), mechanism, pool, [1.0, 1.0], 0, **game
    )
    np.testing.assert_array_equal(found.undefined, np.where(found.grid > 0, 5, 0))
    assert gap(mechanism, pool, [1.0, 1.0], **game).undefined == 5
    game.pop("valuation"), game.pop("num_tokens"), game.pop("num_auctions")
    assert gap(contest(), pool, [1.0, 1.0], **game).undefined == 0


class TestBestResponse:
    def respond(self, pool, bids, agent, values, mechanism=None, valuation=TV):
        return ta.bidding.best_response(
            jax.random.key(KEY),
            mechanism or contest(),
            pool,
            bids,
            agent,
            values=values,
            valuation=valuation,
            num_tokens=1,
            num_auctions=None,
        )

    @pytest.mark.parametrize("agent", [0, 1, 2])
    def test_closed_form(self, agent):
        """The last one stays out: the others bid more than it has to win."""
        values, bids = np.array([3.0, 2.0, 1.0]), np.array([0.7, 0.4, 0.1])
        found = self.respond(point_masses(3), bids, agent, values)
        others = bids.sum() - bids[agent]
        due = contests.best_bid(values[agent], others)
        assert (due == 0) == (agent == 2)
        np.testing.assert_allclose(found.bid, due, atol=BID * values[agent])
        assert (found.bid > 0) == (due > 0)
        moved = np.where(np.arange(3) == agent, due, bids)
        now, then = (contests.payoffs(values, x)[agent] for x in (bids, moved))
        np.testing.assert_allclose(found.gain, then - now, atol=1e-5)
        assert found.gain_error == 0

    @pytest.mark.parametrize("agent", [0, 1, 2])
    def test_general_distributions(self, agent):
        log_probs, values = smooth(1, 3)
        bids = np.array([0.3, 0.2, 0.4])
        distance = contests.distance_to_others(bids, log_probs, agent)
        due = contests.best_bid(values[agent] * distance, bids.sum() - bids[agent])
        found = self.respond(ta.agents.tabular(log_probs), bids, agent, values)
        np.testing.assert_allclose(found.bid, due, atol=BID * values[agent])

    def test_the_global_maximum_of_two(self):
        """At an influence of 3 payoffs have a valley between 0 and the best bid."""
        values, others = np.array([2.0, 2.0]), 0.3
        own = np.linspace(0, 2, 200_001)
        payoffs = -2 * others**3 / (own**3 + others**3) - own
        rise = np.diff(payoffs)
        assert rise[0] < 0 < rise.max()
        args = (point_masses(2), np.array([1e-3, others]), 0, values)
        found = self.respond(*args, contest(3.0))
        np.testing.assert_allclose(found.bid, own[payoffs.argmax()], atol=BID)


class TestEquilibrium:
    @pytest.mark.parametrize("values", [(1.0, 1.0), (2.0, 1.0), (5.0, 0.3)])
    def test_pair(self, values):
        found = equilibrium(contest(), point_masses(2), values)
        assert_reached(found, contests.pair(values), values)

    @pytest.mark.sweep(2)
    @pytest.mark.parametrize(
        ("agents", "influence"), [(3, 1.0), (5, 1.0), (3, 0.5), (2, 1.9)]
    )
    def test_alike(self, agents, influence):
        values = np.full(agents, 1.7)
        found = equilibrium(contest(influence), point_masses(agents), values)
        due = np.full(agents, contests.alike(1.7, agents, influence))
        assert_reached(found, due, values)

    def test_alike_with_several_equilibria(self):
        """Beyond an influence of 1 one of three may stay out; any is right."""
        values = np.full(3, 1.7)
        found = equilibrium(contest(1.4), point_masses(3), values)
        both = np.full(2, contests.alike(1.7, 2, 1.4))
        answers = [np.full(3, contests.alike(1.7, 3, 1.4)), np.array([0, *both])]
        bids = np.sort(found.bids)
        reached = [np.abs(bids - due).max() <= BID * 1.7 for due in answers]
        assert any(reached)
        assert_reached(found, found.bids, values)

    @pytest.mark.parametrize(
        "values", [(3.0, 2.0, 1.5), (1.0, 3.0, 4.0, 2.5), (0.1, 2.0, 0.2, 2.0)]
    )
    def test_unequal(self, values):
        """Those who should stay out end at 0."""
        found = equilibrium(contest(), point_masses(len(values)), values)
        assert_reached(found, contests.unequal(values), values)

    @pytest.mark.parametrize(("seed", "agents"), [(0, 2), (1, 3)])
    def test_general_distributions(self, seed, agents):
        log_probs, values = smooth(seed, agents)
        found = equilibrium(contest(), ta.agents.tabular(log_probs), values)
        assert_reached(found, contests.general(values, log_probs), values)

    def test_none_is_claimed_where_there_is_none(self):
        """Beyond an influence of `n / (n - 1)` no certain bids are stable."""
        found = equilibrium(contest(3.0), point_masses(2), (1.0, 1.0))
        assert not found.converged
        assert found.gap > 1e-2


class TestGap:
    def test_of_an_equilibrium(self):
        values = np.array([3.0, 2.0, 1.5])
        found = gap(contest(), point_masses(3), contests.unequal(values), values)
        assert abs(found.gap) <= 1e-5
        assert found.gap_error == 0

    def test_is_the_sum_of_all_gains(self):
        values, bids = np.array([3.0, 2.0, 1.0]), np.array([0.7, 0.4, 0.1])
        found = gap(contest(), point_masses(3), bids, values)
        due = []
        for agent in range(3):
            best = contests.best_bid(values[agent], bids.sum() - bids[agent])
            moved = np.where(np.arange(3) == agent, best, bids)
            worths = [contests.payoffs(values, x)[agent] for x in (bids, moved)]
            due.append(worths[1] - worths[0])
        np.testing.assert_allclose(found.gains, due, atol=1e-5)
        np.testing.assert_allclose(found.gap, sum(due), atol=1e-5)


TRUTHFUL = [
    (bidding.Mechanism("linear", "second_price"), "total_variation"),
    (bidding.Mechanism("linear", "second_price", 2.0), "total_variation"),
    (bidding.Mechanism("linear", "clarke"), "forward_kl"),
    (bidding.Mechanism("log_linear", "clarke"), "reverse_kl"),
]
MYERSON = [(mechanism, mechanism.valuation) for mechanism in cases.MYERSON]
TRUTHFUL += [pytest.param(*case, marks=pytest.mark.slow) for case in MYERSON]


class TestTruth:
    """Bidding one's value is best where only this token counts."""

    @pytest.mark.sweep(1)
    @pytest.mark.parametrize(("mechanism", "valuation"), TRUTHFUL, ids=name)
    @pytest.mark.parametrize("num_tokens", [1, pytest.param(4, marks=pytest.mark.slow)])
    def test_is_a_fixed_point(self, mechanism, valuation, num_tokens):
        """Of one token, and of agents that do not read the text at any length."""
        auction = under(instance(9, (3, 4), num_tokens), mechanism)
        found = gap(
            cases.mechanism_of(mechanism),
            cases.pool_of(auction.table),
            auction.values,
            auction.values,
            cases.VALUATIONS[valuation],
            num_tokens=num_tokens,
            num_auctions=None if num_tokens == 1 else 10,
        )
        size = auction.values.sum() * num_tokens
        assert abs(found.gap) <= 1e-5 * size
        # All texts are worth the same: payments count by their mean before the draw.
        assert found.gap_error == 0

    @pytest.mark.parametrize(("mechanism", "valuation"), TRUTHFUL[2:4], ids=name)
    def test_another_bid_is_not(self, mechanism, valuation):
        auction = under(instance(9, (3, 4), 1), mechanism)
        args = (cases.mechanism_of(mechanism), cases.pool_of(auction.table))
        bids = auction.values * np.array([3.0, 1, 1])
        found = gap(*args, bids, auction.values, cases.VALUATIONS[valuation])
        assert found.gains[0] > 1e-3

    @pytest.mark.slow
    def test_is_none_where_later_contexts_are_at_stake(self):
        """Token 0 leads to where both agree: agent 0 bids more for it, 1 less.

        By the enumeration a third more and less gains 0.023 and 0.028 of a value of 1
        a token; the texts have four.
        """
        p = [
            [[0.2, 0.4, 0.4], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]],
            [[0.2, 0.4, 0.4], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        ]
        table = bidding.Table(np.log(p), 4, start=1)
        mechanism = bidding.Mechanism("linear", "second_price")
        auction = bidding.Auction(mechanism, table, np.ones(2), np.ones(2))
        due = np.array([best_gain(auction, agent) for agent in range(2)])
        assert (due > 0.02).all()
        found = gap(
            cases.mechanism_of(mechanism),
            cases.pool_of(table),
            auction.bids,
            auction.values,
            num_tokens=4,
            num_auctions=20_000,
        )
        # What a search on samples may miss of the best, where payoffs are flat.
        assert abs(found.gap - due.sum()) <= NORMAL * found.gap_error + 1e-3
        assert found.gap > NORMAL * found.gap_error


def best_gain(auction, agent):
    """What the best of many bids gains, by enumeration."""
    utility = bidding.utility(agent, "total_variation")

    def worth(own):
        bids = np.where(np.arange(2) == agent, own, auction.bids)
        return float(bidding.exact(replace(auction, bids=bids), utility))

    tried = [worth(own) for own in np.geomspace(0.3, 3, 231)]
    return max(tried) - worth(auction.bids[agent])


def test_segment_price():
    """Point masses at bids times click rates; per click, it is over the rate."""
    bids, clicks = np.array([1.5, 0.7, 2.0]), np.array([0.1, 0.4, 0.2])
    scores = bids * clicks
    found = ta.second_price(ta.linear()).expected(scores, jnp.log(jnp.eye(3)))
    due = contests.segment_price(scores, scores.sum() - scores)
    np.testing.assert_allclose(found / clicks, due / clicks, rtol=1e-5)
