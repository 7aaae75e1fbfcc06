"""Agents that share one model, which reads their prompts and texts together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenauction_jax import records
from tokenauction_jax.agents.models.decoder import Decoder, KeyValues, Prompts
from tokenauction_jax.agents.models.lora import Adapter, attach, stack


class GroupState(NamedTuple):
    """The prompts of one group and the texts so far.

    The last token of a prompt is not among `prompts`: the first step reads it, as later
    steps read the last token of the text, so all steps are the same program. The
    `adapters`, one per agent, are selected once per rollout and not once per token.
    """

    prompts: Prompts
    cache: tuple[KeyValues, ...]
    adapters: Adapter | None


@records.record
class Group:
    """The agents that share one model.

    Attributes:
      weights: The parameters of the model.
      tokens: The prompts of its ``m`` agents, `(m, P)`, padded on the right with 0.
      lengths: The lengths of the prompts, `(m,)`; the longest is ``P``.
      adapters: The distinct adapters, with a leading axis; None if no agent has one.
      choice: Which of them each agent has, `(m,)`; None if no agent has one.
      graph: The model without its parameters.
      agents: The ``m`` places of these agents in the pool.
      context_length: The most tokens that the model reads.
    """

    weights: nnx.State
    tokens: jax.Array
    lengths: jax.Array
    adapters: Adapter | None
    choice: jax.Array | None
    graph: nnx.GraphDef = records.static_field()
    agents: tuple[int, ...] = records.static_field()
    context_length: int = records.static_field()

    def bytes_per_auction(self, num_tokens: int) -> int:
        """Bytes of the keys and values of one auction's text for these agents."""
        model = nnx.merge(self.graph, self.weights)
        cache = jax.eval_shape(
            lambda: model.empty_cache(1, len(self.agents), num_tokens)
        )
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))

    def check_context(self, num_tokens: int) -> None:
        """Raises `ValueError` if prompts and texts do not fit into the context."""
        length = self.tokens.shape[1]
        if length + num_tokens > self.context_length:
            raise ValueError(
                f"the longest prompt of agents {list(self.agents)}, of {length} tokens,"
                f" and num_tokens {num_tokens} exceed the model's context of "
                f"{self.context_length}: shorten the prompt or the text"
            )

    def init(self, num_auctions: int, num_tokens: int) -> GroupState:
        """Reads the prompts and makes room for `num_tokens` tokens of ``A`` texts.

        Raises:
          ValueError: If the context of the model is too short for both.
        """
        self.check_context(num_tokens)
        adapters = jax.tree.map(lambda leaf: leaf[self.choice], self.adapters)
        model = self._model(adapters, agents_axis=0)
        _, prompts = model.prefill(self.tokens, self.lengths, self.lengths + num_tokens)
        prompts = prompts._replace(lengths=self.lengths - 1)
        cache = model.empty_cache(num_auctions, len(self.agents), num_tokens)
        return GroupState(prompts, cache, adapters)

    def step(
        self, state: GroupState, position: jax.Array, tokens: jax.Array
    ) -> tuple[GroupState, jax.Array]:
        """Reads the last tokens `(A,)` and answers logits `(A, m, V)`.

        At position 0 the prompts' last tokens are read instead.
        """
        last = jnp.take_along_axis(self.tokens, self.lengths[:, None] - 1, axis=1)
        read = jnp.where(position == 0, last[:, 0][None], tokens[:, None])
        model = self._model(state.adapters, agents_axis=1)
        logits, cache = model.decode(read, position, state.prompts, state.cache)
        return state._replace(cache=cache), logits

    def extend(self, tokens: jax.Array) -> jax.Array:
        """Logits `(A, m, T, V)` with which each token of texts `(A, T)` is drawn.

        They are those of `step`, token after token.
        """
        prompts, _, adapters = self.init(1, tokens.shape[1])
        last = jnp.take_along_axis(self.tokens, self.lengths[:, None] - 1, axis=1)
        shape = tokens.shape[0], last.shape[0], tokens.shape[1] - 1
        read = jnp.concatenate(
            [
                jnp.broadcast_to(last[None], (*shape[:2], 1)),
                jnp.broadcast_to(tokens[:, None, :-1], shape),
            ],
            axis=2,
        )
        return self._model(adapters, agents_axis=1).extend(read, prompts)

    def only(self, agents: Sequence[int]) -> Group | None:
        """Some of the agents, at their places among those; None if none is here."""
        rows = [i for i, agent in enumerate(self.agents) if agent in agents]
        if not rows:
            return None
        lengths = self.lengths[np.array(rows)]
        return dataclasses.replace(
            self,
            tokens=self.tokens[np.array(rows)],
            lengths=lengths,
            choice=None if self.choice is None else self.choice[np.array(rows)],
            agents=tuple(list(agents).index(self.agents[row]) for row in rows),
        )

    def _model(self, adapters: Adapter | None, agents_axis: int) -> Decoder:
        """The model, with the agents' adapters if there are any."""
        model = nnx.merge(self.graph, self.weights)
        if adapters is None:
            return model
        return attach(model, adapters, agents_axis=agents_axis)


def new_group(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    adapters: Sequence[Adapter | None],
    agents: Sequence[int],
) -> Group:
    """The group of some agents of a pool, each with a prompt of at least one token.

    Args:
      model: The model that they share.
      prompts: The token ids of each agent's prompt.
      adapters: The adapter of each agent, None without one.
      agents: The places of these agents in the pool.

    Raises:
      ValueError: If an adapter belongs to another model.
    """
    changed = any(adapter is not None for adapter in adapters)
    stacked, choice = stack(model, adapters) if changed else (None, None)
    graph, weights = nnx.split(model)
    lengths = [len(prompt) for prompt in prompts]
    tokens = np.zeros((len(agents), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return Group(
        weights=weights,
        tokens=jnp.asarray(tokens),
        lengths=jnp.asarray(lengths, jnp.int32),
        adapters=stacked,
        choice=choice,
        graph=graph,
        agents=tuple(agents),
        context_length=model.config.context_length,
    )
