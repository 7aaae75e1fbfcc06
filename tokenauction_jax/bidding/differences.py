"""Derivatives by central differences with common random numbers, for checks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tokenauction_jax.bidding.texts import Numbers, finite
from tokenauction_jax.simulation import Bidders

# Relative to a number; of a number near 0, to a tenth of the mean of those beside it.
_STEP, _BESIDE = 0.05, 0.1
# Worths `(A,)` with other numbers.
Worths = Callable[[jax.Array], jax.Array]


def by_auction(
    totals: Callable[[Numbers], jax.Array], numbers: Numbers, varies: tuple[bool, ...]
) -> list[jax.Array]:
    """Derivatives `(A, ...)` of worths `totals` `(A,)` in the leaves that vary.

    Each takes two calls for every number, of those with one row an auction for every
    column.
    """
    leaves, tree = jax.tree.flatten(numbers)
    amounts = dataclasses.replace(
        jax.tree.map(lambda _: False, numbers), **_amounts(numbers)
    )
    kinds = zip(varies, numbers.rows(), jax.tree.leaves(amounts), strict=True)
    slopes = []
    for place, (vary, row, amount) in enumerate(kinds):

        def moved(x: jax.Array, place: int = place) -> jax.Array:
            changed = [*leaves[:place], x, *leaves[place + 1 :]]
            return totals(jax.tree.unflatten(tree, changed))

        if vary:
            along = functools.partial(_by_row, least=0 if amount else -jnp.inf)
            slopes.append((along if row else _by_number)(moved, leaves[place]))
    return slopes


def _amounts(numbers: Numbers) -> dict[str, Any]:
    """Which numbers of auctions are amounts, not negative: all but policies'."""
    bids = jax.tree.map(lambda _: True, numbers.bids)
    if isinstance(bids, Bidders):
        policies = jax.tree.map(lambda _: False, bids.policies)
        bids = dataclasses.replace(bids, policies=policies)
    return {"bids": bids, "values": True}


def _by_row(worths: Worths, x: jax.Array, least: float) -> jax.Array:
    """Derivatives `(A, ...)` in numbers `x` `(A, ...)`, each of its own auction."""
    shape, x = x.shape, x.reshape(len(x), -1)
    size = finite(jnp.abs(x))
    step = _STEP * jnp.maximum(size, _BESIDE * size.mean(axis=1, keepdims=True))

    def column(which: jax.Array) -> jax.Array:
        move = jnp.where(jnp.arange(x.shape[1])[None] == which, step, 0)
        high, low = x + move, jnp.maximum(x - move, least)
        gap = finite(high - low).sum(axis=1)
        change = worths(high.reshape(shape)) - worths(low.reshape(shape))
        # Of what is infinite, or 0 beside nothing, there is no more and no less.
        return jnp.where(gap > 0, change / jnp.where(gap > 0, gap, 1), 0)

    return jax.lax.map(column, jnp.arange(x.shape[1])).T.reshape(shape)


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
