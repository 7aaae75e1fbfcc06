"""`ta.simulate` on Markov tables: what an auction costs as A, n, V and T grow.

One size grows at a time, beside the same texts in plain NumPy.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

import tokenauction_jax as ta
from benchmarks import auctions
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns
from benchmarks.peers import numpy_step

USES = ()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The base, what each of its sizes becomes with the others kept, and rounds."""

    base: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"A": 10_000, "n": 3, "V": 64, "T": 4}
    )
    grown: Mapping[str, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {
            "A": (1_000, 100_000, 1_000_000),
            "n": (2, 4, 8, 16),
            "V": (16, 256, 1_024),
            "T": (1, 16, 64),
        }
    )
    rounds: int = 5


FULL = Sizes()
QUICK = Sizes(grown={"A": (50_000,), "n": (8,), "T": (16,)}, rounds=3)


def measure(sizes: Sizes) -> Iterator[Case]:
    """A case for the base, which is on all curves, and one for each other size."""
    yield _case(sizes, sizes.base, list(sizes.grown))
    for name, numbers in sizes.grown.items():
        for number in numbers:
            yield _case(sizes, {**sizes.base, name: number}, [name])


def _case(sizes: Sizes, size: Mapping[str, int], along: list[str]) -> Case:
    title = ", ".join(f"{key} {value:,}" for key, value in size.items())
    figures = take_turns(list(_contenders(size)), sizes.rounds)
    return Case(title, "auction", dict(size), figures, along=along)


def _contenders(size: Mapping[str, int]) -> Iterator[Contender]:
    num_auctions, num_agents, vocab_size, num_tokens = size.values()
    pool = ta.agents.markov(jax.random.key(0), num_agents, vocab_size, 1.0)
    bids = jax.random.gamma(jax.random.key(1), 2.0, (num_auctions, num_agents))
    yield auctions.simulate(
        "ours, linear, second_price",
        *(auctions.linear_second_price(), pool, bids, num_auctions),
        num_tokens=num_tokens,
    )
    table = np.asarray(jnp.exp(pool.log_probs)).swapaxes(0, 1)
    rows, prices = np.ascontiguousarray(table), np.asarray(bids)

    def call(turn: int) -> list[numpy_step.Outcome]:
        rng, last = np.random.default_rng(turn), np.zeros(num_auctions, np.intp)
        found = []
        for _ in range(num_tokens):
            found.append(numpy_step.auction(rows[last], prices, rng))
            last = found[-1][0]
        return found

    yield Contender("NumPy, plain, linear, second price", "peer", call, num_auctions)
