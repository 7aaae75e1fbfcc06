"""Whether a bid moves the text the bidder's way: robust preferences, monotonicity.

Source: Duetting et al. (arXiv 2310.10826), section 3.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
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
    records.check_shape("log_q", log_q, (None,))
    records.check_shape("log_q_other", log_q_other, log_q.shape)
    records.check_shape("log_p", log_p, log_q.shape)
    for name, logs in (("log_q", log_q), ("log_q_other", log_q_other)):
        base.check_logs(name, logs)
    base.check_logs("log_p", log_p)
    p = jnp.exp(log_p)
    other, chosen = jnp.exp(log_q_other) - p, jnp.exp(log_q) - p
    return preference_violation(other, chosen).max() <= tolerance


def preference_order(
    log_qs: ArrayLike, log_p: ArrayLike, tolerance: ArrayLike = 1e-6
) -> jax.Array:
    """Which of several outcomes an agent robustly (weakly) prefers to which.

    Args:
      log_qs: `(m, V)`, one outcome a row.
      log_p: `(V,)`, the agent's preferred distribution.
      tolerance: As for `robustly_prefers`.

    Returns:
      Booleans `(m, m)`: entry ``[a, b]`` says that outcome a is preferred to b. With
      both ``[a, b]`` and ``[b, a]`` the agent is indifferent, with neither it cannot
      compare the two.

    >>> import jax.numpy as jnp, tokenauction_jax as ta
    >>> log_qs = jnp.log(jnp.array([[0.5, 0.5], [0.3, 0.7], [0.9, 0.1]]))
    >>> ta.preference_order(log_qs, jnp.log(jnp.array([0.8, 0.2]))).astype(int)
    Array([[1, 1, 0],
           [0, 1, 0],
           [0, 0, 1]], dtype=int32)
    """
    log_qs, log_p = jnp.asarray(log_qs), jnp.asarray(log_p)
    records.check_shape("log_qs", log_qs, (None, None))
    records.check_shape("log_p", log_p, log_qs.shape[1:])
    base.check_logs("log_qs", log_qs)
    base.check_logs("log_p", log_p)
    p = jnp.exp(log_p)
    deviations = jnp.exp(log_qs) - p[None]

    def row(deviation: jax.Array) -> jax.Array:
        violations = preference_violation(deviations, deviation[None])
        return violations.max(axis=-1) <= tolerance

    # Row by row: all pairs at once would take m^2 V numbers.
    return jax.lax.map(row, deviations)


def comparable_fraction(
    log_qs: ArrayLike, log_p: ArrayLike, tolerance: ArrayLike = 1e-6
) -> jax.Array:
    """Share of the pairs among `log_qs` `(m, V)`, m >= 2, that the agent can compare.

    Small in general: a robust preference needs all ``V`` tokens to agree.
    """
    order = preference_order(log_qs, log_p, tolerance)
    size = order.shape[0]
    if size < 2:
        raise ValueError(f"log_qs needs at least 2 outcomes to compare, got {size}")
    pairs = jnp.triu(order | order.T, k=1).sum()
    return pairs / (size * (size - 1) / 2)


def monotonicity_gap(
    aggregation: base.Aggregation,
    agent: ArrayLike,
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
    own_bids, bids, log_probs = base.check_path(agent, own_bids, bids, log_probs)
    own_bids = jnp.sort(own_bids)

    def log_q(own_bid: jax.Array) -> jax.Array:
        return aggregation.log_prob(bids.at[agent].set(own_bid), log_probs)

    path = jax.vmap(log_q)(own_bids)
    deviation = jnp.exp(path) - jnp.exp(log_probs[agent])[None]
    defined = (path > -jnp.inf).any(axis=-1)
    steps = preference_violation(deviation[:-1], deviation[1:]).max(axis=-1, initial=0)
    return jnp.where(defined[:-1] & defined[1:], steps, 0).max(initial=0)


def outcomes_without(
    aggregation: base.Aggregation, bids: jax.Array, log_probs: jax.Array
) -> jax.Array:
    """Probabilities `(n, V)` of the aggregates without each agent in turn.

    Row i has a bid of 0 for agent i; it is all 0 where that leaves no auction.
    """

    def without(agent: jax.Array) -> jax.Array:
        rest = bids.at[agent].set(0)
        log_r = aggregation.log_prob(rest, log_probs)
        return jnp.where(rest.sum() > 0, jnp.exp(log_r), 0)

    return jax.vmap(without)(jnp.arange(bids.shape[0]))


def preference_violation(before: jax.Array, after: jax.Array) -> jax.Array:
    """How far a deviation is from lying between the one before and zero.

    Negative, by the distance gained, where it lies there.
    """
    distance = jnp.abs(after)
    return jnp.where(before * after < 0, distance, distance - jnp.abs(before))
