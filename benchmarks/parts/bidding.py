"""Gradients of one agent's utility, beside the simulation that they differentiate.

`value_and_grad` and `simulate` run the same agents: tables, and a language model. Then
many equilibria of two agents are found by one program.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import tokenauction_jax as ta
from benchmarks import auctions, language_models
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns
from tokenauction_jax import bidding

USES = (language_models.NEEDS,)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Payments, auctions of tables and of the models, equilibria, and rounds."""

    payments: tuple[str, ...] = ("pay_your_bid", "second_price", "clarke")
    num_auctions: int = 10_000
    vocab_size: int = 64
    num_tokens: int = 16
    models: tuple[str, ...] = (language_models.SMOLLM2,)
    model_auctions: int = 16
    equilibria: int = 1_000
    rounds: int = 9


FULL = Sizes()
QUICK = Sizes(
    payments=("second_price",),
    num_auctions=5_000,
    models=(),
    equilibria=0,
    rounds=3,
)


def measure(sizes: Sizes) -> Iterator[Case]:
    """Gradients of three mechanisms and of each model, and equilibria."""
    pool = ta.agents.markov(jax.random.key(5), 3, sizes.vocab_size, 0.3)
    mechanisms = {
        "pay_your_bid": ta.Mechanism(ta.linear(), ta.pay_your_bid()),
        "second_price": auctions.linear_second_price(),
        "clarke": auctions.log_linear_clarke(),
    }
    for payment in sizes.payments:
        bids, values = jnp.array([1.0, 2.0, 0.5]), jnp.array([3.0, 1.0, 2.0])
        yield _gradients(sizes, "tables", mechanisms[payment], pool, bids, values)
    for model in filter(language_models.available, sizes.models):
        agents = language_models.pool(ta.agents.load_checkpoint(model), 2)
        bids, values = language_models.bids(2), jnp.array([3.0, 1.0])
        mechanism = mechanisms["second_price"]
        yield _gradients(sizes, model, mechanism, agents, bids, values)
    if sizes.equilibria:
        yield _equilibria(sizes, mechanisms["pay_your_bid"])


def _gradients(
    sizes: Sizes,
    agents: str,
    mechanism: ta.Mechanism,
    pool: Any,
    bids: jax.Array,
    values: jax.Array,
) -> Case:
    count = sizes.num_auctions if agents == "tables" else sizes.model_auctions
    size: dict[str, Any] = {"num_tokens": sizes.num_tokens, "num_auctions": count}
    utility = bidding.utility(0, ta.total_variation())

    def slopes(turn: int) -> Any:
        problem = jax.random.key(turn), mechanism, pool, bids, utility
        return bidding.value_and_grad(*problem, values=values, **size)

    contenders = [
        auctions.simulate("ours, simulate", mechanism, pool, bids, count, **size),
        Contender("ours, value_and_grad", "ours", slopes, count),
    ]
    shape = {"A": count, "n": len(bids), "V": pool.vocab_size, "T": sizes.num_tokens}
    named = ", ".join(f"{key} {value:,}" for key, value in shape.items())
    figures = take_turns(contenders, sizes.rounds)
    title = f"{agents}, {auctions.rules(mechanism)}, {named}"
    return Case(title, "auction", shape, figures)


def _equilibria(sizes: Sizes, mechanism: ta.Mechanism) -> Case:
    shape = (sizes.equilibria, 2)
    logits = jax.random.normal(jax.random.key(0), (*shape, sizes.vocab_size))
    log_probs = jax.nn.log_softmax(2 * logits)
    values = jax.random.lognormal(jax.random.key(1), shape=shape)

    @jax.jit
    @jax.vmap
    def solve(log_probs: jax.Array, values: jax.Array) -> bidding.Equilibrium:
        return bidding.equilibrium(
            *(jax.random.key(0), mechanism, ta.agents.tabular(log_probs)),
            values=values,
            valuation=ta.total_variation(),
            num_tokens=1,
        )

    contender = Contender(
        f"ours, {sizes.equilibria:,} at once",
        "ours",
        lambda turn: solve(log_probs, values),
        sizes.equilibria,
    )
    figures, found = take_turns([contender], sizes.rounds), solve(log_probs, values)
    return Case(
        f"equilibria, {auctions.rules(mechanism)}, n 2, V {sizes.vocab_size}",
        "equilibrium",
        {"n": 2, "V": sizes.vocab_size, "T": 1},
        figures,
        note=f"largest gap {found.gap.max():.1e}, "
        f"{found.converged.mean():.1%} converged",
    )
