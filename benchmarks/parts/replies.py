"""Candidate replies of the house model and their scores, beside both done apart.

Apart, the reference alone writes as many texts, and each agent then reads all of them
in one pass without its prompt, which is less than any scoring needs. Ours is to take no
more than 1.3 times as long.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import tokenauction_jax as ta
from benchmarks import auctions, language_models
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns

USES = ()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Auctions, agents beside the reference, candidates, their tokens, and rounds."""

    num_auctions: int = 64
    num_agents: int = 3
    num_replies: int = 16
    num_tokens: int = 48
    rounds: int = 3


FULL, QUICK = Sizes(), Sizes(num_auctions=16, num_replies=4, num_tokens=16)


def measure(sizes: Sizes) -> Iterator[Case]:
    """One case."""
    checkpoint = ta.agents.load_checkpoint("house")
    shape = {"A": sizes.num_auctions, "n": sizes.num_agents, "T": sizes.num_tokens}
    named = ", ".join(f"{key} {value:,}" for key, value in shape.items())
    contenders = [_ours(sizes, checkpoint), _apart(sizes, checkpoint)]
    yield Case(
        f"{named}, M {sizes.num_replies}",
        "token",
        shape,
        take_turns(contenders, sizes.rounds),
    )


def _pool(checkpoint: Any, num_agents: int) -> Any:
    """Agents that can write all tokens."""
    return ta.agents.from_language_model(
        checkpoint.model,
        checkpoint.tokenizer,
        language_models.prompts(num_agents),
        temperature=language_models.TEMPERATURE,
    )


def _ours(sizes: Sizes, checkpoint: Any) -> Contender:
    pool = _pool(checkpoint, sizes.num_agents + 1)
    weights = jnp.eye(sizes.num_agents + 1)[sizes.num_agents]

    def call(turn: int) -> ta.replies.Candidates:
        return ta.replies.draw_candidates(
            *(jax.random.key(turn), pool, weights),
            num_replies=sizes.num_replies,
            num_tokens=sizes.num_tokens,
            num_auctions=sizes.num_auctions,
        )

    count = sizes.num_auctions * sizes.num_replies * sizes.num_tokens
    return Contender("ours", "ours", call, count)


def _apart(sizes: Sizes, checkpoint: Any) -> Contender:
    texts = sizes.num_auctions * sizes.num_replies
    write = auctions.simulate(
        "one decode",
        auctions.linear_second_price(),
        _pool(checkpoint, 1),
        language_models.bids(1),
        texts * sizes.num_tokens,
        num_auctions=texts,
        num_tokens=sizes.num_tokens,
    )
    model, temperature = checkpoint.model, language_models.TEMPERATURE

    @jax.jit
    def score(tokens: jax.Array) -> jax.Array:
        """The log-probability of each text, `(A M,)`, some texts at a time."""

        def of_some(tokens: jax.Array) -> jax.Array:
            logs = jax.nn.log_softmax(model(tokens) / temperature)
            return jnp.take_along_axis(logs, tokens[..., None], axis=2).sum((1, 2))

        return lax.map(
            of_some, tokens.reshape(-1, sizes.num_replies, *tokens.shape[1:])
        )

    def call(turn: int) -> list[jax.Array]:
        tokens = write.call(turn).tokens
        return [score(tokens) for _ in range(sizes.num_agents)]

    return Contender("one decode, and a pass of each agent", "peer", call, write.count)
