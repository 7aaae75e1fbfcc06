"""One transformer decoder for the Llama, Qwen2, Qwen3 and GPT-2 families.

In ``A`` auctions the prompts of ``n`` agents are continued by ``T`` shared tokens. The
keys and values of a prompt are computed once, by `Decoder.prefill`, and shared by all
auctions; `Decoder.decode` keeps only those of the generated tokens, per auction and
agent. A decoding step is one softmax over both, so prompts may have different lengths,
and memory does not grow with ``A`` times the prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from tokenauction_jax.agents.models.layers import (
    DecoderConfig,
    KeyValues,
    Layer,
    Norm,
    einsum,
    normal,
    wide,
)


class Prompts(NamedTuple):
    """``n`` prompts that were read.

    Attributes:
      lengths: The tokens of each prompt that count, `(n,)`.
      layers: The keys and values of each layer.
    """

    lengths: jax.Array
    layers: tuple[KeyValues, ...]


def _visible(
    prompts: Prompts, cache: tuple[KeyValues, ...], step: jax.Array
) -> jax.Array:
    """Which of the ``P + T`` tokens each agent may attend to, `(n, P + T)`."""
    places_in_prompt = jnp.arange(prompts.layers[0].keys.shape[-2])
    in_prompt = places_in_prompt[None] < prompts.lengths[:, None]
    in_text = jnp.arange(cache[0].keys.shape[-2]) <= step
    in_text = jnp.broadcast_to(in_text, (in_prompt.shape[0], in_text.size))
    return jnp.concatenate([in_prompt, in_text], axis=-1)


class Decoder(nnx.Module):
    """A decoder-only transformer with explicit caches.

    Args:
      config: The shape.
      rngs: Randomness of the initial parameters, normal with standard deviation 0.02.
      dtype: The type of the parameters; logits are at least float32.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.config = config
        width = config.width
        self.embedding = normal(rngs, (config.vocab_size, width), dtype)
        learned = config.frequencies is None
        places = (config.context_length, width)
        self.positions = normal(rngs, places, dtype) if learned else None
        layers = [Layer(config, rngs, dtype) for _ in range(config.num_layers)]
        self.layers = nnx.List(layers)
        self.norm = Norm(config, width, dtype)
        tied = config.tied_embeddings
        self.head = None if tied else normal(rngs, (config.vocab_size, width), dtype)

    def prefill(
        self, tokens: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, Prompts]:
        """Reads ``n`` prompts.

        Args:
          tokens: Token ids `(n, P)`, padded on the right by any valid id.
          lengths: The number of tokens of each prompt, `(n,)`, at least 1.

        Returns:
          The logits `(n, V)` of the token after each prompt, and the prompts' caches.
        """
        x, layers = self._read(tokens)
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
        return self._logits(last), Prompts(lengths, layers)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits `(n, P, V)` of the token after each of `tokens` `(n, P)`."""
        return self._logits(self._read(tokens)[0])

    def empty_cache(
        self, num_auctions: int, num_agents: int, num_tokens: int
    ) -> tuple[KeyValues, ...]:
        """Zeros for each layer, `(A, n, num_kv_heads, T, head_dim)`."""
        config = self.config
        sizes = (config.num_kv_heads, num_tokens, config.head_dim)
        empty = jnp.zeros((num_auctions, num_agents, *sizes), self.embedding.dtype)
        return (KeyValues(empty, empty),) * config.num_layers

    def decode(
        self,
        tokens: jax.Array,
        step: jax.Array,
        prompts: Prompts,
        cache: tuple[KeyValues, ...],
    ) -> tuple[jax.Array, tuple[KeyValues, ...]]:
        """Reads one more token of each agent's text.

        Args:
          tokens: The token that each agent reads, `(A, n)`.
          step: Its place in the text, from 0; a scalar below ``T``.
          prompts: The prompts, from `prefill`.
          cache: The texts so far, from `empty_cache` or the step before.

        Returns:
          The logits `(A, n, V)` of the next token, and the cache with this token in it.
        """
        positions = prompts.lengths + step
        x, angles = self._embed(tokens, positions)
        visible = _visible(prompts, cache, step)[None, :, None, None]
        grown = []
        for layer, prompt, text in zip(self.layers, prompts.layers, cache, strict=True):
            x, text = layer.decode(x, angles, visible, step, prompt, text)
            grown.append(text)
        return self._logits(x), tuple(grown)

    def _embed(
        self, tokens: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Embeddings `(..., width)` and rotary angles `(1, m, head_dim / 2)`.

        The `positions` `(m,)` belong to the last axis of `tokens`.
        """
        x = jnp.take(self.embedding[...], tokens, axis=0)
        if self.positions is not None:
            return x + jnp.take(self.positions[...], positions, axis=0)[None], None
        dtype = wide(x.dtype)
        frequencies = jnp.asarray(self.config.frequencies, dtype)
        return x, jnp.outer(positions.astype(dtype), frequencies)[None]

    def _read(self, tokens: jax.Array) -> tuple[jax.Array, tuple[KeyValues, ...]]:
        x, angles = self._embed(tokens, jnp.arange(tokens.shape[1]))
        caches = []
        for layer in self.layers:
            x, cache = layer.prefill(x, angles)
            caches.append(cache)
        return x, tuple(caches)

    def _logits(self, x: jax.Array) -> jax.Array:
        table = self.embedding if self.head is None else self.head
        return einsum("...d,vd->...v", self.norm(x), table[...], wide(x.dtype))
