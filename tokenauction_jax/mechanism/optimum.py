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
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.aggregation import linear, log_linear
from tokenauction_jax.mechanism.valuations import ForwardKL, ReverseKL, TotalVariation

# Agents by their indices, in order.
Group = tuple[int, ...]
# Up to here groups of agents are listed: 2^n of them, and 4^n comparisons.
MOST_LISTED = 4
# Narrows the price of probability to the last bit of a float32.
_HALVINGS = 26
# Either side of the price, in units of the last digit of the values' sum.
_KINK = 1024


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
    # Of finite values also one of amount 0 keeps its derivative.
    counted = (values > 0) | jnp.isfinite(value)
    return (values * jnp.where(counted, value, 0)).sum()


def optimal_welfare(
    valuation: base.Valuation, values: ArrayLike, log_probs: ArrayLike
) -> jax.Array:
    """The largest welfare of any distribution over the vocabulary.

    Args:
      valuation: `total_variation`, `forward_kl` or `reverse_kl`.
      values: ``w`` `(n,)`, money per unit of valuation.
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
        shared = {g: distributions.sum_last(x) for g, x in shared_probs(p).items()}
        return total_variation_optimum(values, shared)
    if isinstance(valuation, ForwardKL):
        log_q = linear().log_prob(values, log_probs)
        return welfare(valuation, values, log_q, log_probs)
    if isinstance(valuation, ReverseKL):
        aggregate = jax.vmap(log_linear().log_prob, (None, 0))
        log_q = aggregate(values, log_probs[None])[0]
        best = welfare(valuation, values, log_q, log_probs)
        possible = jnp.isfinite(log_q).any() | (values == 0).all()
        return jnp.where(possible, best, -jnp.inf)
    raise ValueError(
        "the welfare optimum is known for total_variation, forward_kl and reverse_kl, "
        f"not for {getattr(valuation, 'name', valuation)!r}"
    )


def shared_probs(p: jax.Array) -> dict[Group, jax.Array]:
    """``min_{i in U} p_i`` `(V,)` of every group U of two agents and more.

    Their sums, the shared masses, say all about total variation between the agents
    that matters here: ``TV(p_i, p_k)`` is one minus the mass that i and k share.
    """
    lowest: dict[Group, jax.Array] = {}
    for group in _groups(p.shape[0])[1:]:
        rest, last = group[:-1], p[group[-1]]
        lowest[group] = jnp.minimum(lowest[rest], last) if rest else last
    return {group: low for group, low in lowest.items() if len(group) > 1}


def total_variation_optimum(
    values: jax.Array, shared: dict[Group, jax.Array]
) -> jax.Array:
    """``max_q -sum_i w_i TV(q, p_i)``, exact up to rounding.

    As a token's probability rises from 0, the agents whose own it has passed lose by
    every further step what the step adds. The cheapest steps of all tokens together
    are taken until the probabilities sum to one.

    Args:
      values: `(n,)`.
      shared: Sums of `shared_probs`.
    """
    agents = range(values.shape[0])
    # An agent shares all of its mass with itself.
    one = jnp.ones((), values.dtype)
    shared = {(i,): one for i in agents} | shared
    masses, costs = [], []
    for passed in _groups(values.shape[0]):
        rest = [i for i in agents if i not in passed]
        if not rest:  # Steps past everyone are never needed.
            continue
        # Where the probabilities of exactly these agents are passed, by inclusion and
        # exclusion.
        mass = sum(
            (-1) ** len(group) * shared[tuple(sorted((*rest, *group)))]
            for group in _groups(len(passed), passed)
        )
        masses.append(jnp.maximum(mass, 0))
        costs.append(sum((values[i] for i in passed), jnp.zeros((), values.dtype)))
    # Scalars one by one: XLA does not vectorise short axes.
    total = jnp.zeros((), values.dtype)
    for i, (mass, cost) in enumerate(zip(masses, costs, strict=True)):
        before = jnp.zeros((), values.dtype)
        for k, (other, other_cost) in enumerate(zip(masses, costs, strict=True)):
            first = other_cost <= cost if k < i else other_cost < cost
            before += jnp.where(first, other, 0)
        total += cost * jnp.clip(1 - before, 0, mass)
    return -total


@jax.custom_jvp
def dual_total_variation_optimum(values: jax.Array, p: jax.Array) -> jax.Array:
    """The same for many agents, by a search for the price ``mu`` of probability.

    ``min_q sum_i w_i |q - p_i|_1`` is the largest over ``mu`` of the concave function
    ``mu + sum_t min_k (sum_i w_i |p_k(t) - p_i(t)| - mu p_k(t))``.
    """
    _, price = _bracket(values, p)
    return -_priced(values, p, price, price)[0] / 2


@dual_total_variation_optimum.defjvp
def _dual_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """At its largest the function has a kink, which has two derivatives.

    The minimisers just below have a mass of less than 1, those just above of more; the
    optimum, with its derivatives, is the mixture of the two of mass 1.
    """
    low, high = _bracket(*primals)
    # Far enough apart to tell the minimisers in spite of rounding.
    margin = _KINK * jnp.finfo(low.dtype).eps * primals[0].sum()

    def mixture(values: jax.Array, p: jax.Array) -> jax.Array:
        below, less = _priced(values, p, low, low - margin)
        above, more = _priced(values, p, high, high + margin)
        gap = jnp.where(more > less, more - less, 1)
        part = jax.lax.stop_gradient(jnp.clip((1 - less) / gap, 0, 1))
        return -((1 - part) * below + part * above) / 2

    tangent = jax.jvp(mixture, primals, tangents)[1]
    return dual_total_variation_optimum(*primals), tangent


def _bracket(values: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Prices just below and just above the one where the minimisers have mass 1."""
    values, p = jax.lax.stop_gradient((values, p))

    def halve(_: int, bounds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high = bounds
        price = (low + high) / 2
        enough = _priced(values, p, price, price)[1] >= 1
        return jnp.where(enough, low, price), jnp.where(enough, price, high)

    total = values.sum()
    return jax.lax.fori_loop(0, _HALVINGS, halve, (-total, total))


def _priced(
    values: jax.Array, p: jax.Array, price: jax.Array, seen: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The function at `price`, of the minimisers at the price `seen`; their mass."""
    # Row by row: reductions over the agents made this 8 times slower (V = 50,257).
    rows, weights = list(p), list(values)
    costs = [
        sum(w * jnp.abs(row - other) for w, other in zip(weights, rows, strict=True))
        for row in rows
    ]
    cost, cheapest = costs[0], rows[0]
    for other_cost, row in zip(costs[1:], rows[1:], strict=True):
        # Not a minimum, which would give the derivative of a tie to both.
        cheaper = other_cost - seen * row < cost - seen * cheapest
        cost = jnp.where(cheaper, other_cost, cost)
        cheapest = jnp.where(cheaper, row, cheapest)
    reduced = price + distributions.sum_last(cost - price * cheapest)
    return reduced, distributions.sum_last(cheapest)


def _groups(size: int, agents: Group | None = None) -> list[Group]:
    """Every group of some agents, by default ``range(size)``, small ones first."""
    members = range(size) if agents is None else agents
    return [g for k in range(size + 1) for g in itertools.combinations(members, k)]
