"""Properties that hold for every auction, searched by hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tokenauction_jax as ta
from tokenauction_jax.mechanism.base import SMALLEST_BID

N, V = 3, 4
_least = float(np.nextafter(np.float32(SMALLEST_BID), np.float32(1)))
_amounts = st.just(0.0) | st.floats(_least, 1e4, width=32)
bids = arrays(np.float32, N, elements=_amounts).filter(lambda x: x.sum() > 0)
logits = arrays(np.float32, (N, V), elements=st.floats(-20, 20, width=32))
influences = st.floats(0.25, 4.0, width=32)
q_of = jax.jit(lambda rule, bids, log_probs: jnp.exp(rule.log_prob(bids, log_probs)))
due = jax.jit(lambda rule, bids, log_probs: rule.expected(bids, log_probs))


def normalized(logits):
    return np.asarray(jax.nn.log_softmax(logits))


@given(bids, logits, influences)
def test_linear_stays_between_the_agents(bids, logits, influence):
    log_probs = normalized(logits)
    q, p = q_of(ta.linear(influence), bids, log_probs), np.exp(log_probs[bids > 0])
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-5)
    assert (q >= p.min(0) * (1 - 1e-5) - 1e-30).all()
    assert (q <= p.max(0) * (1 + 1e-5) + 1e-30).all()


@given(bids, logits, influences, st.floats(1, 100, width=32))
def test_linear_is_monotone(bids, logits, influence, factor):
    """A higher bid brings every token closer to the bidder, without overshooting."""
    log_probs, rule = normalized(logits), ta.linear(influence)
    raised = bids * np.array([factor, 1, 1], np.float32)
    p = np.exp(log_probs[0])
    before = q_of(rule, bids, log_probs) - p
    after = q_of(rule, raised, log_probs) - p
    assert (np.abs(after) <= np.abs(before) + 1e-6).all()
    assert (
        (before * after >= 0) | (np.abs(before) < 1e-6) | (np.abs(after) < 1e-6)
    ).all()


@given(bids, logits, st.floats(-2, 2, width=32), influences)
def test_agreement_is_kept(bids, logits, order, influence):
    """If all agents agree, that is the outcome, and agreement costs nothing."""
    log_probs = normalized(np.tile(logits[:1], (N, 1)))
    q = q_of(ta.power_mean(order, influence), bids, log_probs)
    np.testing.assert_allclose(q, np.exp(log_probs[0]), rtol=1e-4, atol=1e-12)
    pays = due(ta.second_price(ta.linear(influence)), bids, log_probs)
    np.testing.assert_allclose(pays, 0, atol=1e-6 * bids.max())


@given(bids, logits, influences)
def test_nobody_pays_more_than_the_bid(bids, logits, influence):
    """A win costs at most the bid, so a token does on average."""
    pays = due(ta.second_price(ta.linear(influence)), bids, normalized(logits))
    assert (pays >= 0).all()
    assert (pays <= bids * (1 + 1e-5)).all()
