"""Pools: what is right passes, what is wrong is named."""

import impostors
import jax
import jax.numpy as jnp
import pytest
from impostors import rejection

import tokenauction_jax as ta
from tokenauction_jax import testing

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


def by_number(places, first, size):
    return places + first


def as_is(log_probs, tokens):
    return log_probs


def test_pools_pass():
    testing.check_pool(testing.random_pool(jax.random.key(0), 3, 5))
    table = testing.random_log_probs(jax.random.key(1), 2, 8)
    testing.check_pool(ta.agents.tabular(table, end_token=7))
    testing.check_pool(impostors.RandomPool(0, by_number, as_is))


@pytest.mark.parametrize(
    ("start", "number", "answer", "match"),
    [
        (0, lambda k, first, size: k + first + 9 * size, as_is, "in a smaller batch"),
        (0, lambda k, first, size: k, as_is, "with a later first_auction"),
        (
            0,
            by_number,
            lambda p, tokens: jax.nn.log_softmax(p * tokens.sum()),
            "beside other texts",
        ),
        (0, by_number, lambda p, tokens: p + 1, "from normalised ones, by 0.[5-9]"),
        (0, by_number, lambda p, tokens: p + jnp.nan, "from normalised ones, by nan"),
        (0, by_number, lambda p, tokens: p[:, 0], r"returns float32\[4, 5\]"),
        (False, by_number, as_is, r"the state changes its layout: .*bool\[\]"),
        ("0", by_number, as_is, "step by step raises TypeError"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_poor_pools_are_rejected(start, number, answer, match):
    pool = impostors.RandomPool(start, number, answer)
    assert "'RandomPool'" in rejection(match, testing.check_pool, pool)


def test_a_rule_is_not_a_pool():
    match = "'linear' does not implement AgentPool: it has no"
    rejection(match, testing.check_pool, LINEAR)
