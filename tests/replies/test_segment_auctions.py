"""The segment auction beside the others: who writes, and what is measured of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

TABLE = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32))
BIDS = np.array([1.0, 2.0], np.float32)


def write(auction, pool, size=50, key=0, **options):
    pool = ta.agents.with_reference(pool, "mean")
    options = {"num_tokens": 5} | options
    bids = jnp.tile(jnp.asarray(BIDS)[None], (size, 1))
    return jax.jit(lambda a: a.write(jax.random.key(key), pool, bids, **options))(
        auction
    )


def test_it_is_write_segments_of_the_agents():
    pool = ta.agents.tabular(TABLE)
    auction = ta.replies.segment_auction(2, relevance=[0.5, 0.25])
    found = write(auction, pool)
    other = ta.replies.write_segments(
        *(jax.random.key(0), pool, BIDS),
        relevance=[0.5, 0.25],
        segment_tokens=2,
        num_tokens=5,
        num_auctions=50,
    )
    np.testing.assert_array_equal(found.mask, other.rollout.mask)
    # Not the same draws, as there is a reference: the same laws.
    np.testing.assert_allclose(
        found.expected_payments, other.expected.sum(1), rtol=1e-5
    )
    logs = TABLE[:, np.asarray(found.tokens)].sum(2).T
    np.testing.assert_allclose(found.log_probs[:, :2], logs, rtol=1e-5)
    assert (found.payments <= 3 * BIDS[None]).all()
    np.testing.assert_array_equal(found.forward_passes, 5)
    both = write(ta.replies.segment_auction(2, num_ads=2), pool)
    np.testing.assert_array_equal(both.forward_passes, 10)
    # Nobody is left to pay for, and the mean writes.
    assert not np.any(both.payments)
    np.testing.assert_allclose(both.divergence, 0, atol=1e-6)


def test_random_agents_are_those_of_the_token_auction():
    pool, key = ta.agents.dirichlet(2, 6, 0.5), jax.random.key(4)
    tables = np.asarray(pool.init(4, key=jax.random.split(key)[1]), float)
    found = write(ta.replies.segment_auction(2), pool, size=4, key=4)
    for a in range(4):
        logs = tables[a][:, np.asarray(found.tokens[a])].sum(1)
        np.testing.assert_allclose(found.log_probs[a, :2], logs, atol=1e-5)


def test_bad_input():
    for wrong, message in (
        ({"segment_tokens": 0}, "segment_tokens must be"),
        ({"num_ads": 0}, "num_ads must be"),
        ({"relevance": [[1.0]]}, "expected a number or"),
        ({"relevance": -1.0}, "relevance"),
        ({"relevance": [0.0, 0.0]}, "must not all be 0"),
    ):
        options = {"segment_tokens": 2} | wrong
        with pytest.raises(ValueError, match=message):
            ta.replies.segment_auction(**options)
