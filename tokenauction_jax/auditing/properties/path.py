"""The aggregates that an agent reaches with its own bids."""

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.incentives import preference_violation


def rising_bids(instance: Instance) -> jax.Array:
    """0, for the aggregate without the agent, and then its bids, rising."""
    bids = jnp.append(instance.own_bids, instance.bids[instance.agent])
    return jnp.append(0.0, jnp.sort(bids)).astype(bids.dtype)


def between(own_bids: jax.Array, parts: int) -> jax.Array:
    """Bids `(k parts + 1,)` that divide each step of rising positive ones evenly."""
    logs = jnp.log(own_bids)
    shares = jnp.arange(parts, dtype=logs.dtype)[None] / parts
    inside = logs[:-1, None] + shares * jnp.diff(logs)[:, None]
    # The bids themselves, not what rounding makes of them.
    inside = jnp.exp(inside).at[:, 0].set(own_bids[:-1])
    return jnp.append(inside.ravel(), own_bids[-1])


def aggregates(
    aggregation: base.Aggregation,
    agent: jax.Array,
    own_bids: jax.Array,
    bids: jax.Array,
    log_probs: jax.Array,
) -> jax.Array:
    """``log q`` `(k, V)` along own bids `(k,)`, the others' taken from `bids`."""

    def log_q(own_bid: jax.Array) -> jax.Array:
        return aggregation.log_prob(bids.at[agent].set(own_bid), log_probs)

    return jax.vmap(log_q)(own_bids)


def probabilities(log_q: jax.Array) -> jax.Array:
    """``exp(log_q)``, in which NaN stays NaN."""
    # Fused with a rule's own `where`, the exp of XLA on a CPU made 1 of NaN.
    return jnp.where(jnp.isnan(log_q), jnp.nan, jnp.exp(log_q))


def moves(qs: jax.Array, p: jax.Array) -> jax.Array:
    """How far each step of `qs` `(k, V)` is from a robust preference, `(k-1,)`."""
    deviation = qs - p[None]
    return preference_violation(deviation[:-1], deviation[1:]).max(axis=-1)


def both_ways(qs: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The moves as the bid rises and, step for step, as it falls."""
    return moves(qs, p), moves(qs[::-1], p)[::-1]


def worst_step(steps: jax.Array, qs: jax.Array) -> jax.Array:
    """The largest of the steps `(k-1,)` between two of `qs` that are defined."""
    defined = is_defined(qs)
    return jnp.where(defined[:-1] & defined[1:], steps, -jnp.inf).max()


def is_defined(q: jax.Array) -> jax.Array:
    """Whether aggregates `(..., V)` are defined: not all probabilities are 0."""
    return (q > 0).any(axis=-1)
