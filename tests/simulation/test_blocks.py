"""Blocks change nothing but how long it takes."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.bidding import policies
from tokenauction_jax.simulation import blocks

MECHANISM = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
AUCTIONS, AGENTS, TOKENS = 12, 3, 5
BIDS = np.random.default_rng(0).gamma(2.0, size=(AUCTIONS, AGENTS)).astype(np.float32)
TABLE = ta.agents.markov(jax.random.key(1), AGENTS, TOKENS, 0.5)


@ta.record
class Whole:
    """A pool that is asked for all auctions at once."""

    pool: ta.agents.AgentPool

    num_agents = property(lambda self: self.pool.num_agents)
    vocab_size = property(lambda self: self.pool.vocab_size)
    end_token = property(lambda self: self.pool.end_token)

    def init(self, num_auctions, **rest):
        assert num_auctions == AUCTIONS
        return self.pool.init(num_auctions, **rest)

    def step(self, state, tokens):
        assert tokens.shape == (AUCTIONS,)
        return self.pool.step(state, tokens)


def constants(by_auction):
    some = [policies.constant(x) for x in BIDS.mean(0)]
    rows = [jax.vmap(policies.constant)(x) for x in BIDS.T]
    budgets = np.where(BIDS > 1, 2.0, np.inf)
    return ta.Bidders(rows if by_auction else some, budgets, by_auction)


OFFERS = {
    "bids": BIDS,
    "policies": constants(False),
    "policies by auction": constants(True),
}
POOLS = {
    "markov": replace(TABLE, end_token=2),
    "markov, whole": Whole(replace(TABLE, end_token=2)),
    "random": ta.agents.dirichlet(AGENTS, TOKENS, 0.3),
}


def entropy(bids, log_probs, log_q, token, weight):
    return {"entropy": weight * -(jnp.exp(log_q) * log_q).sum(), "bids": bids}


def run(pool, offers, size):
    return ta.simulate(
        *(jax.random.key(3), MECHANISM, POOLS[pool], OFFERS[offers]),
        num_tokens=4,
        first_auction=7,
        observe=entropy,
        accumulate=entropy,
        observe_args=(jnp.arange(AUCTIONS, dtype=jnp.float32),),
        block_size=size,
    )


@pytest.mark.sweep(2)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("offers", OFFERS)
def test_blocks(pool, offers):
    """Of one, of sizes that leave a rest or none, and of all auctions."""
    wanted = run(pool, offers, AUCTIONS)
    for size in (1, 4, 5, 100):
        found = run(pool, offers, size)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)
        np.testing.assert_array_equal(found.mask, wanted.mask)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7),
            found,
            wanted,
        )


@pytest.mark.slow
def test_derivatives():
    def revenue(bids, size):
        found = ta.simulate(
            *(jax.random.key(3), MECHANISM, TABLE, bids),
            num_tokens=4,
            block_size=size,
        )
        return found.expected_payments.sum() + found.log_prob.sum()

    wanted = jax.grad(revenue)(BIDS, AUCTIONS)
    for size in (4, 5):
        np.testing.assert_allclose(jax.grad(revenue)(BIDS, size), wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_sizes_are_checked(size):
    with pytest.raises(ValueError, match="block_size"):
        run("markov", "bids", size)


@pytest.mark.parametrize("count", [1, 4096, 10_000, 65_536, 65_537, 100_003])
def test_a_cache_holds_a_block(count):
    """Blocks divide the auctions where a size of half the cache or more does."""
    if jax.default_backend() != "cpu":
        assert blocks.cache_size(count, 3, 64) == count
        return
    size = blocks.cache_size(count, 3, 64)
    most = 4096
    assert size <= most
    if count <= most:
        assert size == count
    else:
        even = [x for x in range(most // 2 + 1, most + 1) if count % x == 0]
        assert size == max(even, default=most)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_scan(size):
    """As JAX's, of outputs of any kind, and with its derivatives."""
    keys = jax.random.split(jax.random.key(0), size)
    xs = {"x": jnp.arange(1.0, 1 + size), "keys": keys}

    def step(carry, row):
        total = carry * jnp.sin(row["x"]) + row["x"] ** 2
        numbers = total * jnp.arange(3.0), total > 1, jnp.int8(3), 2.0
        return total, {"numbers": numbers, "none": None, "keys": row["keys"]}

    for start in (jnp.float32(0.3), 0.3):
        last, found = blocks.scan(step, start, xs)
        expected_last, expected = jax.lax.scan(step, start, xs)
        assert last == expected_last
        assert (found.pop("keys") == expected.pop("keys")).all()
        jax.tree.map(np.testing.assert_array_equal, found, expected)

    def total(scan, start):
        last, out = scan(step, start, xs)
        return (out["numbers"][0] ** 2).sum() + last

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = (
            derivative(functools.partial(total, scan))(jnp.float32(0.3))
            for scan in (blocks.scan, jax.lax.scan)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
