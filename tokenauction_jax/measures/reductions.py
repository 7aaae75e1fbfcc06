"""Several reductions in few passes over arrays of one size."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Numbers that a CPU adds at once.
_LANES = 8
# Sums taken in one pass. XLA no longer vectorises many: of 72 divergences (n = 8,
# V = 64) one took 0.011 us by fours or fives, 0.031 us by sixes.
_TERMS = 4


def sums(terms: Sequence[jax.Array]) -> list[jax.Array]:
    """Sums of several arrays `(V,)` of one size, in few passes over them.

    For cheap terms of arrays in memory: with ``exp``, or with terms that are selected,
    it is 3 to 10 times slower. Has no gradient.
    """
    # 13 sums of 64 numbers took 0.30 us of a core one by one, 0.20 us in one reduction,
    # and 0.09 us in one that first adds 8 numbers to each of 8.
    groups = math.ceil(len(terms) / _TERMS)
    each = math.ceil(len(terms) / groups)
    return [
        x
        for k in range(0, len(terms), each)
        for x in _reduce(operator.add, terms[k : k + each])
    ]


def unions(terms: Sequence[jax.Array]) -> list[jax.Array]:
    """The bits set anywhere in each of several arrays `(V,)` of integers."""
    return _reduce(operator.or_, terms)


def _reduce(combine: Callable[..., Any], terms: Sequence[jax.Array]) -> list[jax.Array]:
    """Reduces several arrays `(V,)` together; 0 is neutral."""
    size = terms[0].shape[0]
    last = size <= _LANES
    if not last:
        rows = math.ceil(size / _LANES**2)
        padding = (0, rows * _LANES**2 - size)
        padded = [jnp.pad(x, padding) if padding[1] else x for x in terms]
        terms = [x.reshape(rows, _LANES, _LANES) for x in padded]
    zeros = tuple(jnp.zeros((), x.dtype) for x in terms)

    def combined(x: tuple[jax.Array, ...], y: tuple[jax.Array, ...]) -> Any:
        return tuple(map(combine, x, y))

    found = lax.reduce(tuple(terms), zeros, combined, (0 if last else 1,))
    if last:
        return list(found)
    return _reduce(combine, [x.reshape(-1) for x in found])
