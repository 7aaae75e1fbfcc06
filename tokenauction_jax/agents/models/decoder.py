"""One transformer decoder for all families, which differ in records of its layers.

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

from tokenauction_jax.agents.models.config import DecoderConfig, Rotary
from tokenauction_jax.agents.models.layers import (
    Attention,
    KeyValues,
    Layer,
    Norm,
    Turn,
    cap,
    einsum,
    normal,
    wide,
)


class Prompts(NamedTuple):
    """``n`` prompts that were read.

    Attributes:
      lengths: The tokens of each prompt that count, `(n,)`.
      reach: The most tokens that each prompt and its text will have, `(n,)`.
      layers: The keys and values of each layer.
    """

    lengths: jax.Array
    reach: jax.Array
    layers: tuple[KeyValues, ...]


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
        norm, width = config.norm, config.width
        self.embedding = normal(rngs, (config.vocab_size, width), dtype)
        places = (config.context_length, width)
        learned = config.learned_positions
        self.positions = normal(rngs, places, dtype) if learned else None
        layers = [Layer(layer, norm, width, rngs, dtype) for layer in config.layers]
        self.layers = nnx.List(layers)
        self.norm = Norm(norm, width, dtype)
        tied = config.tied_embeddings
        self.head = None if tied else normal(rngs, (config.vocab_size, width), dtype)

    def prefill(
        self, tokens: jax.Array, lengths: jax.Array, reach: jax.Array | None = None
    ) -> tuple[jax.Array, Prompts]:
        """Reads ``n`` prompts.

        Args:
          tokens: Token ids `(n, P)`, padded on the right by any valid id.
          lengths: The number of tokens of each prompt, `(n,)`, at least 1.
          reach: The most tokens that each prompt and its text will have, `(n,)`, for
            rotary angles that depend on it; `lengths` if there are no texts.

        Returns:
          The logits `(n, V)` of the token after each prompt, and the prompts' caches.
        """
        reach = lengths if reach is None else reach
        x, layers = self._read(tokens, reach)
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
        return self._logits(last), Prompts(lengths, reach, layers)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits `(n, P, V)` of the token after each of `tokens` `(n, P)`."""
        reach = jnp.full(tokens.shape[0], tokens.shape[1])
        return self._logits(self._read(tokens, reach)[0])

    def empty_cache(
        self, num_auctions: int, num_agents: int, num_tokens: int
    ) -> tuple[KeyValues, ...]:
        """Zeros for each layer, `(A, n, num_kv_heads, T, head_dim)`."""

        def empty(num_kv_heads: int, head_dim: int) -> KeyValues:
            shape = (num_auctions, num_agents, num_kv_heads, num_tokens, head_dim)
            zeros = jnp.zeros(shape, self.embedding.dtype)
            return KeyValues(zeros, zeros)

        layers = self.config.layers
        return tuple(empty(layer.num_kv_heads, layer.head_dim) for layer in layers)

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
        x = self._embed(tokens, positions)
        turns = self._turns(positions[None], prompts.reach[None])
        seen = {
            layer.window: _visible(prompts, cache, step, layer.window)
            for layer in self.config.layers
        }
        grown = []
        for layer, prompt, text in zip(self.layers, prompts.layers, cache, strict=True):
            turn, visible = turns[layer.config.rotary], seen[layer.config.window]
            x, text = layer(x, Attention.decode, turn, visible, step, prompt, text)
            grown.append(text)
        return self._logits(x), tuple(grown)

    def extend(self, tokens: jax.Array, prompts: Prompts) -> jax.Array:
        """Reads whole texts behind their prompts, as `decode` does token by token.

        Args:
          tokens: What each agent reads at each step, `(A, n, T)`.
          prompts: The prompts, from `prefill`.

        Returns:
          The logits `(A, n, T, V)` of the token after each.
        """
        steps = jnp.arange(tokens.shape[-1])
        positions = prompts.lengths[:, None] + steps[None]
        x = self._embed(tokens, positions)
        turns = self._turns(positions[None], prompts.reach[None, :, None])
        places = jnp.arange(prompts.layers[0].keys.shape[-2])
        back = positions[..., None] - places[None, None]
        to_prompt = (places[None] < prompts.lengths[:, None])[:, None]
        seen = {}
        for window in {layer.window for layer in self.config.layers}:
            in_text = _within(steps[:, None] - steps[None], window)[None]
            in_text = jnp.broadcast_to(in_text, (len(tokens[0]), *in_text.shape[1:]))
            in_prompt = to_prompt & _within(back, window)
            seen[window] = jnp.concatenate([in_prompt, in_text], axis=-1)
        for layer, prompt in zip(self.layers, prompts.layers, strict=True):
            turn, visible = turns[layer.config.rotary], seen[layer.config.window]
            x, _ = layer(x, Attention.extend, turn, visible, prompt)
        return self._logits(x)

    def _embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Embeddings `(..., width)` of tokens whose last axis has these positions."""
        x = jnp.take(self.embedding[...], tokens, axis=0)
        x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        if self.positions is None:
            return x
        return x + jnp.take(self.positions[...], positions, axis=0)[None]

    def _turns(
        self, positions: jax.Array, reach: jax.Array
    ) -> dict[Rotary | None, Turn | None]:
        """The rotation of each kind of layer, `(..., pairs)`.

        Args:
          positions: Of tokens, with the axes of the tokens or 1.
          reach: The most tokens of each token's prompt and text, likewise.
        """
        kinds = {layer.rotary for layer in self.config.layers}
        dtype = wide(self.embedding.dtype)
        return {kind: kind and _turn(kind, positions, reach, dtype) for kind in kinds}

    def _read(
        self, tokens: jax.Array, reach: jax.Array
    ) -> tuple[jax.Array, tuple[KeyValues, ...]]:
        places = jnp.arange(tokens.shape[1])
        x, turns = (
            self._embed(tokens, places),
            self._turns(places[None], reach[:, None]),
        )
        back = places[:, None] - places[None]
        caches = []
        for layer in self.layers:
            turn, window = turns[layer.config.rotary], layer.config.window
            visible = _within(back, window)
            x, cache = layer(x, Attention.prefill, turn, visible)
            caches.append(cache)
        return x, tuple(caches)

    def _logits(self, x: jax.Array) -> jax.Array:
        table = self.embedding if self.head is None else self.head
        logits = einsum("...d,vd->...v", self.norm(x), table[...], wide(x.dtype))
        return cap(logits * self.config.logit_scale, self.config.logit_cap)


def _turn(
    rotary: Rotary, positions: jax.Array, reach: jax.Array, dtype: DTypeLike
) -> Turn:
    before = (1,) * positions.ndim
    frequencies = jnp.asarray(rotary.frequencies, dtype).reshape(*before, -1)
    if rotary.long_frequencies is not None:
        far = reach[..., None] > rotary.long_beyond
        long = jnp.asarray(rotary.long_frequencies, dtype).reshape(*before, -1)
        frequencies = jnp.where(far, long, frequencies)
    angles = positions.astype(dtype)[..., None] * frequencies
    return Turn(rotary.scale * jnp.cos(angles), rotary.scale * jnp.sin(angles))


def _within(back: jax.Array, window: int | None) -> jax.Array:
    """Whether tokens so many places back can be attended to."""
    causal = back >= 0
    return causal if window is None else causal & (back < window)


def _visible(
    prompts: Prompts, cache: tuple[KeyValues, ...], step: jax.Array, window: int | None
) -> jax.Array:
    """Which of the ``P + T`` tokens each agent may attend to, `(n, P + T)`."""
    places = jnp.arange(prompts.layers[0].keys.shape[-2])[None]
    lengths = prompts.lengths[:, None]
    in_prompt = (places < lengths) & _within(lengths + step - places, window)
    in_text = _within(step - jnp.arange(cache[0].keys.shape[-2]), window)
    in_text = jnp.broadcast_to(in_text, (in_prompt.shape[0], in_text.size))
    return jnp.concatenate([in_prompt, in_text], axis=-1)
