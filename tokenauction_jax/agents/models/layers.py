"""The parts of the decoder: the blocks of one layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tokenauction_jax.agents.models.config import LayerConfig, NormConfig


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

    def __init__(self, config: NormConfig, size: int, dtype: DTypeLike):
        self.config = config
        self.weight = nnx.Param(jnp.ones(size, dtype) - config.offset)
        centred = config.kind == "layer"
        self.bias = nnx.Param(jnp.zeros(size, dtype)) if centred else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x` `(..., size)`."""
        y = x.astype(wide(x.dtype))
        if self.bias is not None:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.config.epsilon)
        y = y * (along_last(self.weight, y).astype(y.dtype) + self.config.offset)
        y = y if self.bias is None else y + along_last(self.bias, y)
        return y.astype(x.dtype)


class Turn(NamedTuple):
    """Cosines and sines of rotary angles, each `(..., pairs)`."""

    cos: jax.Array
    sin: jax.Array


def _rotate(x: jax.Array, turn: Turn | None) -> jax.Array:
    """Rotates `x` `(..., heads, head_dim)`, whose first numbers make the pairs."""
    if turn is None:
        return x
    cos, sin = turn.cos[..., None, :], turn.sin[..., None, :]
    pairs = cos.shape[-1]
    first, second, rest = jnp.split(x.astype(cos.dtype), [pairs, 2 * pairs], axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def cap(x: jax.Array, most: float | None) -> jax.Array:
    """``most tanh(x / most)`` in at least float32, `x` if there is no `most`."""
    if most is None:
        return x
    return most * jnp.tanh(x.astype(wide(x.dtype)) / most)


def _softmax(scores: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax over the `visible` entries of the last axis, in at least float32."""
    scores = scores.astype(wide(scores.dtype))
    hidden = jnp.finfo(scores.dtype).min
    return jax.nn.softmax(jnp.where(visible, scores, hidden), axis=-1)


class Attention(nnx.Module):
    """Causal attention whose keys and values come from and return to the caller."""

    def __init__(
        self,
        config: LayerConfig,
        norm: NormConfig,
        width: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.config = config
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        self.query = Linear(width, queries, config.qkv_bias, rngs, dtype)
        self.key = Linear(width, keys, config.qkv_bias, rngs, dtype)
        self.value = Linear(width, keys, config.qkv_bias, rngs, dtype)
        self.output = Linear(queries, width, config.output_bias, rngs, dtype)
        whole, normed = config.qk_norm == "whole", config.qk_norm is not None
        sizes = (queries, keys) if whole else (config.head_dim,) * 2
        self.query_norm = Norm(norm, sizes[0], dtype) if normed else None
        self.key_norm = Norm(norm, sizes[1], dtype) if normed else None

    def project(
        self, x: jax.Array, turn: Turn | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries `(..., kv_heads, group, head_dim)`, and keys and values of `x`."""
        config, size = self.config, self.config.head_dim
        query, key, value = self.query(x), self.key(x), self.value(x)
        if config.qk_norm == "whole":
            query, key = self._normalised(query, key)
        query, key, value = (
            h.reshape(*h.shape[:-1], -1, size) for h in (query, key, value)
        )
        if config.qk_norm == "head":
            query, key = self._normalised(query, key)
        scale = size**-0.5 if config.score_scale is None else config.score_scale
        query = _rotate(query * scale, turn)
        query = query.reshape(*query.shape[:-2], config.num_kv_heads, -1, size)
        return query, _rotate(key, turn), value

    def _normalised(
        self, query: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        assert self.query_norm is not None
        assert self.key_norm is not None
        return self.query_norm(query), self.key_norm(key)

    def prefill(
        self, x: jax.Array, turn: Turn | None, visible: jax.Array
    ) -> tuple[jax.Array, KeyValues]:
        """Attends within prompts `x` `(n, P, width)`, and returns their cache, too.

        Args:
          x: The residual stream, normalised.
          turn: The rotation of each place.
          visible: Which places a place may attend to, `(P, P)`.
        """
        query, key, value = self.project(x, turn)
        scores = einsum("npkgd,nskd->nkgps", query, key)
        scores = cap(scores, self.config.score_cap)
        weights = _softmax(scores, visible[None, None, None]).astype(x.dtype)
        mixed = einsum("nkgps,nskd->npkgd", weights, value)
        cache = KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))
        return self.output(mixed.reshape(*x.shape[:2], -1)), cache

    def decode(
        self,
        x: jax.Array,
        turn: Turn | None,
        visible: jax.Array,
        step: jax.Array,
        prompt: KeyValues,
        cache: KeyValues,
    ) -> tuple[jax.Array, KeyValues]:
        """Attends from one token `x` `(A, n, width)` to its prompt and its text.

        Args:
          x: The residual stream, normalised.
          turn: The rotation of the token.
          visible: Which of the ``P + T`` tokens each agent may attend to, `(n, P + T)`.
          step: The place of the token in the text.
          prompt: Keys and values of the prompts.
          cache: Those of the texts so far.
        """
        query, key, value = self.project(x, turn)
        insert = partial(jax.lax.dynamic_update_slice_in_dim, axis=-2)
        cache = KeyValues(
            insert(cache.keys, key[..., None, :], step),
            insert(cache.values, value[..., None, :], step),
        )
        to_prompt = einsum("ankgd,nkpd->ankgp", query, prompt.keys)
        to_text = einsum("ankgd,anktd->ankgt", query, cache.keys)
        scores = jnp.concatenate([to_prompt, to_text], axis=-1)
        scores = cap(scores, self.config.score_cap)
        weights = _softmax(scores, visible[None, :, None, None]).astype(x.dtype)
        on_prompt, on_text = jnp.split(weights, [to_prompt.shape[-1]], axis=-1)
        mixed = einsum("ankgp,nkpd->ankgd", on_prompt, prompt.values)
        mixed = mixed + einsum("ankgt,anktd->ankgd", on_text, cache.values)
        return self.output(mixed.reshape(*x.shape[:2], -1)), cache

    def extend(
        self, x: jax.Array, turn: Turn | None, visible: jax.Array, prompt: KeyValues
    ) -> tuple[jax.Array, KeyValues]:
        """Attends from whole texts `x` `(A, n, T, width)` to their prompts and back.

        Args:
          x: The residual stream, normalised.
          turn: The rotation of each place.
          visible: Which of the ``P + T`` tokens a place may attend to, `(n, T, P + T)`.
          prompt: Keys and values of the prompts.
        """
        query, key, value = self.project(x, turn)
        to_prompt = einsum("antkgd,nkpd->ankgtp", query, prompt.keys)
        to_text = einsum("antkgd,anskd->ankgts", query, key)
        scores = jnp.concatenate([to_prompt, to_text], axis=-1)
        scores = cap(scores, self.config.score_cap)
        weights = _softmax(scores, visible[None, :, None, None]).astype(x.dtype)
        on_prompt, on_text = jnp.split(weights, [to_prompt.shape[-1]], axis=-1)
        mixed = einsum("ankgtp,nkpd->antkgd", on_prompt, prompt.values)
        mixed = mixed + einsum("ankgts,anskd->antkgd", on_text, value)
        cache = KeyValues(key.swapaxes(2, 3), value.swapaxes(2, 3))
        return self.output(mixed.reshape(*x.shape[:3], -1)), cache


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class FeedForward(nnx.Module):
    """The feed-forward block, gated or not."""

    def __init__(
        self, config: LayerConfig, width: int, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        hidden, bias = config.mlp_width, config.mlp_bias
        self.gate = Linear(width, hidden, bias, rngs, dtype) if config.gated else None
        self.up = Linear(width, hidden, bias, rngs, dtype)
        self.down = Linear(hidden, width, bias, rngs, dtype)
        self.activation = config.activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` `(..., width)` to the same shape."""
        activate = _ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(activate(self.up(x)))
        return self.down(activate(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(
        self,
        config: LayerConfig,
        norm: NormConfig,
        width: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.config = config
        before, after = config.norms != "after", config.norms != "before"
        self.attention_norm = Norm(norm, width, dtype) if before else None
        self.attention = Attention(config, norm, width, rngs, dtype)
        self.attention_post_norm = Norm(norm, width, dtype) if after else None
        self.mlp_norm = Norm(norm, width, dtype) if before else None
        self.mlp = FeedForward(config, width, rngs, dtype)
        self.mlp_post_norm = Norm(norm, width, dtype) if after else None

    def __call__(
        self,
        x: jax.Array,
        attend: Callable[..., tuple[jax.Array, KeyValues]],
        *context: object,
    ) -> tuple[jax.Array, KeyValues]:
        """The residual stream `x` `(..., width)` after this layer, and its cache.

        Args:
          x: The residual stream.
          attend: `Attention.prefill`, `Attention.decode` or `Attention.extend`.
          *context: Its other arguments.
        """
        scale = self.config.residual_scale
        mixed, cache = attend(self.attention, _normed(self.attention_norm, x), *context)
        mixed = scale * _normed(self.attention_post_norm, mixed)
        read = x if self.config.parallel else x + mixed
        raised = self.mlp(_normed(self.mlp_norm, read))
        return x + mixed + scale * _normed(self.mlp_post_norm, raised), cache


def _normed(norm: Norm | None, x: jax.Array) -> jax.Array:
    return x if norm is None else norm(x)
