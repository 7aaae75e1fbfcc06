"""Derivatives through policies, against every path that a text and its payments take.

Thresholds come from one family-wise false-alarm rate, shared equally by all scores.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import paths
from scipy import stats

import tokenauction_jax as ta
from tokenauction_jax import bidding
from tokenauction_jax.bidding.paths import react

RULE = ta.linear()
MECHANISMS = {
    "pay_your_bid": ta.Mechanism(RULE, ta.pay_your_bid()),
    "second_price": ta.Mechanism(RULE, ta.second_price(RULE)),
}
TV = ta.total_variation()
UTILITY = bidding.utility(0, TV)
LOG_PROBS = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (2, 3)))
POOL = ta.agents.tabular(LOG_PROBS.astype(np.float32))
VALUES = jnp.array([3.0, 1.0])
# One run of this file in a million alarms falsely: it has fewer than a hundred scores.
RATE = 1e-6 / 100
NORMAL = stats.norm.isf(RATE / 2)


@ta.record
class Reacts:
    """Bids by the last token, and less the more it has spent."""

    amounts: jax.Array
    rate: jax.Array

    def init(self):
        return ()

    def bid(self, state, info):
        amount = self.amounts[info.last_token + 1]
        return amount * jnp.exp(-self.rate * info.spent), state


NUMBERS = np.array([1.5, 1.0, 2.0, 0.7, 0.8, 1.0, 2.0, 0.5])
FREE = (np.inf, np.inf)
# What is paid, budgets, and how many tokens a text has.
CASES = [
    ("pay_your_bid", FREE, 3),
    ("pay_your_bid", (2.0, 1.7), 3),
    ("second_price", FREE, 2),
]


def policies_of(x):
    return [Reacts(x[:4], x[4]), bidding.schedule(x[5:])]


def due(x, budgets, payment, num_tokens):
    """The worth, by enumeration."""
    policies = [
        lambda _, last, spent: x[last + 1] * np.exp(-x[4] * spent),
        lambda position, *_: x[5 + position],
    ]
    auction = (LOG_PROBS, policies, budgets, 3.0, 0, num_tokens, payment)
    return paths.worth(paths.Auction(*auction))


def slopes_of(function, x, step=1e-4):
    moves = step * np.eye(x.size)
    return np.array([function(x + m) - function(x - m) for m in moves]) / (2 * step)


def by_auction(payment, budgets, num_tokens, size, key, **options):
    """The worth, and its derivatives in the numbers and the budgets of each auction."""
    x = jnp.asarray(NUMBERS[: 5 + num_tokens], jnp.float32)

    def worth(policies, budgets):
        bidders = ta.Bidders(policies, budgets, by_auction=True)
        args = (key, MECHANISMS[payment], POOL, bidders, UTILITY)
        shared = {"values": VALUES, "num_tokens": num_tokens, **options}
        return bidding.expected(*args, **shared)

    rows = jnp.tile(x, (size, 1))
    policies = [
        Reacts(rows[:, :4], rows[:, 4]),
        jax.vmap(bidding.schedule)(rows[:, 5:]),
    ]
    limits = jnp.tile(jnp.array(budgets), (size, 1))
    found, slopes = jax.value_and_grad(worth, (0, 1))(policies, limits)
    parts = [x.reshape(size, -1) for x in jax.tree.leaves(slopes)]
    return found, size * np.concatenate(parts, axis=1).astype(float)


def assert_scores(found, error, wanted, rounding=1e-5):
    deviation = np.abs(np.asarray(found, float) - wanted)
    assert (deviation <= NORMAL * np.asarray(error) + rounding).all(), deviation


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("payment", "budgets", "num_tokens"), CASES)
def test_derivatives_in_policies_and_budgets(payment, budgets, num_tokens):
    size, x = 200_000, NUMBERS[: 5 + num_tokens]
    key = jax.random.key(1)
    found, slopes = by_auction(payment, budgets, num_tokens, size, key)
    budgets = np.array(budgets)
    wanted = slopes_of(lambda x: due(x, budgets, payment, num_tokens), x)
    limits = np.zeros(2)
    if np.isfinite(budgets).all():
        limits = slopes_of(lambda b: due(x, b, payment, num_tokens), budgets)
        assert np.abs(limits).max() > 0.1
    error = slopes.std(0) / np.sqrt(size)
    assert_scores(slopes.mean(0), error, [*wanted, *limits])
    shared = ta.Bidders(policies_of(jnp.asarray(x, jnp.float32)), budgets)
    both = bidding.value_and_grad(
        *(key, MECHANISMS[payment], POOL, shared, UTILITY),
        values=VALUES,
        num_tokens=num_tokens,
        num_auctions=size,
    )
    assert_scores(both.value, both.value_error, due(x, budgets, payment, num_tokens))
    np.testing.assert_allclose(both.value, found, rtol=1e-5)
    for name, wanted in (("gradient", slopes.mean(0)), ("gradient_error", error)):
        tree = getattr(both, name)
        assert isinstance(tree, tuple)
        assert [type(x) for x in tree] == [Reacts, type(bidding.schedule([1.0]))]
        flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
        np.testing.assert_allclose(flat, wanted[: x.size], rtol=2e-3, atol=1e-5)


def agree(found, wanted):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        found,
        wanted,
    )


@pytest.mark.sweep(1)
@pytest.mark.parametrize("payment", MECHANISMS)
def test_constants_are_bids(payment):
    """The same values and derivatives, in all numbers, from the same key."""

    def worth(mechanism, bids, values, temperature, policies):
        pool = bidding.tempered(POOL, temperature)
        if policies:
            bids = ta.Bidders([bidding.constant(bid) for bid in bids])
        return bidding.expected(
            *(jax.random.key(0), mechanism, pool, bids, UTILITY + bidding.revenue()),
            values=values,
            num_tokens=4,
            num_auctions=100,
        )

    of_all = jax.value_and_grad(worth, (0, 1, 2, 3))
    args = (MECHANISMS[payment], jnp.array([1.0, 2.0]), VALUES, jnp.float32(1.1))
    agree(of_all(*args, True), of_all(*args, False))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("gradient", ["myopic", "differences"])
def test_constants_are_bids_for_other_estimators(gradient):
    bids = jnp.array([1.0, 2.0])
    bidders = ta.Bidders([bidding.constant(bid) for bid in bids])
    found, wanted = (
        bidding.value_and_grad(
            *(jax.random.key(0), MECHANISMS["pay_your_bid"], POOL, x, UTILITY),
            values=VALUES,
            num_tokens=3,
            num_auctions=100,
            gradient=gradient,
        )
        for x in (bidders, bids)
    )
    for name in ("value", "value_error", "undefined", "infinite"):
        agree(getattr(found, name), getattr(wanted, name))
    for name in ("gradient", "gradient_error"):
        amounts = [policy.amount for policy in getattr(found, name)]
        agree(jnp.stack(amounts), getattr(wanted, name))


@pytest.mark.slow
def test_errors_are_the_spread():
    runs, size = 200, 250
    bidders = ta.Bidders(policies_of(jnp.asarray(NUMBERS, jnp.float32)), [2.0, 1.7])

    @jax.jit
    @jax.vmap
    def run(key):
        found = bidding.value_and_grad(
            *(key, MECHANISMS["pay_your_bid"], POOL, bidders, UTILITY),
            values=VALUES,
            num_tokens=3,
            num_auctions=size,
        )
        return (found.value, found.gradient), (found.value_error, found.gradient_error)

    found, errors = run(jax.random.split(jax.random.key(1), runs))
    for x, error in zip(jax.tree.leaves(found), jax.tree.leaves(errors), strict=True):
        spread = np.atleast_1d(np.var(x, 0, ddof=1))
        stated = np.atleast_1d(np.square(error).mean(0))
        # The last amount of the schedule is beyond its budget.
        ratio = (runs - 1) * spread[stated > 0] / stated[stated > 0]
        assert (ratio > stats.chi2.ppf(RATE / 2, runs - 1)).all()
        assert (ratio < stats.chi2.isf(RATE / 2, runs - 1)).all()


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["own", "network"])
def test_training_pays(name):
    """A few steps of an optimizer, and what they gain on other texts."""
    own = Reacts(jnp.full(4, 3.0), jnp.float32(0.1))
    network = bidding.network(3.0, key=jax.random.key(0), hidden=4)
    first = {"own": own, "network": network}[name]
    args = {"values": VALUES, "num_tokens": 2, "num_auctions": 100}
    optimizer = optax.adam(0.1)

    def worth(policy, key):
        bidders = ta.Bidders([policy, bidding.constant(1.0)])
        run = (key, MECHANISMS["pay_your_bid"], POOL, bidders, UTILITY)
        return bidding.expected(*run, **args)

    def step(carry, key):
        policy, state = carry
        slopes = jax.grad(worth)(policy, key)
        updates, state = optimizer.update(jax.tree.map(jnp.negative, slopes), state)
        return (optax.apply_updates(policy, updates), state), None

    @jax.jit
    def train(policy, keys):
        (policy, _), _ = jax.lax.scan(step, (policy, optimizer.init(policy)), keys)
        return policy

    first = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), first)
    last = train(first, jax.random.split(jax.random.key(1), 20))
    worths = jax.jit(jax.vmap(worth, (None, 0)))
    ends = [worths(x, jax.random.split(jax.random.key(2), 20)) for x in (last, first)]
    gains = np.asarray(ends[0] - ends[1], float)
    threshold = stats.t.isf(RATE, len(gains) - 1)
    assert gains.mean() > threshold * gains.std(ddof=1) / np.sqrt(len(gains))


@ta.record
class Cautious:
    """Stops once half of its money is gone; remembers, or looks at, what it spent."""

    remembers: bool = ta.static_field()

    def init(self):
        return jnp.array(False)

    def bid(self, state, info):
        late = info.spent > 0.5
        if self.remembers:
            return jnp.where(state, 0.0, 1.0), state | late
        return jnp.where(late, 0.0, 1.0), state


@pytest.mark.parametrize(
    ("policy", "reacts"),
    [
        (bidding.constant(1.0), False),
        (bidding.platform(1.0), False),
        (bidding.schedule([1.0, 2.0]), False),
        (Reacts(jnp.ones(4), jnp.float32(0)), True),
        (Cautious(True), True),
        (Cautious(False), True),
        (bidding.adaptive_pacing(1.0, 0.1), True),
        (bidding.network(1.0, key=jax.random.key(0)), True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_whether_policies_look_at_payments(policy, reacts):
    """Comparisons count, of which derivatives see nothing; rows change nothing."""
    policies = (bidding.constant(1.0), policy)
    assert react(ta.Bidders(policies), POOL, 4) == reacts
    rows = jax.tree.map(lambda x: jnp.stack([x, x]), policies)
    assert react(ta.Bidders(rows, by_auction=True), POOL, 4) == reacts


def test_platforms_pay_nothing():
    """Their utility is what the text is worth to them."""
    bidders = ta.Bidders([bidding.platform(1.0), bidding.constant(2.0)])
    shared = {"values": VALUES, "num_tokens": 3, "num_auctions": 50}
    run = jax.random.key(0), MECHANISMS["second_price"], POOL
    paid = bidding.utility(1, TV) + bidding.revenue()
    free = bidding.utility(0, TV) + paid
    worth = bidding.expected(*run, bidders, free, **shared)
    wanted = bidding.expected(
        *run, jnp.array([1.0, 2.0]), bidding.welfare(TV), **shared
    )
    np.testing.assert_allclose(worth, wanted, rtol=1e-5)


def test_bad_bids_are_named():
    bidders = ta.Bidders([Reacts(-jnp.ones(4), jnp.float32(0)), bidding.constant(1.0)])
    run = jax.random.key(0), MECHANISMS["pay_your_bid"], POOL, bidders, UTILITY
    shared = {"values": VALUES, "num_tokens": 2, "num_auctions": 3}
    for function in (bidding.expected, bidding.value_and_grad):
        with pytest.raises(ValueError, match=r"policies\[0\], a Reacts, bid -1.0"):
            function(*run, **shared)


@pytest.mark.slow
def test_memory_is_that_of_the_distributions():
    size, num_tokens, vocabulary = 200, 16, 64
    pool = ta.agents.markov(jax.random.key(0), 2, vocabulary, 1.0)

    def worth(amounts):
        bidders = ta.Bidders([bidding.schedule(amounts), bidding.constant(1.0)])
        args = {"values": VALUES, "num_tokens": num_tokens, "num_auctions": size}
        key = jax.random.key(0)
        run = (key, MECHANISMS["second_price"], pool, bidders, UTILITY)
        return bidding.expected(*run, **args)

    compiled = jax.jit(jax.grad(worth)).lower(jnp.ones(num_tokens)).compile()
    kept = 4 * size * num_tokens * 2 * vocabulary
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * kept


def test_infinite_worths_have_no_slope():
    """Under forward KL an agent that is silent, or has spent all, is infinitely sad."""
    pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    run = jax.random.key(0), MECHANISMS["pay_your_bid"], pool

    def worth(amount, budget, values, mechanism, factor):
        bidders = ta.Bidders([bidding.constant(amount), bidding.constant(1.0)], budget)
        objective = factor * bidding.utility(0, ta.forward_kl())
        args = (run[0], mechanism, pool, bidders, objective)
        return bidding.expected(*args, values=values, num_tokens=3, num_auctions=4)

    args = (1.0, jnp.array([1.5, jnp.inf]), VALUES, run[1], 1.0)
    found, slopes = jax.value_and_grad(worth, (0, 1, 2, 3, 4))(*args)
    assert found == -jnp.inf
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    # For two tokens half of the text is its own; it pays 1.5 in all.
    np.testing.assert_allclose(slopes[2], [-2 * np.log(2), 0], rtol=1e-5)
    np.testing.assert_allclose(slopes[1], [-1, 0], rtol=1e-5)
