"""Texts that a memory does not hold at once are written one after the other."""

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_decoder import CONFIG

import tokenauction_jax as ta
from tokenauction_jax import environment
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.simulation import memory, rollout

RULE = ta.linear()
MECHANISM = ta.Mechanism(RULE, ta.second_price(RULE))
TOKENS = 4
# Two agents, V = 61; keys and values of 2 layers, 2 heads and 6 numbers, in float32.
ANSWERS, STATES = 2 * 61 * 4, 2 * 2 * 2 * TOKENS * 2 * 6 * 4


@pytest.fixture(scope="module")
def pool():
    model = Decoder(CONFIG, rngs=nnx.Rngs(0))
    return ta.agents.from_language_model(model, None, [[1, 2, 3], [4, 5]])


def run(pool, count=6):
    size = {"num_tokens": TOKENS, "num_auctions": count, "first_auction": 5}
    return ta.simulate(jax.random.key(0), MECHANISM, pool, [1.0, 2.0], **size)


def test_what_a_text_takes(pool, monkeypatch):
    assert pool.bytes_per_auction(TOKENS) == STATES
    each = 6 * ANSWERS + 2 * STATES
    for size, most in ((2 * each * 10, 10), (2 * each * 10 - 1, 9), (1, 1)):
        shared = size * jax.local_device_count()
        monkeypatch.setattr(memory, "memory_of", lambda _, size=shared: size)
        assert memory.most_texts(pool, TOKENS) == most
    monkeypatch.setattr(memory, "memory_of", lambda _: None)
    assert memory.most_texts(pool, TOKENS) is None


def test_the_memory_of_this_machine_is_known():
    assert environment.memory_of(jax.devices()[0]) > 2**26


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("most", "asked"), [(6, {6}), (4, {3}), (1, {1}), (None, {6})])
def test_texts_are_the_same(pool, monkeypatch, most, asked):
    found, init = set(), type(pool).init

    def listening(self, num_auctions, **rest):
        found.add(num_auctions)
        return init(self, num_auctions, **rest)

    wanted = run(pool)
    monkeypatch.setattr(type(pool), "init", listening)
    monkeypatch.setattr(rollout, "most_texts", lambda *_: most)
    jax.clear_caches()
    texts = run(pool)
    assert found == asked
    np.testing.assert_array_equal(texts.tokens, wanted.tokens)
    np.testing.assert_allclose(texts.payments, wanted.payments, rtol=1e-5, atol=1e-7)


def test_too_little_memory_is_explained(pool, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB\nat")

    monkeypatch.setattr(rollout, "_rollout", full)
    told = "6 auctions do not fit .*first_auction .*bfloat16.* RESOURCE_.* 9 GiB$"
    with pytest.raises(MemoryError, match=told):
        run(pool)


def test_other_errors_are_left_alone(pool, monkeypatch):
    def broken(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(rollout, "_rollout", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(pool)
