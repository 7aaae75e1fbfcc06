"""Derivatives of payments against numerical ones of the extended-precision reference.

In double precision, so that a wrong formula cannot hide in rounding; that float32
gradients are finite and close is checked for every rule by the contract table.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import payments
from reference.compare import gradients, smooth_auction
from reference.definitions import derivative

import tokenauction_jax as ta

COEFFICIENTS = np.array([1.0, -2.0, 0.5])
RULES = {
    "second_price": lambda: ta.second_price(ta.linear()),
    "clarke_linear": lambda: ta.clarke(ta.linear()),
    "clarke_log_linear": lambda: ta.clarke(ta.log_linear()),
}


def loss(rule, bids, logits):
    return COEFFICIENTS @ rule.expected(bids, jax.nn.log_softmax(logits))


slopes = jax.jit(jax.grad(loss, (0, 1, 2)))


@jax.jit
def by_bids(rule, bids, log_probs):
    """Derivatives of the payments (rows) in the bids (columns)."""
    return jax.jacrev(lambda bids: rule.expected(bids, log_probs))(bids)


def reference(name, *numbers):
    """What `loss` should be, with the arguments in its order."""
    pays, _ = getattr(payments, name)(*numbers)
    return (COEFFICIENTS * pays).sum(-1)


@pytest.mark.parametrize("influence", [0.5, 1.0, 2.0, 3.7])
def test_second_price(influence, x64):
    """In bids, logits and influence, also at influence exactly 1."""
    bids, logits = smooth_auction()
    rule = ta.second_price(ta.linear(influence))
    found = slopes(rule, bids, logits)
    expected = gradients(
        lambda *x: reference("second_price", *x), derivative, bids, logits, influence
    )
    np.testing.assert_allclose(found[0].aggregation.influence, expected[2], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[2], expected[1], rtol=1e-6, atol=1e-12)


def test_second_price_given_a_token(x64):
    """In the logits: the price of a win does not depend on them, its chance does."""
    bids, logits = smooth_auction()

    @jax.jit
    @jax.grad
    def found(logits):
        log_probs = jax.nn.log_softmax(logits)
        given = ta.second_price(ta.linear()).conditional(bids, log_probs, 2)
        return COEFFICIENTS @ given

    def by_definition(logits):
        given, _ = payments.second_price_given(bids, logits, 2)
        return (COEFFICIENTS * given).sum(-1)

    (expected,) = gradients(by_definition, derivative, logits)
    np.testing.assert_allclose(found(logits), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["clarke_linear", "clarke_log_linear"])
def test_clarke(name, x64):
    bids, logits = smooth_auction()
    _, bid_slope, logit_slope = slopes(RULES[name](), bids, logits)
    expected = gradients(
        lambda *x: reference(name, *x), derivative, bids, logits, step=1e-2
    )
    np.testing.assert_allclose(bid_slope, expected[0], rtol=1e-7)
    np.testing.assert_allclose(logit_slope, expected[1], rtol=1e-7, atol=1e-12)


def numerical(name, bids, log_probs, agent, step, **kwargs):
    """Derivatives of all payments in one agent's bid."""

    def along(own):
        moved = np.array(bids, np.longdouble)
        moved[agent] = own
        return getattr(payments, name)(moved, log_probs)[0]

    return derivative(along, bids[agent], step, **kwargs).astype(float)


@pytest.mark.parametrize("ratio", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("name", RULES)
def test_bids_far_apart(name, ratio, x64):
    """Each entry relative to its own size, over bids of very different size."""
    bids, log_probs = smooth_auction()
    bids[0] *= ratio
    found = by_bids(RULES[name](), bids, log_probs)
    for agent in range(3):
        slope = numerical(name, bids, log_probs, agent, 1e-3 * bids[agent])
        np.testing.assert_allclose(found[:, agent], slope, rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_one_sided_derivative_at_a_zero_bid(name, x64):
    bids, log_probs = smooth_auction()
    bids[1] = 0
    found = by_bids(RULES[name](), bids, log_probs)[:, 1]
    slope = numerical(name, bids, log_probs, 1, 1e-4, one_sided=True)
    np.testing.assert_allclose(found, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("single", [False, True])
def test_clarke_slope_of_an_exclusive_token_at_a_zero_bid(single):
    """`d zeta / d b = p(r = 0)` at 0: each exclusive token costs its probability."""
    rows = [[0.1, 0.2, 0.7], [0.5, 0.5, 0.0], [0.3, 0.7, 0.0]]
    bids = jnp.array([0.0, 2.0, 0.0 if single else 1.0])
    rule = ta.clarke(ta.linear())
    log_probs = jnp.log(jnp.array(rows))
    found = by_bids(rule, bids, log_probs)
    np.testing.assert_allclose(found[0, 0], 0.7, rtol=1e-5)


@pytest.mark.parametrize("influence", [1.0, 2.0])
def test_second_price_slope_in_the_own_bid_vanishes_at_zero(influence):
    """The mean payment is of order `1 + influence` in the own bid."""
    bids, log_probs = smooth_auction()
    bids[0] = 0
    found = by_bids(ta.second_price(ta.linear(influence)), bids, log_probs)
    np.testing.assert_allclose(found[0, 0], 0, atol=1e-6)


CORNERS = {
    "zero probabilities": ([1.0, 2.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "a zero bid": ([1.0, 0.0, 0.5], [[1, 2, 3], [3, 1, 1], [2, 2, 1]]),
    "both": ([1.0, 0.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "one bidder": ([1.0, 0.0, 0.0], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "equal bidders": ([1.0, 1.0, 1.0], [[1, 2, 3], [1, 2, 3], [1, 2, 3]]),
    "disjoint supports": ([1.0, 2.0, 3.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "a huge bid": ([1e8, 1.0, 1.0], [[1, 2, 3], [3, 1, 1], [2, 0, 1]]),
    "a tiny bid": ([1e-8, 1.0, 1.0], [[1, 2, 3], [3, 1, 1], [2, 0, 1]]),
    "nobody bids": ([0.0, 0.0, 0.0], [[1, 2, 3], [3, 1, 1], [2, 0, 1]]),
}


def everything(rule, bids, log_probs):
    args = (bids, log_probs)
    expected, conditional = rule.expected(*args), rule.conditional(*args, 2)
    return (expected + conditional + rule.realized(jax.random.key(0), *args, 2)).sum()


@pytest.mark.parametrize("name", RULES)
def test_finite_at_every_corner(name):
    both = jax.jit(jax.value_and_grad(everything, (0, 1, 2)))
    rules = [RULES[name]()]
    if name == "second_price":
        rules += [ta.second_price(ta.linear(a)) for a in (0.5, 2.0)]
    for corner, (bids, weights) in CORNERS.items():
        weights = jnp.array(weights, float)
        log_probs = jnp.log(weights / weights.sum(-1, keepdims=True))
        for rule in rules:
            for leaf in jax.tree.leaves(both(rule, jnp.array(bids), log_probs)):
                assert np.isfinite(leaf).all(), corner


@pytest.mark.parametrize("name", RULES)
def test_corners(name):
    """Finite where bids are up to 1e24 apart, and odds of tokens up to exp(500)."""
    rule, rng = RULES[name](), np.random.default_rng(0)
    size, vocabulary = 100, 7
    scales = 10 ** rng.uniform(-1, 2.3, (size, 1, 1))
    logits = scales * rng.normal(size=(size, 3, vocabulary))
    vetoed = rng.integers(3, size=size), rng.integers(vocabulary, size=size)
    logits[np.arange(0, size, 2), *(x[::2] for x in vetoed)] = -np.inf
    bids = 10 ** rng.uniform(-12, 12, (size, 3))
    if name != "second_price":
        # There a derivative at 0 may be beyond a float: the token was all but lost.
        bids[::5, 0] = 0

    @jax.jit
    @jax.vmap
    def found(bids, logits):
        log_probs = jax.nn.log_softmax(logits)

        def pays(bids, log_probs):
            return jax.vmap(lambda token: rule.conditional(bids, log_probs, token))(
                jnp.arange(vocabulary)
            )

        values, forward = pays(bids, log_probs), jax.jacfwd(pays)(bids, log_probs)
        return values, forward, jax.jacrev(pays, (0, 1))(bids, log_probs)

    given = bids.astype(np.float32), logits.astype(np.float32)
    for leaf in jax.tree.leaves(found(*given)):
        assert np.isfinite(leaf).all()


def test_clarke_log_linear_of_vetoes():
    """Of the definition in the bids; forward, reverse and second ones of all.

    With odds of up to exp(300).
    """
    rule, rng = ta.clarke(ta.log_linear()), np.random.default_rng(0)
    shape = (300, 3, 6)
    logits = rng.choice([1, 30, 60], size=(300, 1, 1)) * rng.normal(size=shape)
    logits[..., 1:][rng.random((300, 3, 5)) < 0.2] = -np.inf
    log_probs = jax.nn.log_softmax(logits.astype(np.float32))
    bids = (10 ** rng.uniform(-3, 3, shape[:2])).astype(np.float32)

    @jax.jit
    @jax.vmap
    def found(*auction):
        forward = jax.jacfwd(rule.expected, (0, 1))(*auction)
        # As of a mean of a million auctions.
        reverse = jax.jacrev(lambda *x: 1e-6 * rule.expected(*x), (0, 1))(*auction)
        second = jax.hessian(lambda *x: rule.expected(*x).sum())(*auction)
        return forward, reverse, second

    forward, reverse, second = found(bids, log_probs)
    assert np.isfinite(second).all()
    for one, other in zip(forward, reverse, strict=True):
        scale = abs(one).max(tuple(range(1, one.ndim)), keepdims=True)
        assert (abs(1e6 * other - one) <= 1e-4 * scale).all()
    for agent in range(3):
        step = np.eye(3)[agent] * 1e-4
        above, below = (
            payments.clarke_log_linear(bids * (1 + x), log_probs)[0]
            for x in (step, -step)
        )
        slopes = (above - below) / (2e-4 * bids[:, agent, None])
        scale = payments.clarke_log_linear(bids, log_probs)[1] / bids[:, agent, None]
        gap = abs(np.asarray(forward[0][..., agent]) - slopes)
        assert (gap <= 1e-3 * abs(slopes) + 1e-5 * scale + 1e-30).all()
