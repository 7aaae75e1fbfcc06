"""Draws that are right in the tails.

float32 Gumbel noise reaches log-probability gaps of about 16, and an inverse CDF from
one float32 uniform cannot hit a mass below 2^-24. The draws here start from 64 random
bits and keep *relative* precision down to 2^-64, on either side of a uniform.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import distributions, keys

# Columns are summed by groups of at least so many rows, as long as there are at most so
# many groups: they stay in a core's nearest cache. At once a step took a fifth longer.
_ROWS, _GROUPS = 4, 16

# What results record of how they were drawn.
SAMPLER = "exponential race in two levels, 64-bit uniforms, keys by auction"


def sample_token(key: jax.Array, log_q: ArrayLike) -> jax.Array:
    """Draws one token from `log_q`, exact in the tails; see `sample_from_masses`.

    Args:
      key: A typed PRNG key, consumed here.
      log_q: Log-probabilities `(V,)`; need not be normalised.

    Returns:
      The token, an int32 scalar; 0 if `log_q` is ``-inf`` throughout.
    """
    log_q = jnp.asarray(log_q)
    records.check_shape("log_q", log_q, (None,))
    masses = jnp.exp(distributions.below_zero(log_q)[0])
    return sample_from_masses(key, masses)


def sample_from_masses(key: jax.Array, masses: jax.Array) -> jax.Array:
    """Draws one token in proportion to `masses`, exact in the tails; see `race`.

    Args:
      key: A typed PRNG key, consumed here.
      masses: `(V,)`, not negative; the largest of 1e-20 at least and 1e20 at most.

    Returns:
      The token, an int32 scalar; 0 if all masses are 0.
    """
    size = masses.shape[0]
    return race(key, size, column_sums(masses), lambda i: column(masses, i, 0))


def race(
    key: jax.Array,
    size: int,
    sums: jax.Array,
    masses_of: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Draws one of `size` tokens, exact in the tails.

    A race of exponential clocks, first between the columns of a table of the tokens and
    then within the column that won: token ``t`` is drawn with a probability within a
    relative 1e-5 of ``q(t)`` (float32) for ``q(t)`` down to 1e-18, and never if
    ``q(t) = 0``. It takes a sum over the vocabulary and O(sqrt(V)) random numbers.

    Args:
      key: A typed PRNG key, consumed here.
      size: ``V``.
      sums: The tokens' masses, summed as `column_sums` does.
      masses_of: From the number of a column to the masses of its tokens, as `column`
        finds them.

    Returns:
      The token, an int32 scalar; 0 if all masses are 0.
    """
    width, height = _shape(size)
    # Of both races at once: a kernel of its own, which is vector code.
    clocks = _clocks(key, width + height, sums.dtype)
    winner = _first(clocks[:width], sums)
    return _first(clocks[width:], masses_of(winner)) * width + winner


def column_sums(x: jax.Array) -> jax.Array:
    """Sums `(..., width)` of `x` `(..., V)` down the columns of the tokens' table.

    They are plain vector code; along the rows sums took as long as all of a draw.
    """
    size, (width, _) = x.shape[-1], _shape(x.shape[-1])
    # What is left over is added by itself: rows that are filled up would be copied.
    left = size % width
    table = x[..., : size - left].reshape(*x.shape[:-1], size // width, width)
    sums = _down(table) if jax.default_backend() == "cpu" else table.sum(-2)
    return sums.at[..., :left].add(x[..., size - left :]) if left else sums


def column(x: jax.Array, number: jax.Array, rest: float) -> jax.Array:
    """Column `number` of the table of `x` `(..., V)`, filled up with `rest`."""
    size = x.shape[-1]
    width, height = _shape(size)
    tokens = jnp.arange(height) * width + number
    found = jnp.take(x, tokens, axis=-1, mode="clip")
    return found if size == width * height else jnp.where(tokens < size, found, rest)


def log_totals(logits: jax.Array) -> jax.Array:
    """``log sum exp`` `(...)` of `logits` `(..., V)`, of which each largest is 0.

    By the sums that draw from their exponentials: XLA finds that they are the same.
    """
    return jnp.log(column_sums(jnp.exp(logits)).sum(-1))


def two_sided_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Uniforms `u` and ``1 - u``, each of relative precision down to 2^-64."""
    high, low = (x.reshape(shape) for x in keys.random_words(key, math.prod(shape)))
    near = _fraction(high >> 1, low, dtype)
    upper_half = (high & 1).astype(bool)
    return jnp.where(upper_half, 1 - near, near), jnp.where(upper_half, near, 1 - near)


def is_below(
    uniform: tuple[jax.Array, jax.Array], probability: jax.Array, complement: jax.Array
) -> jax.Array:
    """Whether a two-sided `uniform` is below `probability`, exact near both 0 and 1.

    Args:
      uniform: `u` and ``1 - u``, of one shape.
      probability: Chance of True, of that shape.
      complement: ``1 - probability``, computed without subtracting.
    """
    lower, upper = uniform
    return jnp.where(lower < 0.5, lower < probability, upper > complement)


def _down(table: jax.Array) -> jax.Array:
    """Sums `(..., width)` of the columns of `(..., height, width)`, in groups."""
    height, width = table.shape[-2:]
    rows = max(_ROWS, -(-height // _GROUPS))
    whole = height - height % rows
    groups = table[..., :whole, :].reshape(*table.shape[:-2], -1, rows, width).sum(-2)
    # Not a second reduction, which XLA would make one with the first.
    sums = [groups[..., k, :] for k in range(whole // rows)]
    if whole < height or not whole:
        sums.append(table[..., whole:, :].sum(-2))
    return functools.reduce(jnp.add, sums)


def _shape(size: int) -> tuple[int, int]:
    """Columns and rows of a table of so many tokens, nearly a square."""
    width = 1 << ((max(size - 1, 1).bit_length() + 1) // 2)
    return width, -(-size // width)


def _clocks(key: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    """Exponential random numbers of mean 1, `(size,)`."""
    below_one = 1 - jnp.finfo(dtype).epsneg
    uniform = _fraction(*keys.random_words(key, size), dtype)
    return -jnp.log1p(-jnp.minimum(uniform, below_one))


def _first(clocks: jax.Array, masses: jax.Array) -> jax.Array:
    """The index whose clock rings first, if they run at the rates of `masses`."""
    return jnp.argmax(masses / clocks).astype(jnp.int32)


def _fraction(high: jax.Array, low: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """``(high + (low + 1/2) / 2^32) / 2^32``, never 0."""
    return (high.astype(dtype) + (low.astype(dtype) + 0.5) * 2.0**-32) * 2.0**-32
