"""Agents that share one model: their prompts read and their texts decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenauction_jax.agents.decoder import Decoder, KeyValues, Prompts
from tokenauction_jax.mechanism import base


class GroupState(NamedTuple):
    """What one group remembers of its prompts and of the texts so far.

    The last token of a prompt is not among `prompts`: the first step reads it, as later
    steps read the last token of the text, so all steps are the same program.
    """

    prompts: Prompts
    cache: tuple[KeyValues, ...]


@base.record
class Group:
    """The agents that share one model.

    Attributes:
      weights: the parameters of the model.
      tokens: `(m, P)` the prompts of its `m` agents, padded on the right with 0.
      lengths: `(m,)` the lengths of the prompts; the longest is `P`.
      graph: the model without its parameters.
      agents: the `m` places of these agents in the pool.
      context_length: of the model.
    """

    weights: Any
    tokens: jax.Array
    lengths: jax.Array
    graph: nnx.GraphDef = base.static_field()
    agents: tuple[int, ...] = base.static_field()
    context_length: int = base.static_field()

    def init(self, num_auctions: int, num_tokens: int) -> GroupState:
        """Reads the prompts and makes room for `num_tokens` tokens of `A` texts."""
        length = self.tokens.shape[1]
        if length + num_tokens > self.context_length:
            raise ValueError(
                f"the longest prompt of agents {list(self.agents)}, of {length} tokens,"
                f" and num_tokens {num_tokens} exceed the model's context of "
                f"{self.context_length}: shorten the prompt or the text"
            )
        model = nnx.merge(self.graph, self.weights)
        _, prompts = model.prefill(self.tokens, self.lengths)
        prompts = prompts._replace(lengths=self.lengths - 1)
        cache = model.empty_cache(num_auctions, len(self.agents), num_tokens)
        return GroupState(prompts, cache)

    def step(
        self, state: GroupState, position: jax.Array, tokens: jax.Array
    ) -> tuple[GroupState, jax.Array]:
        """Reads the last tokens `(A,)` and answers logits `(A, m, V)`.

        At position 0 the prompts' last tokens are read instead.
        """
        last = jnp.take_along_axis(self.tokens, self.lengths[:, None] - 1, axis=1)
        read = jnp.where(position == 0, last[:, 0][None], tokens[:, None])
        model = nnx.merge(self.graph, self.weights)
        logits, cache = model.decode(read, position, state.prompts, state.cache)
        return state._replace(cache=cache), logits


def new_group(
    model: Decoder, prompts: Sequence[Sequence[int]], agents: Sequence[int]
) -> Group:
    """The group of some agents of a pool, each with a prompt of at least one token."""
    graph, weights = nnx.split(model)
    lengths = [len(prompt) for prompt in prompts]
    tokens = np.zeros((len(agents), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return Group(
        weights=weights,
        tokens=jnp.asarray(tokens),
        lengths=jnp.asarray(lengths, jnp.int32),
        graph=graph,
        agents=tuple(agents),
        context_length=model.config.context_length,
    )
