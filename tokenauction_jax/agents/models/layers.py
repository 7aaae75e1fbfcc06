"""The parts of the decoder: its configuration, and the blocks of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; hashable, so it is static under `jit`.

    Attributes:
      vocab_size: ``V``, the number of tokens.
      context_length: The most tokens of prompt and text together.
      width: The size of the residual stream.
      num_layers: The number of transformer layers.
      num_heads: Query heads; a multiple of `num_kv_heads`.
      num_kv_heads: Key and value heads, each serving a group of query heads.
      head_dim: The size of one head.
      mlp_width: The hidden size of the feed-forward block.
      norm: Root-mean-square or mean-and-variance normalisation.
      norm_epsilon: Added to the variance in every normalisation.
      activation: `"silu"` of a gate times the input, or `"gelu"` (tanh) without a gate.
      frequencies: Rotary angle per position of each of the ``head_dim / 2`` pairs
        (first half with second half), with scaling; None for learned positions.
      qkv_bias: Whether queries, keys and values have biases.
      output_bias: Whether the output projection of attention has a bias.
      mlp_bias: Whether the feed-forward projections have biases.
      qk_norm: Whether queries and keys are normalised per head.
      tied_embeddings: Whether the embedding is also the output layer.
    """

    vocab_size: int
    context_length: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-5
    activation: Literal["silu", "gelu"] = "silu"
    frequencies: tuple[float, ...] | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True


class KeyValues(NamedTuple):
    """Keys and values of one layer, each `(..., num_kv_heads, tokens, head_dim)`."""

    keys: jax.Array
    values: jax.Array


def wide(dtype: DTypeLike) -> np.dtype:
    """The type of normalisations, angles and logits: `dtype`, but at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def einsum(
    subscripts: str, x: jax.Array, y: jax.Array, dtype: DTypeLike | None = None
) -> jax.Array:
    """`jnp.einsum` of two factors, accumulated and returned in `dtype`."""
    # TPUs and recent GPUs round float32 factors to 8 or 10 bits unless told not to.
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(
        subscripts, x, y, precision=precision, preferred_element_type=dtype
    )


def along_last(vector: nnx.Param, x: jax.Array) -> jax.Array:
    """`vector` repeated along all axes of `x` but the last."""
    return jnp.broadcast_to(vector[...], x.shape)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: DTypeLike) -> nnx.Param:
    """A parameter of independent normal numbers with standard deviation 0.02."""
    return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, dtype))


class Linear(nnx.Module):
    """``weight x + bias``, with a weight `(outputs, inputs)` as checkpoints store it.

    An adapter adds `lora(x)`; see `lora.attach`.
    """

    def __init__(
        self, inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        self.weight = normal(rngs, (outputs, inputs), dtype)
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else None
        self.lora: Callable[[jax.Array], jax.Array] | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` `(..., inputs)` to `(..., outputs)`."""
        y = einsum("...i,oi->...o", x, self.weight[...])
        y = y if self.lora is None else y + self.lora(x)
        return y if self.bias is None else y + along_last(self.bias, y)


class Norm(nnx.Module):
    """Normalisation over the last axis, computed in at least float32."""

    def __init__(self, config: DecoderConfig, size: int, dtype: DTypeLike):
        self.epsilon = config.norm_epsilon
        self.weight = nnx.Param(jnp.ones(size, dtype))
        centred = config.norm == "layer"
        self.bias = nnx.Param(jnp.zeros(size, dtype)) if centred else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x` `(..., size)`."""
        y = x.astype(wide(x.dtype))
        if self.bias is not None:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        y = y.astype(x.dtype) * along_last(self.weight, x)
        return y if self.bias is None else y + along_last(self.bias, y)


def _rotate(x: jax.Array, angles: jax.Array | None) -> jax.Array:
    """Rotates `x` `(..., heads, head_dim)` by radians `(..., head_dim / 2)`."""
    if angles is None:
        return x
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(angles.dtype), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def _softmax(scores: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax over the `visible` entries of the last axis, in at least float32."""
    scores = scores.astype(wide(scores.dtype))
    hidden = jnp.finfo(scores.dtype).min
    return jax.nn.softmax(jnp.where(visible, scores, hidden), axis=-1)


class Attention(nnx.Module):
    """Causal attention whose keys and values come from and return to the caller."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        width, bias = config.width, config.qkv_bias
        self.query = Linear(width, queries, bias, rngs, dtype)
        self.key = Linear(width, keys, bias, rngs, dtype)
        self.value = Linear(width, keys, bias, rngs, dtype)
        self.output = Linear(queries, width, config.output_bias, rngs, dtype)
        head = config.head_dim
        self.query_norm = Norm(config, head, dtype) if config.qk_norm else None
        self.key_norm = Norm(config, head, dtype) if config.qk_norm else None

    def project(
        self, x: jax.Array, angles: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries `(..., kv_heads, group, head_dim)`, and keys and values of `x`."""
        size = self.config.head_dim
        heads = (self.query(x), self.key(x), self.value(x))
        query, key, value = (h.reshape(*h.shape[:-1], -1, size) for h in heads)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query = _rotate(query * size**-0.5, angles)
        query = query.reshape(*query.shape[:-2], self.config.num_kv_heads, -1, size)
        return query, _rotate(key, angles), value

    def prefill(
        self, x: jax.Array, angles: jax.Array | None
    ) -> tuple[jax.Array, KeyValues]:
        """Attends within prompts `x` `(n, P, width)`, and returns their cache, too."""
        query, key, value = self.project(x, angles)
        scores = einsum("npkgd,nskd->nkgps", query, key)
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None, None]
        weights = _softmax(scores, causal).astype(x.dtype)
        mixed = einsum("nkgps,nskd->npkgd", weights, value)
        cache = KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))
        return self.output(mixed.reshape(*x.shape[:2], -1)), cache

    def decode(
        self,
        x: jax.Array,
        angles: jax.Array | None,
        visible: jax.Array,
        step: jax.Array,
        prompt: KeyValues,
        cache: KeyValues,
    ) -> tuple[jax.Array, KeyValues]:
        """Attends from one token `x` `(A, n, width)` to its prompt and its text."""
        query, key, value = self.project(x, angles)
        insert = partial(jax.lax.dynamic_update_slice_in_dim, axis=-2)
        cache = KeyValues(
            insert(cache.keys, key[..., None, :], step),
            insert(cache.values, value[..., None, :], step),
        )
        to_prompt = einsum("ankgd,nkpd->ankgp", query, prompt.keys)
        to_text = einsum("ankgd,anktd->ankgt", query, cache.keys)
        scores = jnp.concatenate([to_prompt, to_text], axis=-1)
        weights = _softmax(scores, visible).astype(x.dtype)
        on_prompt, on_text = jnp.split(weights, [to_prompt.shape[-1]], axis=-1)
        mixed = einsum("ankgp,nkpd->ankgd", on_prompt, prompt.values)
        mixed = mixed + einsum("ankgt,anktd->ankgd", on_text, cache.values)
        return self.output(mixed.reshape(*x.shape[:2], -1)), cache


class FeedForward(nnx.Module):
    """The feed-forward block, gated or not."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: DTypeLike):
        width, hidden, bias = config.width, config.mlp_width, config.mlp_bias
        gated = config.activation == "silu"
        self.gate = Linear(width, hidden, bias, rngs, dtype) if gated else None
        self.up = Linear(width, hidden, bias, rngs, dtype)
        self.down = Linear(hidden, width, bias, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` `(..., width)` to the same shape."""
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x), approximate=True))
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: DTypeLike):
        self.attention_norm = Norm(config, config.width, dtype)
        self.attention = Attention(config, rngs, dtype)
        self.mlp_norm = Norm(config, config.width, dtype)
        self.mlp = FeedForward(config, rngs, dtype)

    def prefill(self, x: jax.Array, *context: Any) -> tuple[jax.Array, KeyValues]:
        """`Attention.prefill` with norms, residuals and feed-forward."""
        mixed, cache = self.attention.prefill(self.attention_norm(x), *context)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache

    def decode(self, x: jax.Array, *context: Any) -> tuple[jax.Array, KeyValues]:
        """`Attention.decode` with norms, residuals and feed-forward."""
        mixed, cache = self.attention.decode(self.attention_norm(x), *context)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache
