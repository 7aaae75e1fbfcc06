"""The realised second prices of all agents, given the tokens, as V grows.

They need the column of the drawn token only. Beside them is a draw of the token from
the aggregate, which passes over V.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

import tokenauction_jax as ta
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns
from tokenauction_jax.mechanism.sampling import sample_token

USES = ()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Auctions of a call, calls that are timed together, and rounds."""

    num_auctions: int = 64
    num_agents: int = 4
    vocabularies: tuple[int, ...] = (64, 512, 4_096, 32_768, 131_072)
    calls: int = 200
    rounds: int = 9


FULL = Sizes()
QUICK = Sizes(vocabularies=(64, 32_768), calls=50, rounds=3)


def measure(sizes: Sizes) -> Iterator[Case]:
    """A case for each vocabulary."""
    for vocab_size in sizes.vocabularies:
        size = {"A": sizes.num_auctions, "n": sizes.num_agents, "V": vocab_size, "T": 1}
        figures = take_turns(list(_contenders(sizes, vocab_size)), sizes.rounds)
        title = ", ".join(f"{key} {value:,}" for key, value in size.items())
        yield Case(title, "auction", size, figures, along=["V"])


def _contenders(sizes: Sizes, vocab_size: int) -> Iterator[Contender]:
    rule, size = ta.linear(), (sizes.num_auctions, sizes.num_agents)
    keys = jax.random.split(jax.random.key(0), sizes.num_auctions)
    bids = jax.random.uniform(jax.random.key(1), size, minval=0.5, maxval=2.0)
    logits = jax.random.normal(jax.random.key(2), (*size, vocab_size))
    log_probs = jax.nn.log_softmax(logits)
    tokens = jax.random.randint(jax.random.key(3), size[:1], 0, vocab_size)
    pay = _pay, (ta.second_price(rule), keys, bids, log_probs, tokens), sizes.calls
    fewer = max(1, sizes.calls * 64 // vocab_size)
    draw = _draw, (rule, keys, bids, log_probs), fewer
    for name, (call, case, times) in (("payments", pay), ("aggregate, draw", draw)):
        count = times * sizes.num_auctions
        yield Contender(f"ours, {name}", "ours", _repeated(call, case, times), count)


def _repeated(
    call: Callable, case: tuple[Any, ...], times: int
) -> Callable[[int], Any]:
    return lambda turn: [call(*case) for _ in range(times)]


@jax.jit
def _pay(payment, keys, bids, log_probs, tokens):
    return jax.vmap(payment.realized)(keys, bids, log_probs, tokens)


@jax.jit
def _draw(aggregation, keys, bids, log_probs):
    def one(key, bids, log_probs):
        return sample_token(key, aggregation.log_prob(bids, log_probs))

    return jax.vmap(one)(keys, bids, log_probs)
