"""Payments against the reference, and the identities between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, instances, payments
from reference.compare import SMALLEST, assert_payments, assert_within, smooth_auction

import tokenauction_jax as ta

INFLUENCES = (0.5, 1.0, 2.0, 3.7)
PAYMENTS = {
    "pay_your_bid": ta.pay_your_bid,
    "second_price": lambda: ta.second_price(ta.linear()),
    "second_price_2": lambda: ta.second_price(ta.linear(2.0)),
    "clarke_linear": lambda: ta.clarke(ta.linear()),
    "clarke_log_linear": lambda: ta.clarke(ta.log_linear()),
}


@jax.jit
def every_method(payment, keys, bids, log_probs, token):
    """Expected, conditional and realised payments of a batch of auctions."""
    return (
        jax.vmap(payment.expected)(bids, log_probs),
        jax.vmap(payment.conditional)(bids, log_probs, token),
        jax.vmap(payment.realized)(keys, bids, log_probs, token),
    )


@jax.jit
def expected(payment, bids, log_probs):
    """Expected payments of one auction."""
    return payment.expected(bids, log_probs)


def charged(payment, batch):
    """The same for the agents of the batch, compiled for the largest shape."""
    keys = jax.random.split(jax.random.key(0), len(batch))
    found = every_method(payment, keys, *batch.padded(), batch.token)
    agents = batch.bids.shape[1]
    for pays in found:
        np.testing.assert_array_equal(pays[:, agents:], 0)
    return [np.asarray(pays)[:, :agents] for pays in found]


@pytest.mark.parametrize("influence", INFLUENCES)
def test_second_price(auctions, influence):
    rule, influence = ta.second_price(ta.linear(influence)), np.float32(influence)
    for batch in instances.within_reach(influence, auctions):
        args = (batch.bids, batch.log_probs)
        mean, given, drawn = charged(rule, batch)
        assert_payments(mean, payments.second_price(*args, influence))
        reference = payments.second_price_given(*args, batch.token, influence)
        assert_payments(given, reference)
        assert (drawn >= 0).all()
        assert (drawn <= batch.bids * (1 + 1e-6)).all()


def test_clarke_linear(auctions):
    for batch in auctions:
        reference = payments.clarke_linear(batch.bids, batch.log_probs)
        for found in charged(ta.clarke(ta.linear()), batch):
            assert_payments(found, reference)


def test_clarke_log_linear(auctions, common_auctions):
    for batch in (*auctions, *common_auctions):
        reference = payments.clarke_log_linear(batch.bids, batch.log_probs)
        for found in charged(ta.clarke(ta.log_linear()), batch):
            assert_payments(found, reference)


def test_pay_your_bid(auctions):
    for batch in auctions:
        for found in charged(ta.pay_your_bid(), batch):
            np.testing.assert_array_equal(found, batch.bids)


def test_expectation_over_tokens(x64):
    """`sum_y q(y) conditional(y) == expected`, exactly."""

    @jax.jit
    def both(influence, bids, log_probs):
        payment = ta.second_price(ta.linear(influence))
        q = jnp.exp(payment.aggregation.log_prob(bids, log_probs))
        over_tokens = jax.vmap(payment.conditional, (None, None, 0))
        given = over_tokens(bids, log_probs, jnp.arange(7))
        return (q[:, None] * given).sum(0), payment.expected(bids, log_probs)

    for influence in INFLUENCES:
        for seed in range(4):
            mean, due = both(influence, *smooth_auction(seed))
            np.testing.assert_allclose(mean, due, rtol=1e-10)


@pytest.mark.parametrize("ratio", [1e-8, 1e-4, 1.0, 1e4, 1e8])
def test_extreme_ratios_of_bids(ratio):
    """The agent's and the others' payments, for a bid far below or above the rest."""
    _, log_probs = smooth_auction()
    args = (
        np.array([3 * ratio, 1, 2], np.float32),
        np.asarray(log_probs, np.float32),
    )
    for name in ("second_price", "clarke_linear", "clarke_log_linear"):
        found = expected(PAYMENTS[name](), *args)
        reference, _ = getattr(payments, name)(*args)
        assert_within(found, reference, 1e-5 * reference + SMALLEST)


@pytest.mark.parametrize(
    "name", ["second_price", "second_price_2", "clarke_linear", "clarke_log_linear"]
)
def test_monotone_in_the_own_bid(name):
    """A higher own bid never costs less, up to rounding."""
    own = jnp.geomspace(1e-6, 1e6, 61)

    @jax.jit
    def first_pays(bids, log_probs):
        raised = jax.vmap(lambda b: bids.at[0].set(b))(own)
        return jax.vmap(PAYMENTS[name]().expected, (0, None))(raised, log_probs)[:, 0]

    for seed in range(10):
        bids, log_probs = (x.astype(np.float32) for x in smooth_auction(seed))
        pays = np.asarray(first_pays(bids, log_probs), float)
        assert (pays >= 0).all()
        assert (np.diff(pays) >= -1e-5 * pays[1:]).all()


def test_a_second_price_win_needs_no_pass_over_the_vocabulary():
    """Neither the conditional nor the realised payment reads more than one column."""
    bids, log_probs = smooth_auction()
    payment, token = ta.second_price(ta.linear()), 3
    spoiled = np.full_like(log_probs, -7.0)
    spoiled[:, token] = log_probs[:, token]
    for method in (
        jax.jit(payment.conditional),
        jax.jit(lambda *args: payment.realized(jax.random.key(5), *args)),
    ):
        due = method(bids, log_probs, token)
        np.testing.assert_array_equal(method(bids, spoiled, token), due)
    assert aggregation.weights(bids).shape == due.shape


def test_clarke_log_linear_of_nearly_degenerate_aggregates():
    """5e-5 of the price itself, where one token has up to all but 1e-11 of ``r``."""
    rng = np.random.default_rng(0)
    shape = (5_000, 3, 8)
    top = rng.integers(8, size=shape[:2])
    agrees = rng.uniform(size=(5_000, 2)) < 0.8
    top[:, 1:] = np.where(agrees, top[:, :1], top[:, 1:])
    gaps = rng.uniform(2, 25, (*shape[:2], 1)) * rng.uniform(0.3, 1, shape)
    np.put_along_axis(gaps, top[..., None], 0, -1)
    log_probs = (-gaps - np.log(np.exp(-gaps).sum(-1, keepdims=True))).astype(
        np.float32
    )
    bids = (10 ** rng.uniform(-4, 4, shape[:2])).astype(np.float32)
    expected, _ = payments.clarke_log_linear(bids, log_probs)
    found = jax.vmap(ta.clarke(ta.log_linear()).expected)(bids, log_probs)
    assert_within(found, expected, 5e-5 * expected)


def test_clarke_log_linear_of_two_that_nearly_agree():
    """1e-5 of the price, which is of the square of what they differ by."""
    rng = np.random.default_rng(2)
    logits = rng.normal(scale=5, size=(50, 1, 1000))
    logits = logits + 10 ** rng.uniform(-4, -1, (50, 1, 1)) * rng.normal(
        size=(50, 2, 1000)
    )
    log_probs = np.asarray(jax.nn.log_softmax(logits.astype(np.float32)))
    bids = (10 ** rng.uniform(-2, 2, (50, 2))).astype(np.float32)
    found = jax.jit(jax.vmap(ta.clarke(ta.log_linear()).expected))(bids, log_probs)
    expected, _ = payments.clarke_log_linear(bids, log_probs)
    assert_within(found, expected, 1e-5 * expected)


@pytest.mark.parametrize("mask", [-1e9, -1e14, -1e20, np.finfo(np.float32).min])
def test_clarke_log_linear_of_masks_that_are_numbers(mask):
    """A token that is masked in one agent has no part in q."""
    bids, open_to_all = np.float32([1, 2]), np.log([[0.2, 0.8], [0.5, 0.3]])
    log_probs = np.float32([[*open_to_all[0], mask], [*open_to_all[1], np.log(0.2)]])
    q = np.exp(bids @ open_to_all / 3)
    q /= q.sum()
    losses = (q * (np.log(q) - open_to_all)).sum(1)
    found = ta.clarke(ta.log_linear()).expected(bids, log_probs)
    np.testing.assert_allclose(found, (bids * losses)[::-1], rtol=1e-5)


def test_clarke_log_linear_of_agents_that_all_but_veto():
    """2e-5 of the price for logs of -100 to -2,000, which have few digits."""
    rng = np.random.default_rng(1)
    shape = (4_000, 3, 5)
    log_probs = np.log(rng.dirichlet(np.ones(5), size=shape[:2]))
    agent, token = rng.integers(3, size=4_000), rng.integers(5, size=4_000)
    log_probs[np.arange(4_000), agent, token] = -(10 ** rng.uniform(2, 3.3, 4_000))
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    log_probs = log_probs.astype(np.float32)
    bids = (10 ** rng.uniform(-2, 2, shape[:2])).astype(np.float32)
    found = jax.jit(jax.vmap(ta.clarke(ta.log_linear()).expected))(bids, log_probs)
    expected, terms = payments.clarke_log_linear(bids, log_probs)
    assert_within(found, expected, 2e-5 * expected + payments.EPSILON * terms)
