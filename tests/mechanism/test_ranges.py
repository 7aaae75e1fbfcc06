"""float32 against the definitions where powers of bids leave the range of floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation as reference
from reference.compare import assert_within

import tokenauction_jax as ta
from tokenauction_jax.mechanism import mean_price
from tokenauction_jax.mechanism.influence import Odds, influence_scores

LD = np.longdouble
INFLUENCES = (0.1, 0.5, 1.0, 2.0, 10.0, 30.0, 100.0)
# Bids as far apart as the domain allows, and 1e36 from one another: prices of less than
# 1e-38 of a bid are 0.
COUNT, AGENTS, TOKENS = 300, 3, 5


def auctions(seed, spread=36.0):
    """Bids `(COUNT, n)` and log-probabilities `(COUNT, n, V)`, a third with zeros."""
    rng = np.random.default_rng(seed)
    width = rng.uniform(0, spread, (COUNT, 1))
    start = rng.uniform(-30, 29.5 - width)
    bids = 10 ** (start + width * rng.uniform(size=(COUNT, AGENTS)))
    bids[rng.uniform(size=bids.shape) < 0.05] = 0
    bids[:, 0] = np.where(bids.sum(-1) > 0, bids[:, 0], 1)
    p = rng.dirichlet(np.ones(TOKENS), (COUNT, AGENTS))
    zero = (rng.uniform(size=p.shape) < 0.3) & (rng.uniform(size=(COUNT, 1, 1)) < 0.3)
    zero[..., 0] = False
    p = np.where(zero, 0, p)
    with np.errstate(divide="ignore"):
        log_probs = np.log(p / p.sum(-1, keepdims=True))
    return bids.astype(np.float32), log_probs.astype(np.float32)


def mean_share(log_odds, influence):
    """`E[s | win] / b`: the mean of `s / b = exp((t - log_odds) / a)` over wins.

    Wins have a log-odds `t` of density `sigmoid(t) sigmoid(-t)` below `log_odds`.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(
        min(log_odds, 0) - 60, log_odds, 2 + int(2.5 * abs(log_odds)) + 200
    )
    width = edges[1] - edges[0]
    t = (edges[:-1, None] + width * (nodes + 1) / 2).astype(LD)
    density = np.exp(-np.abs(t)) / (1 + np.exp(-np.abs(t))) ** 2
    mean = (np.exp((t - log_odds) / influence) * density * weights).sum() * width / 2
    return mean * (1 + np.exp(-LD(log_odds)))


def second_prices(bids, log_probs, influence):
    """Expected payments `(n,)`, and the terms that cancel in a total variation."""
    p = np.exp(reference.renormalize(log_probs))
    pays, scales = np.zeros((2, AGENTS), LD)
    for i in range(AGENTS):
        rest = np.where(np.arange(AGENTS) == i, 0, bids)
        if bids[i] == 0 or rest.sum() == 0:
            continue
        own = reference.weights(bids, influence)[i]
        others = (reference.weights(rest, influence)[:, None] * p).sum(0)
        powers = (rest[rest > 0].astype(LD) / LD(bids[i])) ** LD(influence)
        log_odds = -np.log(powers.sum())
        price = LD(bids[i]) * mean_share(float(log_odds), influence) * own
        pays[i] = np.abs(p[i] - others).sum() / 2 * price
        scales[i] = price
    return pays, scales


@pytest.mark.parametrize("influence", [*INFLUENCES, 1e3])
def test_mean_shares(influence):
    """At odds from `exp(-60)` to `exp(60)`, and to `exp(700)` by exponents."""
    log_odds = np.array([-60, -20, -3, -0.1, 0, 0.1, 1, 5, 20, 60, 300, 700.0])
    exponent = np.where(log_odds > 80, np.round(log_odds / np.log(2)), 0)
    ratio = np.exp(log_odds - np.log(2) * exponent).astype(np.float32)
    log_odds = np.log(ratio.astype(LD)) + np.log(LD(2)) * exponent
    share, rest = (np.float32(1 / (1 + np.exp(sign * log_odds))) for sign in (-1, 1))
    odds = Odds(
        *(jnp.asarray(x, jnp.float32) for x in (share, rest, ratio, exponent)),
        contested=jnp.ones(log_odds.shape, bool),
    )
    found = jax.jit(mean_price.mean_share)(odds, influence)
    influence = float(np.float32(influence))
    expected = np.array([mean_share(float(x), influence) for x in log_odds])
    assert_within(found, expected, 1e-5 * expected + 1e-30)


@pytest.mark.parametrize("size", [1, 7, 20_000])
@pytest.mark.parametrize("influence", [1e-3, 0.1, 1.0, 3.7, 10.0, 100.0, 300.0, 1e3])
def test_scores(influence, size):
    """Mantissas go with their exponents, in whatever program; 2e-7 a is lost."""
    bids = 10 ** np.random.default_rng(6).uniform(-29, 29, (size, 8))
    bids = bids.astype(np.float32)
    influence = np.float32(influence)
    scores = jax.jit(jax.vmap(influence_scores, (0, None)))(bids, influence)
    found = np.log(np.asarray(scores.mantissa, LD))
    found += np.log(LD(2)) * np.asarray(scores.exponent, LD)
    expected = LD(influence) * np.log(bids.astype(LD) / bids.max(-1, keepdims=True))
    assert np.abs(found - expected).max() < 4e-6 + 2e-7 * float(influence)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_weights_and_linear_aggregates(influence):
    bids, log_probs = auctions(1)
    rule = ta.linear(influence)
    expected = reference.weights(bids, influence)
    found = jax.vmap(rule.weights)(bids)
    with np.errstate(divide="ignore"):
        # Of powers by logarithms: their own rounding, in the exponent.
        digits = 1e-5 + 1e-7 * np.abs(np.log(np.where(expected > 0, expected, 1)))
    assert_within(found, expected, digits * expected + 1e-35)
    expected = reference.linear(bids, log_probs, influence)
    found = jax.vmap(rule.log_prob)(bids, log_probs)
    assert_within(found, expected, 1e-5 + 1e-6 * np.abs(expected))


@pytest.mark.parametrize("influence", INFLUENCES)
@pytest.mark.parametrize("order", [-2.0, 0.0, 0.5, 3.0])
def test_power_means(order, influence):
    """Also of bidders whose weight is no number of a float32, but whose veto counts."""
    bids, log_probs = auctions(2)
    rule = ta.log_linear(influence) if order == 0 else ta.power_mean(order, influence)
    expected = reference.aggregate(bids, log_probs, order, influence)
    found = np.asarray(jax.vmap(rule.log_prob)(bids, log_probs), float)
    assert_within(found, expected, 1e-5 + 2e-6 * np.abs(expected))


@pytest.mark.parametrize("influence", INFLUENCES)
def test_second_prices(influence):
    bids, log_probs = auctions(3)
    rows = [second_prices(*row, influence) for row in zip(bids, log_probs, strict=True)]
    expected, scales = np.array(rows, LD).swapaxes(0, 1)
    payment = ta.second_price(ta.linear(influence))
    found = jax.vmap(payment.expected)(bids, log_probs)
    log_bids = np.log(bids.clip(1e-30))
    digits = influence * (log_bids.max(-1, keepdims=True) - log_bids)
    # Of the ratio of two bids, magnified by a power.
    digits += 8 * max(influence - 30, 0)
    allowed = (1e-5 + 1e-7 * digits) * expected + 2e-6 * scales + 1e-37 * bids
    assert_within(found, expected, allowed + 1e-35)

    # The mean of what is paid once the token is known.
    q = np.exp(reference.linear(bids, log_probs, influence))
    given = jax.vmap(jax.vmap(payment.conditional, (None, None, 0)), (0, 0, None))
    pays = np.asarray(given(bids, log_probs, jnp.arange(TOKENS)), LD)
    # Chances below 1e-25 are not resolved there.
    unresolved = 1e-25 if influence > 30 else 2e-26
    allowed = allowed + unresolved * bids + 1e-35
    assert_within((q[..., None] * pays).sum(1), expected, allowed)


@pytest.mark.parametrize("influence", INFLUENCES)
@pytest.mark.parametrize("bids", [(1.5, 9129.0), (6e3, 1.0), (1e-10, 1e10), (2.0, 1.0)])
def test_law_of_realized_prices(bids, influence):
    """Wins and prices; Kolmogorov and binomial limits of 1 false alarm in 1e6 each."""
    log_probs = np.log(np.array([[0.7, 0.3], [0.2, 0.8]], np.float32))
    payment, token, draws = ta.second_price(ta.linear(influence)), 1, 20_000
    own = int(np.argmax(bids))
    log_probs = log_probs if own == 1 else log_probs[::-1]
    keys = jax.random.split(jax.random.key(4), draws)
    pay = jax.vmap(payment.realized, (0, None, None, None))
    prices = np.asarray(pay(keys, jnp.array(bids), log_probs, token), LD)[:, own]
    ratio = (LD(bids[1 - own]) / LD(bids[own])) ** LD(influence)
    won = prices > 0
    share = 1 / (1 + ratio)
    p, r = (np.exp(LD(log_probs[i, token])) for i in (own, 1 - own))
    chance = float(share * (p - r) / (share * p + (1 - share) * r))
    assert abs(won.mean() - chance) < 4.9 * np.sqrt(chance * (1 - chance) / draws)
    powers = (prices[won] / LD(bids[own])) ** LD(influence)
    quantiles = np.sort(powers * (1 + ratio) / (ratio + powers))
    ranks = (np.arange(won.sum()) + 0.5) / won.sum()
    assert np.abs(quantiles - ranks).max() < 2.7 / np.sqrt(won.sum())


@pytest.mark.sweep(6)
@pytest.mark.parametrize("influence", [0.5, 1.0, 1.5, 2.0, 3.7, 10.0])
@pytest.mark.parametrize(
    "bids", [(1e-8, 1.0, 1e8), (1e-19, 1.0, 1.0), (1e-30, 1.0, 3.0)]
)
def test_first_and_second_derivatives_are_finite(bids, influence):
    log_probs = np.log(np.random.default_rng(5).dirichlet(np.ones(4), 3))
    log_probs, bids = jnp.asarray(log_probs, jnp.float32), jnp.array(bids)
    payments = [ta.second_price(ta.linear(influence))]
    if influence == 1:
        payments += [ta.clarke(ta.linear()), ta.clarke(ta.log_linear())]
    for payment in payments:

        def total(bids, payment=payment):
            return payment.expected(bids, log_probs).sum()

        assert np.isfinite(jax.jit(jax.grad(total))(bids)).all()
        if influence != 0.5:  # then the second derivative at 1e-30 is above 1e38
            assert np.isfinite(jax.jit(jax.hessian(total))(bids)).all()
    for rule in (ta.linear(influence), ta.log_linear(influence)):

        def first(bids, rule=rule):
            return rule.log_prob(bids, log_probs)[0]

        assert np.isfinite(jax.jit(jax.grad(first))(bids)).all()
        if influence != 0.5:
            assert np.isfinite(jax.jit(jax.hessian(first))(bids)).all()


@pytest.mark.parametrize(
    "bids", [(1e-31, 1.0), (1e-40, 1e-40), (1.1e30, 1.0), (3e38, 1)]
)
def test_bids_out_of_range_are_refused(bids):
    log_probs = np.log(np.array([[0.7, 0.3], [0.2, 0.8]]))
    for call in (
        ta.linear().log_prob,
        ta.log_linear().log_prob,
        ta.power_mean(0.5).log_prob,
        ta.pay_your_bid().expected,
        ta.second_price(ta.linear()).expected,
        ta.clarke(ta.log_linear()).expected,
        ta.myerson(ta.linear(), ta.forward_kl()).expected,
    ):
        with pytest.raises(ValueError, match=r"1e[-+]30"):
            call(np.array(bids), log_probs)


def test_out_of_range_under_a_transformation():
    """Too small counts as 0, too large leaves no auction, everywhere."""
    log_probs = jnp.log(jnp.array([[0.7, 0.3], [0.2, 0.8]]))
    calls = [
        (rule.log_prob, -jnp.inf)
        for rule in (ta.linear(), ta.log_linear(), ta.power_mean(0.5))
    ] + [
        (payment.expected, 0.0)
        for payment in (
            ta.pay_your_bid(),
            ta.second_price(ta.linear()),
            ta.clarke(ta.linear()),
            ta.clarke(ta.log_linear()),
            ta.myerson(ta.linear(), ta.forward_kl()),
        )
    ]
    for call, empty in calls:
        call = jax.jit(call)
        tiny, zero = (call(jnp.array([x, 1.0]), log_probs) for x in (1e-31, 0.0))
        np.testing.assert_array_equal(tiny, zero)
        assert (call(jnp.array([2e30, 1.0]), log_probs) == empty).all()
        assert (call(jnp.array([1e-31, 1e-31]), log_probs) == empty).all()
