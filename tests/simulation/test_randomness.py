"""Randomness belongs to the key, the number of the auction and the position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import tokenauction_jax as ta

FALSE_ALARM = 1e-7
SECOND_PRICE = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
# Compiles faster, where the noise of the payments is not in question.
PAY_YOUR_BID = ta.Mechanism(ta.linear(), ta.pay_your_bid())
BIDS = np.array([1.0, 2.0], np.float32)


def run(count, *, mechanism=SECOND_PRICE, first=0, seed=0, num_tokens=6, bids=BIDS):
    rng = np.random.default_rng(1)
    log_probs = np.log(rng.dirichlet(np.ones(5), size=(2, 5))).astype(np.float32)
    return ta.simulate(
        jax.random.key(seed),
        mechanism,
        ta.agents.tabular(log_probs, end_token=3),
        bids,
        num_tokens=num_tokens,
        num_auctions=count,
        first_auction=first,
    )


def assert_same(some, everything, rows):
    """Tokens to the bit, payments to rounding: shapes change how XLA rounds."""
    for name in ("tokens", "mask", "valid"):
        array = np.asarray(getattr(everything, name))[rows]
        np.testing.assert_array_equal(getattr(some, name), array)
    for name in ("payments", "expected_payments", "log_prob"):
        array = np.asarray(getattr(everything, name))[rows]
        np.testing.assert_allclose(getattr(some, name), array, rtol=1e-5, atol=1e-7)


def test_batches():
    everything = run(40)
    for first, count in ((0, 8), (17, 8), (32, 8), (17, 1)):
        part = run(count, first=first)
        assert_same(part, everything, slice(first, first + count))


def test_neighbours():
    bids = np.tile(BIDS, (40, 1))
    bids[::2] *= np.array([100.0, 0.0], np.float32)
    mixed, plain = run(40, bids=bids), run(40)
    odd = jax.tree.map(lambda x: np.asarray(x)[1::2], mixed)
    assert_same(odd, plain, slice(1, None, 2))


def test_devices():
    devices = jax.devices()
    if jax.default_backend() == "cpu":
        assert len(devices) == 8
    mesh = jax.sharding.Mesh(np.array(devices), ("auctions",))
    spec = jax.sharding.PartitionSpec("auctions")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    shared = jax.device_put(jnp.tile(BIDS, (40, 1)), sharding)
    assert_same(run(40, bids=shared), run(40), slice(None))


def test_shorter_texts_are_prefixes():
    short = run(40, num_tokens=2, mechanism=PAY_YOUR_BID)
    long = run(40, mechanism=PAY_YOUR_BID)
    prefix = jax.tree.map(lambda x: np.asarray(x)[:, :2] if x.ndim > 1 else x, long)
    assert_same(short, prefix, slice(None))


def test_the_payment_rule_does_not_change_the_tokens():
    plain = run(40, mechanism=PAY_YOUR_BID)
    np.testing.assert_array_equal(run(40).tokens, plain.tokens)


def test_keys():
    once, again, other = run(40), run(40), run(40, seed=1)
    np.testing.assert_array_equal(once.payments, again.payments)
    assert not jnp.array_equal(once.tokens, other.tokens)
    assert len(np.unique(np.asarray(once.tokens), axis=0)) > 5


def test_auctions_and_positions_differ():
    """A wrong `fold_in` would repeat a row, a column or a diagonal."""
    pool = ta.agents.tabular(np.log(np.full((1, 2), 0.5, np.float32)))
    bits = ta.simulate(
        jax.random.key(0),
        PAY_YOUR_BID,
        pool,
        np.ones(1),
        num_tokens=64,
        num_auctions=64,
    ).tokens
    bits = 2 * np.asarray(bits) - 1
    bound = special.ndtri(1 - FALSE_ALARM / 128**2) * 8
    diagonals = np.array([np.roll(row, i) for i, row in enumerate(bits)])
    for rows in (bits, bits.T, diagonals):
        gram = rows @ rows.T
        np.fill_diagonal(gram, 0)
        assert np.abs(gram).max() < bound


@pytest.mark.parametrize("first", [-1, 2**32 - 1, 2**32, 1.5])
def test_numbers_of_auctions_do_not_wrap(first):
    """The last of two auctions would be number 0 again, or there is no such number."""
    log_probs = jnp.log(jnp.array([[0.5, 0.5], [0.2, 0.8]]))
    random = ta.agents.dirichlet(2, 4, 1.0)
    with pytest.raises(ValueError, match="first_auction must be an integer in"):
        random.init(2, key=jax.random.key(0), first_auction=first)
    mechanism = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    with pytest.raises(ValueError, match="first_auction must be an integer in"):
        ta.simulate(
            *(jax.random.key(0), mechanism, ta.agents.tabular(log_probs), [1.0, 2.0]),
            num_tokens=1,
            num_auctions=2,
            first_auction=first,
        )
