"""Welfare of an outcome, and the largest that any outcome of the auction has.

Welfare is ``W(q) = sum_i w_i v_i(q)``, `w` the agents' true values. Its maximisers are
known for each built-in valuation (Duetting et al., arXiv 2310.10826, section 4, for the
two divergences): the mixture of the agents for `forward_kl`, their geometric mean for
`reverse_kl`, and a weighted quantile of each token's probabilities, at one level for
all tokens, for `total_variation`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.aggregation import linear, log_linear
from tokenauction_jax.mechanism.valuations import ForwardKL, ReverseKL, TotalVariation

# Up to here the levels at which the quantile can lie are listed, 2^n of them; above,
# they are a grid of 2^24.
_MOST_LISTED = 10
_GRID_STEPS = 24


def welfare(
    valuation: base.Valuation,
    values: ArrayLike,
    log_q: ArrayLike,
    log_probs: ArrayLike,
) -> jax.Array:
    """``sum_i w_i v_i(q)``, where an agent of value 0 adds 0 even to ``-inf``.

    Args:
      valuation: What the agents maximise.
      values: ``w`` `(n,)`, money per unit of valuation.
      log_q: `(V,)`, the outcome.
      log_probs: `(n, V)`, what the agents prefer.

    Returns:
      A scalar, money per token, at most 0.
    """
    values, log_probs = base.check_auction(values, log_probs)
    value = jax.vmap(valuation.value, (None, 0))(jnp.asarray(log_q), log_probs)
    return (values * jnp.where(values > 0, value, 0)).sum()


def optimal_welfare(
    valuation: base.Valuation, values: ArrayLike, log_probs: ArrayLike
) -> jax.Array:
    """The largest welfare of any distribution over the vocabulary.

    Args:
      valuation: `total_variation`, `forward_kl` or `reverse_kl`.
      values: ``w`` `(n,)`, money per unit of valuation, with a positive sum.
      log_probs: `(n, V)`.

    Returns:
      A scalar, money per token; ``-inf`` for `reverse_kl` if the agents of positive
      value have no token in common.

    Raises:
      ValueError: If a shape is wrong, or for another valuation.

    >>> import jax.numpy as jnp, tokenauction_jax as ta
    >>> log_probs = jnp.log(jnp.array([[0.8, 0.2], [0.3, 0.7]]))
    >>> print(ta.optimal_welfare(ta.total_variation(), [2.0, 1.0], log_probs))
    -0.5
    """
    values, log_probs = base.check_auction(values, log_probs)
    if isinstance(valuation, TotalVariation):
        p = jnp.exp(log_probs)
        return total_variation_optimum(values, quantile_levels(values), p, None)
    if isinstance(valuation, ForwardKL):
        log_q = linear().log_prob(values, log_probs)
        return welfare(valuation, values, log_q, log_probs)
    if isinstance(valuation, ReverseKL):
        aggregate = jax.vmap(log_linear().log_prob, (None, 0))
        log_q = aggregate(values, log_probs[None])[0]
        best = welfare(valuation, values, log_q, log_probs)
        return jnp.where(jnp.isfinite(log_q).any(), best, -jnp.inf)
    raise ValueError(
        "the welfare optimum is known for total_variation, forward_kl and reverse_kl, "
        f"not for {getattr(valuation, 'name', valuation)!r}"
    )


def quantile_levels(values: jax.Array) -> jax.Array:
    """Prices of probability at which `total_variation_optimum` can lie.

    ``sum_{i in S} w_i - sum_{i not in S} w_i`` for all sets S of agents, sorted,
    `(2^n,)`; none are listed, `(0,)`, for more than 10 agents. They depend on the
    values alone: one sort serves all tokens of an auction.
    """
    size = values.shape[0]
    if size > _MOST_LISTED:
        return jnp.zeros(0, values.dtype)
    signs = np.array(list(itertools.product((-1, 1), repeat=size)))
    return jnp.sort((jnp.asarray(signs, values.dtype) * values[None]).sum(-1))


def total_variation_optimum(
    values: jax.Array, levels: jax.Array, p: jax.Array, costs: jax.Array | None
) -> jax.Array:
    """``max_q -sum_i w_i TV(q, p_i)``, exact up to rounding.

    By duality ``min_q sum_i w_i |q - p_i|_1`` is the largest over the price ``mu`` of
    probability of ``mu + sum_t min_k (cost_k(t) - mu p_k(t))``, concave and piecewise
    linear with its corners at `levels`: one binary search, `n` passes over the tokens.

    Args:
      values: `(n,)`.
      levels: `quantile_levels` of the values.
      p: `(n, V)`, probabilities.
      costs: ``sum_i w_i |p_k - p_i|`` `(n, V)`, if they are known already.
    """
    if costs is None:
        costs = total_variation_costs(values, p)
    steps = p.shape[0] if levels.size else _GRID_STEPS
    total = values.sum()
    index = jnp.zeros((), jnp.int32)
    best = jnp.asarray(-jnp.inf, p.dtype)
    for step in range(steps - 1, -1, -1):
        middle = index + (1 << step)
        price = (
            levels[middle] if levels.size else total * (middle * 2.0 ** (1 - steps) - 1)
        )
        # Which agent's probability is the cheapest, token by token.
        cheapest, mass = costs[0] - price * p[0], p[0]
        for k in range(1, p.shape[0]):
            cost = costs[k] - price * p[k]
            mass = jnp.where(cost < cheapest, p[k], mass)
            cheapest = jnp.minimum(cost, cheapest)
        best = jnp.maximum(best, price + distributions.sum_last(cheapest))
        index = jnp.where(distributions.sum_last(mass) < 1, middle, index)
    return -best / 2


def total_variation_costs(values: jax.Array, p: jax.Array) -> jax.Array:
    """``sum_i w_i |p_k(t) - p_i(t)|`` `(n, V)`."""
    gaps = jnp.abs(p[:, None] - p[None])
    return (values[None, :, None] * gaps).sum(1)
