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

# Up to here sets of agents are listed, 2^n of them.
MOST_LISTED = 5
# Narrows the price of probability to the last bit of a float32.
_HALVINGS = 26


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
        if p.shape[0] > MOST_LISTED:
            return dual_total_variation_optimum(values, p)
        order, masses = fill_order(values), exclusive_masses(p)
        return total_variation_optimum(values, order, masses)
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


def fill_order(values: jax.Array) -> jax.Array:
    """Which sets of agents probability flows through before which, `(S, S)` of 0 and 1.

    Entry ``[a, b]`` says that set b, of less value, is filled before set a. It depends
    on the values alone, and so serves all tokens of an auction. Sets are those of
    `exclusive_masses`; there are none, `(0, 0)`, for more than 5 agents.
    """
    members = _subsets(values.shape[0])
    weights = (jnp.asarray(members, values.dtype) * values[None]).sum(-1)
    index = jnp.arange(len(members))
    less = weights[None] < weights[:, None]
    tied = (weights[None] == weights[:, None]) & (index[None] < index[:, None])
    return (less | tied).astype(values.dtype)


def exclusive_masses(p: jax.Array) -> jax.Array:
    """Probability that exactly the agents of each set give up, `(S,)`.

    For each set of agents but that of all: ``sum_t |{z : p_i(t) <= z for i in the set,
    p_j(t) > z for j outside}|``. They say all about total variation that matters here:
    ``TV(p_i, p_k)`` sums those of the sets with i and without k.
    """
    lowest: dict[tuple[int, ...], jax.Array] = {}
    highest: dict[tuple[int, ...], jax.Array] = {}
    agents = tuple(range(p.shape[0]))
    for size in range(1, len(agents) + 1):
        for group in itertools.combinations(agents, size):
            rest, last = group[:-1], p[group[-1]]
            lowest[group] = jnp.minimum(lowest[rest], last) if rest else last
            highest[group] = jnp.maximum(highest[rest], last) if rest else last
    masses = []
    for members in _subsets(p.shape[0]):
        inside = tuple(i for i in agents if members[i])
        outside = tuple(i for i in agents if not members[i])
        gap = lowest[outside]
        if inside:
            gap = jnp.maximum(gap - highest[inside], 0)
        masses.append(distributions.sum_last(gap))
    return jnp.stack(masses)


def variation_between(masses: jax.Array, num_agents: int) -> jax.Array:
    """``TV(p_i, p_k)`` `(n, n)` from `exclusive_masses`."""
    members = _subsets(num_agents).astype(bool)
    chosen = members[:, :, None] & ~members[:, None, :]
    return (jnp.asarray(chosen, masses.dtype) * masses[:, None, None]).sum(0)


def total_variation_optimum(
    values: jax.Array, order: jax.Array, masses: jax.Array
) -> jax.Array:
    """``max_q -sum_i w_i TV(q, p_i)``, exact up to rounding.

    A token's probability rises from 0 through the sets of agents who have had enough,
    and each step costs those agents' value; the cheapest steps of all tokens together
    are taken until the probabilities sum to one.

    Args:
      values: `(n,)`.
      order: `fill_order` of the values.
      masses: `exclusive_masses` of the agents.
    """
    members = jnp.asarray(_subsets(values.shape[0]), values.dtype)
    costs = (members * values[None]).sum(-1)
    before = (order * masses[None]).sum(-1)
    return -(costs * jnp.clip(1 - before, 0, masses)).sum()


def dual_total_variation_optimum(values: jax.Array, p: jax.Array) -> jax.Array:
    """The same for many agents, by a search for the price ``mu`` of probability.

    ``min_q sum_i w_i |q - p_i|_1`` is the largest over ``mu`` of the concave function
    ``mu + sum_t min_k (sum_i w_i |p_k(t) - p_i(t)| - mu p_k(t))``.
    """
    gaps = jnp.abs(p[:, None] - p[None])
    costs = (values[None, :, None] * gaps).sum(1)

    def halve(_: int, bounds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, best = bounds
        price = (low + high) / 2
        reduced = costs - price * p
        cheapest = reduced.argmin(0)
        mass = jnp.take_along_axis(p, cheapest[None], 0).sum()
        best = jnp.maximum(best, price + reduced.min(0).sum())
        enough = mass >= 1
        return jnp.where(enough, low, price), jnp.where(enough, price, high), best

    total = values.sum()
    start = (-total, total, jnp.asarray(-jnp.inf, p.dtype))
    return -jax.lax.fori_loop(0, _HALVINGS, halve, start)[2] / 2


def _subsets(num_agents: int) -> np.ndarray:
    """Members `(S, n)` of every set of agents but that of all of them."""
    if num_agents > MOST_LISTED:
        return np.zeros((0, num_agents))
    sets = itertools.product((0, 1), repeat=num_agents)
    return np.array([members for members in sets if not all(members)], float)
