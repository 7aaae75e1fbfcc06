"""How many auctions are computed side by side: so many that a CPU's cache holds them.

One token of an auction takes several passes over its `(n, V)` distributions. Of tens of
thousands of auctions at once each pass would go through memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# 3 agents: 4,096 auctions of 64 tokens, 256 of 1,024, 4 of 49,152. From 1 to 8 MB times
# are within the noise; at 16 MB they are a quarter longer, and without blocks double.
_CACHE = 3 << 20


def cache_size(num_auctions: int, num_agents: int, vocab_size: int) -> int:
    """The size of blocks that a CPU's cache holds; on other devices, all auctions."""
    if jax.default_backend() != "cpu":
        return num_auctions
    itemsize = jnp.result_type(float).itemsize
    most = max(1, _CACHE // (num_agents * vocab_size * itemsize))
    return even_size(num_auctions, most)


def even_size(num_auctions: int, most: int) -> int:
    """The size of blocks of at most so many auctions.

    Blocks of one size leave no rest, which would be another program and a copy.
    """
    if num_auctions <= most:
        return num_auctions
    even = (size for size in range(most, most // 2, -1) if num_auctions % size == 0)
    return next(even, most)


def in_blocks(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """`function` of all rows, so many at a time.

    Args:
      function: From a pytree of arrays `(B, ...)` to one, row by row.
      rows: A pytree of arrays `(A, ...)`.
      size: ``B``; the last block has what is left.
    """
    total = jax.tree.leaves(rows)[0].shape[0]
    if size >= total:
        return function(rows)
    whole = total - total % size

    def split(x: jax.Array) -> jax.Array:
        return x[:whole].reshape(-1, size, *x.shape[1:])

    _, found = scan(lambda _, x: (None, function(x)), None, jax.tree.map(split, rows))
    found = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), found)
    if whole == total:
        return found
    rest = function(jax.tree.map(lambda x: x[whole:], rows))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), found, rest)


def scan(step: Callable[[Any, Any], Any], carry: Any, xs: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` whose steps stack what the one before put out.

    XLA for CPUs does what is stacked and the operations that lead to it in one, on a
    single core: payments alone took a quarter of the time of a text (n = 3, V = 64).
    """
    if jax.default_backend() != "cpu":
        return lax.scan(step, carry, xs)
    # Traced once, although shapes are asked for before it runs.
    step = jax.jit(step, inline=True)

    def first(carry: Any, xs: Any) -> Any:
        return step(carry, jax.tree.map(lambda x: x[0], xs))[1]

    def late(state: Any, x: Any) -> tuple[Any, Any]:
        carry, before = state
        return step(carry, x), before

    shapes = jax.eval_shape(first, carry, xs)
    nothing = jax.tree.map(lambda x: lax.full(x.shape, 0, x.dtype), shapes)
    (carry, last), stacked = lax.scan(late, (carry, nothing), xs)
    whole = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), stacked, last)
    return carry, whole
