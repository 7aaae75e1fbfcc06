"""Simulations under transformations, with rules and pools of other people."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.agents import filters

LINEAR = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
CLARKE = ta.Mechanism(ta.linear(), ta.clarke(ta.linear()))
PAY_YOUR_BID = ta.Mechanism(ta.linear(), ta.pay_your_bid())
LOG_PROBS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32))


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """A user's own rule, which counts how often it is traced."""

    scale: float
    name = "counted"
    monotone = False
    traces = 0

    def tree_flatten(self):
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    def weights(self, bids):
        return self.scale * bids / bids.sum()

    def log_prob(self, bids, log_probs):
        type(self).traces += 1
        return jax.nn.log_softmax(self.weights(bids) @ log_probs)


def test_one_trace_for_other_numbers():
    traces = []
    for scale in (0.5, 2.0):
        mechanism = ta.Mechanism(Counted(scale), ta.pay_your_bid())
        for bids in (np.ones(2), np.array([1.0, 3.0])):
            for log_probs in (LOG_PROBS, LOG_PROBS[::-1].copy()):
                for first in (0, 100):
                    pool = ta.agents.tabular(log_probs)
                    ta.simulate(
                        jax.random.key(0),
                        mechanism,
                        pool,
                        bids,
                        num_tokens=2,
                        num_auctions=3,
                        first_auction=first,
                    )
                    traces.append(Counted.traces)
    assert traces[0] == traces[-1] > 0


def test_gradients_of_expected_payments():
    """In bids, tables and influence; a step in the bid must not be flat."""

    def revenue(bids, log_probs, influence):
        rule = ta.linear(influence)
        rollout = ta.simulate(
            jax.random.key(0),
            ta.Mechanism(rule, ta.second_price(rule)),
            ta.agents.tabular(jax.nn.log_softmax(log_probs)),
            bids,
            num_tokens=3,
            num_auctions=16,
        )
        return rollout.expected_payments.mean()

    slopes = jax.jit(jax.grad(revenue, (0, 1, 2)))
    for bids in (jnp.ones(2), jnp.array([1.0, 0.0])):
        for slope in slopes(bids, jnp.asarray(LOG_PROBS), 1.0):
            assert np.isfinite(slope).all()
    assert (slopes(jnp.ones(2), jnp.asarray(LOG_PROBS), 1.0)[0] != 0).all()


def test_inside_jit_and_vmap():
    pool = ta.agents.tabular(LOG_PROBS)

    def revenue(bids):
        args = (jax.random.key(0), CLARKE, pool, bids)
        rollout = ta.simulate(*args, num_tokens=2, num_auctions=5)
        return rollout.payments.sum() + rollout.log_prob.sum()

    bids = jnp.array([[1.0, 2.0], [3.0, 0.5]])
    found = jax.jit(jax.vmap(revenue))(bids)
    expected = [revenue(row) for row in bids]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bids_that_a_traced_function_knows():
    """They are looked at while it is traced."""
    pool, logits = ta.agents.tabular(LOG_PROBS), jnp.stack([LOG_PROBS] * 5)

    def texts(first, bids):
        args = (jax.random.key(0), CLARKE, pool, bids)
        return ta.simulate(*args, num_tokens=2, num_auctions=5, first_auction=first)

    def steps(first, bids):
        return ta.step(jax.random.key(0), CLARKE, bids, logits, first_auction=first)

    for auctions in (texts, steps):
        for bids in (jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0])):
            known = jax.jit(lambda first, f=auctions, bids=bids: f(first, bids))
            found, expected = known(3).payments, auctions(3, bids).payments
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        for bids in (jnp.array([1.0, -2.0]), jnp.zeros(2)):
            wrong = jax.jit(lambda first, f=auctions, bids=bids: f(first, bids))
            for _ in range(2):
                with pytest.raises(ValueError, match="bids"):
                    wrong(3)


def test_double_precision(x64):
    pool = ta.agents.tabular(LOG_PROBS.astype(float))
    args = (jax.random.key(0), LINEAR, pool, np.array([1.0, 2.0]))
    rollout = ta.simulate(*args, num_tokens=2, num_auctions=3)
    for name in ("log_prob", "payments", "expected_payments"):
        assert getattr(rollout, name).dtype == np.float64
    assert rollout.tokens.dtype == np.int32


def test_nothing_of_the_size_of_the_vocabulary_is_kept():
    log_probs = np.full((2, 64), -np.log(64), np.float32)
    args = (jax.random.key(0), PAY_YOUR_BID, ta.agents.tabular(log_probs), np.ones(2))
    rollout = ta.simulate(*args, num_tokens=5, num_auctions=6)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(rollout)]
    assert max(sizes) <= 6 * 5 * 2


@jax.tree_util.register_pytree_node_class
class Diary:
    """Always the token after the last one; its state remembers what it was told."""

    num_agents, vocab_size, end_token = 2, 5, None

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls()

    def init(self, num_auctions, *, key=None, first_auction=0, num_tokens=None):
        number = jnp.asarray(first_auction, jnp.int32) + jnp.arange(num_auctions)
        return jnp.zeros(num_auctions, jnp.int32), number % 3 + 0 * num_tokens

    def step(self, state, tokens):
        position, offset = state
        favourite = jnp.where(position == 0, 10 * tokens + 10 + offset, tokens + 1)
        hot = jnp.arange(5)[None] == (favourite % 5)[:, None]
        log_probs = jnp.where(hot, 0.0, -jnp.inf)
        both = jnp.broadcast_to(log_probs[:, None], (*tokens.shape, 2, 5))
        return (position + 1, offset), both


def test_a_pool_is_told_the_tokens_and_the_number_of_the_auction():
    """The first step receives -1, later ones the token just drawn."""
    rollout = ta.simulate(
        jax.random.key(0),
        PAY_YOUR_BID,
        Diary(),
        np.ones(2),
        num_tokens=6,
        num_auctions=4,
        first_auction=7,
    )
    first = (7 + np.arange(4)) % 3
    expected = (first[:, None] + np.arange(6)) % 5
    np.testing.assert_array_equal(rollout.tokens, expected)


@pytest.mark.parametrize("kind", ["tabular", "zipf", "filtered"])
def test_nothing_large_is_a_constant_of_the_program(kind):
    """XLA takes seconds to compute with constants as large as a vocabulary."""
    size = 2003
    pool = {
        "tabular": lambda: ta.agents.tabular(jnp.full((2, size), -math.log(size))),
        "zipf": lambda: ta.agents.zipf(2, size, 1.0),
        "filtered": lambda: ta.agents.dirichlet(
            *(2, size, 1.0),
            sampling=filters.sampling(2, temperature=0.7, top_k=50, top_p=0.9),
        ),
    }[kind]()
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    program = jax.jit(lambda *numbers: ta.simulate(*numbers, num_tokens=2))
    arguments = (jax.random.key(0), mechanism, pool, jnp.ones((2, 2)))
    text = program.lower(*arguments).compile().as_text()
    constants = re.findall(r"= \w+\[([\d,]+)\]\S* constant\(", text)
    sizes = [math.prod(map(int, dims.split(","))) for dims in constants]
    assert sizes
    assert max(sizes) < 256
