"""Realised second prices against the law of the critical bid given the token.

Keys are fixed; every bound is crossed by a right sampler with a probability of at most
`FALSE_ALARM`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from monotone_rules import assert_law
from reference import aggregation, payments
from reference.compare import smooth_auction
from scipy import special

import tokenauction_jax as ta

FALSE_ALARM = 1e-7


@partial(jax.jit, static_argnames="draws")
def realized(payment, key, bids, log_probs, token, draws):
    keys = jax.random.split(key, draws)
    call = jax.vmap(payment.realized, (0, None, None, None))
    return call(keys, bids, log_probs, token)


@partial(jax.jit, static_argnames=("draws", "kept"))
def largest(payment, key, bids, log_probs, token, draws, kept=256):
    """How many of `draws` batches' payments are positive, and the largest of each."""

    def batch(count, key_batch):
        keys = jax.random.split(key_batch, 2**14)
        call = jax.vmap(payment.realized, (0, None, None, None))
        pays = call(keys, bids, log_probs, token)[:, :-1]
        # Two wins of one draw are rare enough to look at the larger one only.
        return count + (pays > 0).sum(), jax.lax.top_k(pays.max(1), kept)[0]

    return jax.lax.scan(batch, 0, jax.random.split(key, draws))


def assert_poisson(seen, expected):
    assert special.gammainc(seen, expected) > FALSE_ALARM if seen else True
    assert special.gammaincc(seen + 1, expected) > FALSE_ALARM


@pytest.mark.parametrize("influence", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_law_given_the_token(influence, scale):
    """Each agent's payment, for each token; the first agent's bid is far off."""
    bids, log_probs = smooth_auction(1, 3, 4)
    bids[0] *= scale ** min(1, 2 / influence)
    bids, log_probs = bids.astype(np.float32), log_probs.astype(np.float32)
    payment, a = ta.second_price(ta.linear(influence)), np.float32(influence)
    for token in range(4):
        key = jax.random.key(token)
        sample = np.asarray(realized(payment, key, bids, log_probs, token, 20_000))
        for agent in range(3):

            def cdf(s, agent=agent, token=token):
                s = s * (1 + 1e-6)  # float32 rounding, at the own bid above all
                return payments.payment_cdf(s, bids, log_probs, agent, token, a)

            assert (sample[:, agent] >= 0).all()
            assert (sample[:, agent] <= bids[agent] * (1 + 1e-6)).all()
            assert_law(sample[:, agent], cdf)


def test_agents_draw_independently():
    bids, log_probs = smooth_auction(1, 3, 4)
    log_probs[1] = log_probs[0]
    bids[1] = bids[0]
    p, q = np.exp(log_probs[0]), np.exp(aggregation.linear(bids, log_probs))
    token = int(np.argmax(p / q))
    payment = ta.second_price(ta.linear())
    sample = realized(payment, jax.random.key(0), bids, log_probs, token, 20_000)
    wins = np.asarray(sample[:, :2] > 0, float)
    assert wins.mean() > 0.05
    correlation = np.corrcoef(wins.T)[0, 1]
    assert abs(correlation) < special.ndtri(1 - FALSE_ALARM / 2) / np.sqrt(20_000)


def crowd(win, agents):
    """Many agents that win token 0 with a small probability each.

    The last agent dominates: `q` is its distribution, and so is every `r`. A bidder
    with `p = r (1 + gain)` and a share `lambda` wins with `lambda gain`.
    """
    gain = 1.0
    bids = np.full(agents + 1, win / gain)
    bids[-1] = 1 - win * agents
    log_probs = np.log(np.array([[0.5, 0.5]] * agents + [[0.25, 0.75]]))
    return bids.astype(np.float32), log_probs.astype(np.float32)


def exact_wins(bids, log_probs):
    """Chance that the first agent wins token 0, and `B`."""
    cdf = payments.payment_cdf(np.zeros(1), bids, log_probs, 0, 0)
    return 1 - cdf[0], bids[1:].astype(float).sum()


@pytest.mark.parametrize(
    ("win", "agents", "batches"),
    [
        (1e-6, 64, 20),
        (1e-9, 512, 8),
        pytest.param(2e-8, 512, 100, marks=pytest.mark.slow),
    ],
)
def test_rare_wins(win, agents, batches):
    """One float32 uniform is 0, and so below any rate, with probability 1e-7."""
    bids, log_probs = crowd(win, agents)
    chance, _ = exact_wins(bids, log_probs)
    payment = ta.second_price(ta.linear())
    count, top = largest(payment, jax.random.key(1), bids, log_probs, 0, draws=batches)
    assert_poisson(int(count), float(chance) * batches * 2**14 * (bids.size - 1))
    # Given a win the payment is (nearly) uniform up to the bid.
    pays = np.asarray(top).ravel()
    pays = pays[pays > 0] / bids[0]
    if pays.size:
        assert_law(pays, lambda s: np.clip(s * (1 + 1e-6), 0, 1))


def test_rare_losses():
    """A token that nearly nobody else produces is won almost surely, not surely."""
    for loss in (1e-3, 5e-6):
        bids = np.array([1.0, 1.0], np.float32)
        log_probs = np.log([[0.5, 0.5], [loss, 1 - loss]]).astype(np.float32)
        cdf = payments.payment_cdf(np.zeros(1), bids, log_probs, 0, 0)[0]
        payment = ta.second_price(ta.linear())
        pays = realized(payment, jax.random.key(2), bids, log_probs, 0, 2_000_000)
        losses = int((np.asarray(pays)[:, 0] == 0).sum())
        assert_poisson(losses, float(cdf) * 2_000_000)


@pytest.mark.parametrize("batches", [20, pytest.param(600, marks=pytest.mark.slow)])
def test_prices_far_above_the_others(batches):
    """Against a dominant bid the price has a tail `1 / s` up to the bid itself.

    One float32 uniform stops at `2^24` times the others, and sits on a grid before.
    """
    bids = np.array([1e10, 1.0], np.float32)
    log_probs = np.log([[0.999999, 1e-6], [1e-6, 0.999999]]).astype(np.float32)
    payment, draws = ta.second_price(ta.linear()), batches * 2**14
    count, top = largest(payment, jax.random.key(3), bids, log_probs, 0, draws=batches)
    assert int(count) > 0.9 * draws
    pays = np.asarray(top, float).ravel()
    for threshold in (1e3, 1e4, 1e5, 1e6, 1e7, 1e8):
        cdf = payments.payment_cdf(np.array([threshold]), bids, log_probs, 0, 0)[0]
        assert_poisson(int((pays > threshold).sum()), float((1 - cdf) * draws))
    # `1 / (1 + s) = 1 - v` of the largest ones: on a grid of 2^-24 all were whole.
    units = 2.0**24 / (1 + pays[pays > 2e4])
    assert units.size > 5
    assert (np.abs(units - np.round(units)) > 1e-2).mean() > 0.5


def test_mean_is_the_conditional_expectation():
    bids, log_probs = smooth_auction(2, 4, 5)
    for influence in (0.5, 1.0, 2.0):
        payment = ta.second_price(ta.linear(influence))
        for token in range(5):
            key = jax.random.key(token)
            sample = np.asarray(
                realized(payment, key, bids, log_probs, token, 20_000), float
            )
            reference = payments.second_price_given(bids, log_probs, token, influence)
            due = reference[0].astype(float)
            # Hoeffding: payments lie in [0, bid].
            bound = bids * np.sqrt(np.log(2 / FALSE_ALARM) / (2 * 20_000))
            assert (np.abs(sample.mean(0) - due) < bound).all()


def test_same_key_same_payment():
    bids, log_probs = smooth_auction(2, 4, 5)
    payment = ta.second_price(ta.linear())
    pays = [
        realized(payment, jax.random.key(7), bids, log_probs, 1, 20_000)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*pays)
    assert len(np.unique(np.asarray(pays[0]))) > 10
    other = realized(payment, jax.random.key(8), bids, log_probs, 1, 20_000)
    assert not jnp.array_equal(pays[0], other)
