"""Texts of agents with low-rank adapters of their own, beside prompts only.

Both have the same base, prompts and filters; adapters are on all linear maps, and may
take 1.3 times as long.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

import tokenauction_jax as ta
from benchmarks import auctions, language_models
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns

USES = (language_models.NEEDS,)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model, the rank of the adapters, the auctions, and rounds."""

    model: str = language_models.SMOLLM2
    rank: int = 8
    num_auctions: int = 8
    num_agents: int = 8
    num_tokens: int = 16
    rounds: int = 9


FULL, QUICK = Sizes(), Sizes(model="house", rounds=2)


def measure(sizes: Sizes) -> Iterator[Case]:
    """One case."""
    if not language_models.available(sizes.model):
        return
    checkpoint = ta.agents.load_checkpoint(sizes.model)
    keys = jax.random.split(jax.random.key(0), sizes.num_agents)
    adapters = [_random_adapter(key, checkpoint.model, sizes.rank) for key in keys]
    shape = {"A": sizes.num_auctions, "n": sizes.num_agents, "T": sizes.num_tokens}
    named = ", ".join(f"{key} {value:,}" for key, value in shape.items())
    contenders = [
        _contender(sizes, "ours, prompts only", checkpoint, None),
        _contender(sizes, f"ours, adapters of rank {sizes.rank}", checkpoint, adapters),
    ]
    figures = take_turns(contenders, sizes.rounds)
    yield Case(f"{sizes.model}, {named}", "token", shape, figures)


def _random_adapter(key: jax.Array, model: Any, rank: int) -> ta.agents.Adapter:
    """An adapter that changes the answers, as training would."""
    key, key_factors = jax.random.split(key)
    factors = dict(ta.agents.new_adapter(key_factors, model, rank).factors)
    for path, (_, up) in factors.items():
        key, key_up = jax.random.split(key)
        up = 0.01 * jax.random.normal(key_up, up.shape)
        factors[path] = factors[path]._replace(up=up)
    return ta.agents.Adapter(factors)


def _contender(
    sizes: Sizes, name: str, checkpoint: Any, adapters: list[ta.agents.Adapter] | None
) -> Contender:
    return auctions.simulate(
        name,
        auctions.linear_second_price(),
        language_models.pool(checkpoint, sizes.num_agents, adapters),
        language_models.bids(sizes.num_agents),
        sizes.num_auctions * sizes.num_tokens,
        num_auctions=sizes.num_auctions,
        num_tokens=sizes.num_tokens,
    )
