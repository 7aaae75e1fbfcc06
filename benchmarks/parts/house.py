"""Tokens of texts of the house model, beside SmolLM2-135M-Instruct.

Both run the same auctions, with linear aggregation and the second price; the house
model is to be 20 times as fast.
"""

import dataclasses
from collections.abc import Iterator

import tokenauction_jax as ta
from benchmarks import auctions, language_models
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns

USES = (language_models.NEEDS,)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The models, the auctions, and rounds."""

    models: tuple[str, ...] = ("house", language_models.SMOLLM2)
    num_auctions: int = 32
    num_agents: int = 2
    num_tokens: int = 24
    rounds: int = 5


FULL, QUICK = Sizes(), Sizes(num_auctions=8, num_tokens=4, rounds=2)


def measure(sizes: Sizes) -> Iterator[Case]:
    """One case."""
    models = filter(language_models.available, sizes.models)
    shape = {"A": sizes.num_auctions, "n": sizes.num_agents, "T": sizes.num_tokens}
    yield Case(
        ", ".join(f"{key} {value:,}" for key, value in shape.items()),
        "token",
        shape,
        take_turns([_contender(sizes, model) for model in models], sizes.rounds),
    )


def _contender(sizes: Sizes, model: str) -> Contender:
    checkpoint = ta.agents.load_checkpoint(model)
    return auctions.simulate(
        f"ours, {model}",
        auctions.linear_second_price(),
        language_models.pool(checkpoint, sizes.num_agents),
        language_models.bids(sizes.num_agents),
        sizes.num_auctions * sizes.num_tokens,
        num_auctions=sizes.num_auctions,
        num_tokens=sizes.num_tokens,
    )
