"""The mechanisms that parts run, and `ta.simulate` as a contender."""

from typing import Any

import jax

import tokenauction_jax as ta
from benchmarks.harness import Contender


def linear_second_price() -> ta.Mechanism:
    """Linear aggregation and the second price."""
    rule = ta.linear()
    return ta.Mechanism(rule, ta.second_price(rule))


def log_linear_clarke() -> ta.Mechanism:
    """Log-linear aggregation and Clarke payments."""
    rule = ta.log_linear()
    return ta.Mechanism(rule, ta.clarke(rule))


def rules(mechanism: ta.Mechanism) -> str:
    """The names of a mechanism's rules."""
    return f"{mechanism.aggregation.name}, {mechanism.payment.name}"


def simulate(
    name: str,
    mechanism: ta.Mechanism,
    pool: Any,
    bids: jax.Array,
    count: int,
    **size: Any,
) -> Contender:
    """`ta.simulate` with another key in each round."""

    def call(turn: int) -> ta.Rollout:
        return ta.simulate(jax.random.key(turn), mechanism, pool, bids, **size)

    return Contender(name, "ours", call, count)
