"""False distributions, false names and rings: what they submit, and what they earn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impostors import rejection
from reference import aggregation, payments, valuations

import tokenauction_jax as ta
from tokenauction_jax import bidding, testing

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()
SECOND_PRICE = ta.Mechanism(LINEAR, ta.second_price(LINEAR))
A, N, V = 400, 3, 6
RNG = np.random.default_rng(0)
LOG_PROBS = np.log(RNG.dirichlet(np.ones(V), (A, N))).astype(np.float32)
VALUES = np.exp(RNG.normal(0, 0.5, (A, N))).astype(np.float32)
RULES = {
    "pay_your_bid": (ta.Mechanism(LINEAR, ta.pay_your_bid()), ta.total_variation()),
    "second_price": (SECOND_PRICE, ta.total_variation()),
    "clarke": (ta.Mechanism(LINEAR, ta.clarke(LINEAR)), ta.forward_kl()),
    "log_linear": (ta.Mechanism(LOG_LINEAR, ta.clarke(LOG_LINEAR)), ta.reverse_kl()),
}


@functools.cache
def gains(name, strategy_of):
    """Of truthful bidders `(A, n)`, money."""
    mechanism, valuation = RULES[name]

    def gain(values, log_probs):
        strategy = strategy_of(mechanism, values)
        rules = mechanism, valuation, strategy
        return bidding.strategy_gain(*rules, values, log_probs, values=values)

    return np.asarray(jax.jit(jax.vmap(gain))(VALUES, LOG_PROBS))


def pair(mechanism, values):
    weight = values[0] / (values[0] + values[1])
    return bidding.ring(0, 1, aggregation=mechanism.aggregation, weight=weight)


STRATEGIES = {
    "two names": lambda mechanism, values: bidding.split(0, 2),
    "eight names": lambda mechanism, values: bidding.split(0, 8),
    "ring": pair,
    "sharp": lambda mechanism, values: bidding.misreport(0, temperature=0.8),
    "flat": lambda mechanism, values: bidding.misreport(0, temperature=1.25),
}


def test_gains_by_definition():
    """Under the second price, in double precision."""

    def utilities(bids, told, log_probs, values, owners):
        worth = values * valuations.total_variation(
            aggregation.linear(bids, told)[None], log_probs
        )
        due = payments.second_price(bids, told)[0]
        return worth - np.bincount(owners, due.astype(float))

    found = {
        "two names": gains("second_price", STRATEGIES["two names"]),
        "ring": gains("second_price", STRATEGIES["ring"]),
        "sharp": gains("second_price", STRATEGIES["sharp"]),
    }
    for row in range(5):
        values, logs = VALUES[row].astype(float), LOG_PROBS[row].astype(float)
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        honest = utilities(values, logs, logs, values, range(N))
        halves = np.array([values[0] / 2, *values[1:], values[0] / 2])
        mixture = np.log(values[:2] @ np.exp(logs[:2]) / values[:2].sum())
        power = 1.25 * logs[0] - np.log(np.exp(1.25 * logs[0]).sum())
        for name, bids, told, owners in (
            ("two names", halves, logs[[0, 1, 2, 0]], [0, 1, 2, 0]),
            ("ring", values, np.stack([mixture, mixture, logs[2]]), range(N)),
            ("sharp", values, np.stack([power, logs[1], logs[2]]), range(N)),
        ):
            wanted = utilities(bids, told, logs, values, owners) - honest
            np.testing.assert_allclose(found[name][row], wanted, atol=2e-6)


@pytest.mark.parametrize("name", ["second_price", "log_linear"])
@pytest.mark.parametrize("strategy", ["two names", "ring"])
def test_names_and_rings_leave_the_text_as_it_is(name, strategy):
    rule = RULES[name][0].aggregation

    def outcomes(values, log_probs):
        strategic = STRATEGIES[strategy](RULES[name][0], values)
        told = strategic.bids(values), strategic.submit(log_probs)
        return jnp.exp(rule.log_prob(values, log_probs)), jnp.exp(rule.log_prob(*told))

    honest, found = jax.vmap(outcomes)(VALUES, LOG_PROBS)
    np.testing.assert_allclose(found, honest, atol=1e-6)


@pytest.mark.parametrize("name", ["clarke", "log_linear"])
def test_no_false_distribution_gains_where_welfare_is_maximal(name):
    """Clarke payments make the whole report truthful, not the bid alone."""
    for strategy in ("sharp", "flat"):
        assert (gains(name, STRATEGIES[strategy])[:, 0] < 1e-6).all()
    shift = np.random.default_rng(1).normal(0, 1, V)
    found = gains(name, lambda *_: bidding.misreport(0, shift=shift))
    assert (found[:, 0] < 1e-6).all()


# Per cent of the values of those who play it, as in docs/bidding.md.
GAINS = {
    "pay_your_bid": {"two names": 0, "eight names": 0, "ring": 0, "sharp": 1.4},
    "second_price": {"two names": 3.5, "eight names": 5.5, "ring": 3.1, "sharp": 0.8},
    "clarke": {"two names": 8.3, "eight names": 11.9, "ring": 9.7, "sharp": -0.6},
    "log_linear": {"two names": 10.6, "eight names": 15.7, "ring": 12.9, "sharp": -1},
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", GAINS)
def test_the_table_of_gains(name):
    """The signs, and the sizes as far as fewer tokens and auctions tell."""
    for strategy, wanted in GAINS[name].items():
        who = [0, 1] if strategy == "ring" else [0]
        found = gains(name, STRATEGIES[strategy])[:, who].sum(1)
        share = 100 * found / VALUES[:, who].sum(1)
        assert abs(share.mean() - wanted) < 0.5 + 0.3 * abs(wanted)
        if wanted == 0:
            np.testing.assert_allclose(share, 0, atol=1e-3)
        else:
            assert np.sign(share.mean()) == np.sign(wanted)


def test_pools_with_strategies():
    """A split owner over texts: what is paid adds up to the sum over its names."""
    table = np.random.default_rng(2).dirichlet(np.ones(4), (2, 4))
    owners = ta.agents.tabular(np.log(table).astype(np.float32), end_token=3)
    strategy = bidding.split(1, 3)
    pool = bidding.with_strategy(owners, strategy, reveal=True)
    testing.check_pool(pool)
    assert (pool.num_agents, pool.vocab_size, pool.end_token) == (6, 4, 3)
    bids = strategy.bids(jnp.array([1.0, 3.0]))
    np.testing.assert_array_equal(bids, [1, 1, 1, 1])
    assert strategy.owners(2) == (0, 1, 1, 1)
    rollout = ta.simulate(
        *(jax.random.key(0), SECOND_PRICE, pool),
        jnp.concatenate([bids, jnp.zeros(2)]),
        num_tokens=4,
        num_auctions=8,
        observe=lambda bids, log_probs, log_q, token: log_probs,
    )
    told, wanted = np.split(np.asarray(rollout.observations), [4], axis=2)
    np.testing.assert_array_equal(told[:, :, :2], wanted)
    np.testing.assert_array_equal(told[:, :, 2:], wanted[:, :, [1, 1]])
    np.testing.assert_array_equal(rollout.payments[..., 4:], 0)
    plain = ta.simulate(
        *(jax.random.key(0), SECOND_PRICE, owners, [1.0, 3.0]),
        num_tokens=4,
        num_auctions=8,
    )
    np.testing.assert_array_equal(plain.tokens, rollout.tokens)


def test_a_strategy_is_no_pool():
    rejection("does not implement AgentPool", testing.check_pool, bidding.split(0, 2))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: bidding.split(0, 1), "parts must be an integer of at least 2, got 1"),
        (
            lambda: bidding.split(-1, 2),
            "agent must be an integer of at least 0, got -1",
        ),
        (
            lambda: bidding.misreport(0, temperature=0.0),
            "temperature must be from 1e-30",
        ),
        (lambda: bidding.misreport(0, shift=[0.0, -np.inf]), "shift must be finite"),
        (
            lambda: bidding.misreport(0, shift=np.ones((2, 2))),
            r"shift has shape \(2, 2\)",
        ),
        (
            lambda: bidding.ring(1, 1, aggregation=LINEAR, weight=0.5),
            "second must be another agent",
        ),
        (
            lambda: bidding.ring(0, 1, aggregation=LINEAR, weight=1.5),
            "weight must be from 0 to 1, got 1.5",
        ),
        (
            lambda: bidding.ring(0, 1, aggregation=ta.pay_your_bid(), weight=0.5),
            "aggregation must follow Aggregation",
        ),
    ],
)
def test_bad_numbers(build, match):
    with pytest.raises(ValueError, match=match):
        build()
