"""One auction step, from logits to token, payments and their means.

Ours is `ta.step`, and `ta.simulate` for one token with a pool that answers the
log-softmax of given logits. Beside them are the same step in NumPy and PyTorch, and
what one read of the logits takes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import lax

import tokenauction_jax as ta
from benchmarks import auctions, limits, peers
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns
from benchmarks.peers import numpy_step

USES = ("torch",)
# An accelerator runs so many times the auctions: kernels take a while to start.
_WIDER = 16


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes `(A, n, V)` of the logits on a CPU, and rounds."""

    shapes: tuple[tuple[int, int, int], ...] = (
        (65_536, 3, 64),
        (4_096, 3, 1_024),
        (256, 3, 49_152),
    )
    rounds: int = 9


FULL = Sizes()
QUICK = Sizes(((16_384, 3, 64), (1_024, 3, 1_024), (64, 3, 49_152)), rounds=3)


@ta.record
class GivenLogits:
    """Agents that answer the log-softmax of logits `(A, n, V)`, whatever the text.

    Of auctions 0 to ``A - 1``, in blocks: each has the rows of its own.
    """

    logits: jax.Array
    end_token = None
    divisible = True

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return self.logits.shape[1]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, ``V``."""
        return self.logits.shape[2]

    def init(
        self, num_auctions: int, *, first_auction: jax.Array, **options: Any
    ) -> jax.Array:
        """The number of the first auction: of which the logits are."""
        del num_auctions, options
        return first_auction

    def step(
        self, first_auction: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The distributions of these auctions."""
        logits = lax.dynamic_slice_in_dim(self.logits, first_auction, tokens.size)
        return first_auction, ta.agents.log_softmax(logits)


def measure(sizes: Sizes) -> Iterator[Case]:
    """A case for each shape."""
    wider = 1 if jax.default_backend() == "cpu" else _WIDER
    for num_auctions, num_agents, vocab_size in sizes.shapes:
        shape = (wider * num_auctions, num_agents, vocab_size)
        yield Case(
            f"A {shape[0]:,}, n {num_agents}, V {vocab_size:,}",
            "auction",
            {"A": shape[0], "n": num_agents, "V": vocab_size, "T": 1},
            take_turns(list(_contenders(*shape)), sizes.rounds),
            along=["V"],
            note="the copy counts one read of the logits",
        )


def _contenders(
    num_auctions: int, num_agents: int, vocab_size: int
) -> Iterator[Contender]:
    key_logits, key_bids = jax.random.split(jax.random.key(0))
    shape = num_auctions, num_agents, vocab_size
    logits = 3 * jax.random.normal(key_logits, shape)
    bids = jax.random.gamma(key_bids, 2.0, shape[:2])
    for mechanism in (auctions.linear_second_price(), auctions.log_linear_clarke()):
        name = auctions.rules(mechanism)
        call = functools.partial(_step, mechanism, bids, logits)
        yield Contender(f"step, {name}", "ours", call, num_auctions)
        yield auctions.simulate(
            f"simulate, {name}",
            *(mechanism, GivenLogits(logits), bids, num_auctions),
            num_tokens=1,
        )
    arrays = np.asarray(logits), np.asarray(bids)
    for name, step in (("plain", numpy_step.plain), ("tuned", numpy_step.tuned)):
        call = functools.partial(_numpy, step, *arrays)
        yield Contender(
            f"NumPy, {name}, linear, second price", "peer", call, num_auctions
        )
    if peers.installed("torch"):
        yield from _torch(*arrays)
    yield limits.sum_of_exponentials(logits)
    yield limits.copy(4 * num_agents * vocab_size)


def _step(
    mechanism: ta.Mechanism, bids: jax.Array, logits: jax.Array, turn: int
) -> ta.Step:
    return ta.step(jax.random.key(turn), mechanism, bids, logits)


def _numpy(
    step: Callable[..., Any], logits: np.ndarray, bids: np.ndarray, turn: int
) -> Any:
    return step(logits, bids, np.random.default_rng(turn))


def _torch(logits: np.ndarray, bids: np.ndarray) -> Iterator[Contender]:
    import torch

    from benchmarks.peers import torch_auction

    place = torch_auction.device()
    inputs = [torch.tensor(array, device=place) for array in (logits, bids)]

    def run(
        auction: Callable[..., Any], normalised: Callable[..., Any], turn: int
    ) -> None:
        torch.manual_seed(turn)
        auction(normalised(inputs[0], 2), inputs[1])
        torch_auction.wait()

    for name, *functions in (
        ("linear, second price", torch_auction.linear_second_price, torch.softmax),
        ("log-linear, Clarke", torch_auction.log_linear_clarke, torch.log_softmax),
    ):
        call = functools.partial(run, *functions)
        yield Contender(f"PyTorch, {name}", "peer", call, len(logits))
