"""Payments from the tokens that some agent can produce, where few are left of ``V``.

Under a filter as top-k a payment by quadrature, hundreds of passes over the vocabulary,
needs to look at some hundred tokens, not at tens of thousands.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tokenauction_jax.agents.pool import AgentPool, SupportsFilters
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.mechanism.invariances import is_neutral
from tokenauction_jax.simulation.auction_step import one_auction

# With fewer tokens than that many times those that are left, nothing is gained.
_WORTH = 4
# Tokens are looked for in blocks: in one row that took three times as long.
_BLOCK = 128


def most_tokens(pool: AgentPool) -> int | None:
    """How many tokens of an auction agents can produce, None if nobody knows."""
    return pool.most_tokens if isinstance(pool, SupportsFilters) else None


def auctions(
    mechanism: Mechanism,
    keys: jax.Array,
    bids: jax.Array,
    log_probs: jax.Array,
    most_tokens: int | None,
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """`one_auction` of auctions side by side.

    Args:
      mechanism: The rules.
      keys: Typed PRNG keys `(A,)`.
      bids: `(A, n)`.
      log_probs: `(A, n, V)`.
      most_tokens: How many tokens of an auction agents can produce, but for ties; None
        if nobody knows. Where there are far more in any of the auctions, payments of
        all are found from all tokens: it need not be right.
    """
    every: Any = jax.vmap(functools.partial(one_auction, mechanism))
    size = log_probs.shape[-1]
    # A few more: a filter that ranks tokens keeps all that tie with its last.
    most = size if most_tokens is None else most_tokens + most_tokens // 4 + 8
    if _WORTH * most > size or not is_neutral(mechanism.payment):
        return every(keys, bids, log_probs)
    # NaN is no -inf: such an auction has all tokens.
    possible = (log_probs != -jnp.inf).any(1)

    def few(*rows: jax.Array) -> Any:
        tokens = jax.vmap(functools.partial(_positions, most=most))(possible)
        return every(*rows, tokens)

    enough = possible.sum(-1).max() <= most
    return lax.cond(enough, few, every, keys, bids, log_probs)


def _positions(chosen: jax.Array, most: int) -> jax.Array:
    """Where `chosen` `(V,)` is True, `(most,)` in order, and ``V`` for the rest."""
    size = chosen.size
    table = jnp.pad(chosen, (0, -size % _BLOCK)).reshape(-1, _BLOCK)
    (blocks,) = jnp.nonzero(table.any(1), size=most, fill_value=len(table))
    found = table.at[blocks].get(mode="fill", fill_value=False).ravel()
    (places,) = jnp.nonzero(found, size=most, fill_value=found.size)
    tokens = (blocks[:, None] * _BLOCK + jnp.arange(_BLOCK)[None]).ravel()
    return tokens.at[places].get(mode="fill", fill_value=size)
