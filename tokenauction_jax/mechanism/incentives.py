"""Whether a bid moves the text the bidder's way: robust preferences, monotonicity.

Source: Duetting et al. (arXiv 2310.10826), section 3.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base


def robustly_prefers(
    log_q: ArrayLike,
    log_q_other: ArrayLike,
    log_p: ArrayLike,
    tolerance: ArrayLike = 1e-6,
) -> jax.Array:
    """Whether an agent that wants `log_p` robustly (weakly) prefers `log_q`.

    That is, whether for every token ``|q - p| <= |q' - p|`` and
    ``(q - p)(q' - p) >= 0``, so that every reasonable valuation agrees. A partial
    order: most pairs cannot be compared.

    Args:
      log_q: `(V,)`.
      log_q_other: `(V,)`, the alternative ``q'``.
      log_p: `(V,)`, the agent's preferred distribution.
      tolerance: By how much, in probability, a token may miss this.

    Returns:
      A boolean scalar.
    """
    log_q, log_q_other = jnp.asarray(log_q), jnp.asarray(log_q_other)
    log_p = jnp.asarray(log_p)
    base.check_shape("log_q", log_q, (None,))
    base.check_shape("log_q_other", log_q_other, log_q.shape)
    base.check_shape("log_p", log_p, log_q.shape)
    p = jnp.exp(log_p)
    return _miss(jnp.exp(log_q_other) - p, jnp.exp(log_q) - p).max() <= tolerance


def monotonicity_gap(
    aggregation: base.Aggregation,
    agent: int,
    own_bids: ArrayLike,
    bids: ArrayLike,
    log_probs: ArrayLike,
) -> jax.Array:
    """By how much raising one agent's bid moves some token the wrong way.

    With ``d = q(t) - p_i(t)`` at one of the sorted own bids and ``d'`` at the next, the
    largest over tokens and steps of ``|d'|`` if ``d d' < 0`` (overshoot), else of
    ``max(0, |d'| - |d|)`` (retreat). 0, up to rounding, for a monotone aggregation.

    Args:
      aggregation: The rule.
      agent: The agent whose bid varies.
      own_bids: `(k,)`, in any order; a step from or to a bid at which the auction is
        undefined does not count.
      bids: `(n,)`, of which the agent's own is not used.
      log_probs: `(n, V)`.

    Returns:
      A scalar >= 0, differentiable in bids and log-probabilities.

    Raises:
      ValueError: If a shape is wrong or there is no such agent.
    """
    own_bids = jnp.asarray(own_bids)
    base.check_shape("own_bids", own_bids, (None,))
    bids, log_probs = jnp.asarray(bids), jnp.asarray(log_probs)
    base.check_shape("bids", bids, (None,))
    base.check_shape("log_probs", log_probs, (bids.shape[0], None))
    if not 0 <= agent < bids.shape[0]:
        raise ValueError(f"agent must be in [0, {bids.shape[0]}), got {agent}")
    dtype = jnp.result_type(own_bids, bids, log_probs, jnp.float32)
    bids, own_bids = bids.astype(dtype), jnp.sort(own_bids.astype(dtype))

    def log_q(own_bid: jax.Array) -> jax.Array:
        return aggregation.log_prob(bids.at[agent].set(own_bid), log_probs)

    path = jax.vmap(log_q)(own_bids)
    deviation = jnp.exp(path) - jnp.exp(log_probs[agent])[None]
    defined = (path > -jnp.inf).any(axis=-1)
    steps = _miss(deviation[:-1], deviation[1:]).max(axis=-1, initial=0)
    return jnp.where(defined[:-1] & defined[1:], steps, 0).max(initial=0)


def _miss(before: jax.Array, after: jax.Array) -> jax.Array:
    """How far a deviation is from lying between the one before and zero."""
    distance = jnp.abs(after)
    retreat = jnp.maximum(distance - jnp.abs(before), 0)
    return jnp.where(before * after < 0, distance, retreat)
