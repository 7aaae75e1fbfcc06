"""Draws that are right in the tails.

float32 Gumbel noise reaches log-probability gaps of about 16, and an inverse CDF from
one float32 uniform cannot hit a mass below 2^-24. The draws here start from 64 random
bits and keep *relative* precision down to 2^-64, on either side of a uniform.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base


def sample_token(key: jax.Array, log_q: ArrayLike) -> jax.Array:
    """Draws one token from `log_q`, exact in the tails.

    A race of exponential clocks, first between blocks of tokens and then within the
    winning block: token ``t`` is drawn with a probability within a relative 1e-5 of
    ``q(t)`` (float32) for ``q(t)`` down to 1e-18, and never if ``q(t) = 0``. The cost
    is one ``exp`` per token of the vocabulary and O(sqrt(V)) random numbers.

    Args:
      key: A typed PRNG key, consumed here.
      log_q: Log-probabilities `(V,)`; need not be normalised.

    Returns:
      The token, an int32 scalar; 0 if `log_q` is ``-inf`` throughout.
    """
    log_q = jnp.asarray(log_q)
    base.check_shape("log_q", log_q, (None,))
    size = log_q.shape[0]
    width = 1 << ((max(size - 1, 1).bit_length() + 1) // 2)
    largest = jnp.max(log_q)
    masses = jnp.exp(log_q - jnp.where(jnp.isneginf(largest), 0, largest))
    blocks = jnp.pad(masses, (0, -size % width)).reshape(-1, width)
    # In one row: under vmap XLA vectorises the hash along the last axis only, and on a
    # CPU took 23 ns a word for rows of 8, 4 ns for rows of 44.
    words = jax.random.bits(key, (blocks.shape[0] + width + 2,), jnp.uint32)
    words_block, words_token = jnp.split(words, [blocks.shape[0] + 1])
    block = _race(words_block, blocks.sum(-1))
    return block * width + _race(words_token, blocks[block])


def sample_win(
    key: jax.Array, probability: jax.Array, complement: jax.Array
) -> jax.Array:
    """Bernoulli draws of `probability`, elementwise, exact near both 0 and 1.

    Args:
      key: A typed PRNG key, consumed here.
      probability: Chance of True, any shape.
      complement: ``1 - probability``, computed without subtracting.
    """
    lower, upper = two_sided_uniform(key, probability.shape, probability.dtype)
    return jnp.where(lower < 0.5, lower < probability, upper > complement)


def two_sided_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Uniforms `u` and ``1 - u``, each of relative precision down to 2^-64."""
    size = math.prod(shape)
    high, low = jax.random.bits(key, (2 * size,), jnp.uint32).reshape(2, *shape)
    near = _fraction(high >> 1, low, dtype)
    upper_half = (high & 1).astype(bool)
    return jnp.where(upper_half, 1 - near, near), jnp.where(upper_half, near, 1 - near)


def _race(words: jax.Array, masses: jax.Array) -> jax.Array:
    """Index drawn in proportion to `masses`: the first clock of these rates to ring.

    `words` are a high one for each clock and a low one that they share: it matters only
    to a clock near 0, and moves the odds by a relative ``masses.size * 2^-32``.
    """
    below_one = 1 - jnp.finfo(masses.dtype).epsneg
    uniform = jnp.minimum(_fraction(words[1:], words[:1], masses.dtype), below_one)
    return jnp.argmax(masses / -jnp.log1p(-uniform)).astype(jnp.int32)


def _fraction(high: jax.Array, low: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """``(high + (low + 1/2) / 2^32) / 2^32``, never 0."""
    return (high.astype(dtype) + (low.astype(dtype) + 0.5) * 2.0**-32) * 2.0**-32
