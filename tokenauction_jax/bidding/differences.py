"""Derivatives by central differences with common random numbers, for checks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tokenauction_jax.bidding.texts import Numbers

# Relative to a number; of a number near 0, to a tenth of the mean of those beside it.
_STEP, _BESIDE = 0.05, 0.1
# Worths `(A,)` with other numbers.
Worths = Callable[[jax.Array], jax.Array]


def by_auction(
    totals: Callable[[Numbers], jax.Array], numbers: Numbers, varies: tuple[bool, ...]
) -> list[jax.Array]:
    """Derivatives `(A, ...)` of worths `totals` `(A,)` in the leaves that vary.

    Each takes two calls for every column of bids and values, and every other number.
    """
    leaves, tree = jax.tree.flatten(numbers)
    # Bids and values come last.
    shared, slopes = len(leaves) - 2, []
    for place, leaf in enumerate(leaves):

        def moved(x: jax.Array, place: int = place) -> jax.Array:
            changed = [*leaves[:place], x, *leaves[place + 1 :]]
            return totals(jax.tree.unflatten(tree, changed))

        if varies[place]:
            slopes.append((_by_number if place < shared else _by_row)(moved, leaf))
    return slopes


def _by_row(worths: Worths, x: jax.Array) -> jax.Array:
    """Derivatives `(A, n)` in amounts `x` `(A, n)`, each of its own auction."""
    step = _STEP * jnp.maximum(x, _BESIDE * x.mean(axis=1, keepdims=True))

    def column(which: jax.Array) -> jax.Array:
        move = jnp.where(jnp.arange(x.shape[1])[None] == which, step, 0)
        # Amounts are not negative.
        high, low = x + move, jnp.maximum(x - move, 0)
        return (worths(high) - worths(low)) / (high - low).sum(axis=1)

    return jax.lax.map(column, jnp.arange(x.shape[1])).T


def _by_number(worths: Worths, x: jax.Array) -> jax.Array:
    """Derivatives `(A, ...)` in each of the numbers `x` `(...)`."""
    size = jnp.abs(x)
    beside = jnp.where(size.any(), _BESIDE * size.mean(), 1)

    def entry(which: jax.Array) -> jax.Array:
        move = jnp.where(jnp.arange(x.size) == which, 1, 0).reshape(x.shape)
        step = (_STEP * jnp.maximum(size, beside) * move).astype(x.dtype)
        high, low = x + step, x - step
        return (worths(high) - worths(low)) / (high - low).sum()

    slopes = jax.lax.map(entry, jnp.arange(x.size))
    return jnp.moveaxis(slopes, 0, -1).reshape(-1, *x.shape)
