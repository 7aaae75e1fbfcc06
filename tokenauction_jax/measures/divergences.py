"""How far an outcome is from what each agent wants, and from the best outcome.

All sums over the vocabulary are written out here, not taken rule by rule from
`valuations`, so that they share their terms: this is where a study's time goes. What
follows from the sums is computed one number at a time, as XLA does not vectorise the
short axes of arrays `(A, n)`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.base import Valuation
from tokenauction_jax.mechanism.optimum import (
    MOST_LISTED,
    dual_total_variation_optimum,
    shared_probs,
    total_variation_optimum,
)

# Flags in an int32.
_BITS = 31
# A number of each ordered pair of distributions.
_Pairs = dict[tuple[int, int], jax.Array]


def divergence_measures(
    values: jax.Array, log_probs: jax.Array, log_q: jax.Array
) -> dict[str, jax.Array]:
    """Values `(3, n)` of the outcome, and how far its welfare is from others'.

    Args:
      values: Of the agents, `(n,)`.
      log_probs: `(n, V)`.
      log_q: The outcome, `(V,)`.
    """
    n = values.shape[0]
    p, q = jnp.exp(log_probs), jnp.exp(log_q)
    variation, most, between = _variations(values, p, q)
    # Number n is the outcome.
    divergence = _kl_divergences([*log_probs, log_q], [*p, q])
    forward = [divergence[i, n] for i in range(n)]
    reverse = [divergence[n, i] for i in range(n)]
    w = list(values)
    worth = [
        [_times(value, -x) for value, x in zip(w, lost, strict=True)]
        for lost in (variation, forward, reverse)
    ]
    # The welfare of each agent's distribution as the outcome.
    swapped = {(i, k): divergence[k, i] for i, k in divergence}
    alone = [
        [-sum(_times(w[i], x[i, k]) for i in range(n) if i != k) for k in range(n)]
        for x in (between, divergence, swapped)
    ]
    shortfall = [
        jnp.maximum(most - sum(worth[0]), 0),
        _mixture_shortfall(values, p, log_q, forward),
        _geometric_shortfall(values, log_probs, jnp.stack(worth[2]).sum()),
    ]
    return {
        "values": -jnp.array([variation, forward, reverse]),
        "optimum_shortfall": jnp.stack(shortfall),
        "single_agents": jnp.array(alone, p.dtype),
        "minimum_welfare": jnp.stack([functools.reduce(jnp.minimum, x) for x in worth]),
        **_finite_parts([functools.reduce(jnp.add, x) for x in worth]),
        "nash_welfare": distributions.safe_log(1 - jnp.stack(variation)).sum(),
    }


def valuation_measures(
    valuation: Valuation, values: jax.Array, log_probs: jax.Array, log_q: jax.Array
) -> dict[str, jax.Array]:
    """What `divergence_measures` says of a valuation, without its best outcome."""
    value = jax.vmap(valuation.value, (None, 0))
    found = value(log_q, log_probs)
    worth = _times(values, found)
    of_agents = jax.vmap(value, (0, None))(log_probs, log_probs)
    alone = jnp.where(values[None] > 0, values[None] * of_agents, 0).sum(1)
    finite = _finite_parts([worth.sum()])
    return {
        "values": found,
        "single_agents": alone,
        "minimum_welfare": worth.min(),
        **{name: x[0] for name, x in finite.items()},
    }


def _finite_parts(welfare: list[jax.Array]) -> dict[str, jax.Array]:
    """The token's welfare where it is finite, and whether it is not."""
    infinite = [jnp.isinf(x) for x in welfare]
    finite = [jnp.where(i, 0, x) for i, x in zip(infinite, welfare, strict=True)]
    return {
        "finite_welfare": jnp.stack(finite),
        "infinite_tokens": jnp.stack(infinite).astype(welfare[0].dtype),
    }


def _times(value: jax.Array, x: jax.Array) -> jax.Array:
    """``value * x``, 0 if the value is 0."""
    return jnp.where(value > 0, value * x, 0)


def _variations(
    values: jax.Array, p: jax.Array, q: jax.Array
) -> tuple[list[jax.Array], jax.Array, _Pairs]:
    """Total variation from the outcome, the optimum, and between pairs of agents."""
    n = p.shape[0]
    from_outcome = [jnp.abs(row - q) for row in p]
    if n > MOST_LISTED:
        pairs = list(itertools.combinations(range(n), 2))
        found = distributions.sums(
            from_outcome + [jnp.abs(p[i] - p[k]) for i, k in pairs]
        )
        between = {pair: x / 2 for pair, x in zip(pairs, found[n:], strict=True)}
        best = dual_total_variation_optimum(values, p)
    else:
        lowest = shared_probs(p)
        found = distributions.sums([*from_outcome, *lowest.values()])
        shared = dict(zip(lowest, found[n:], strict=True))
        between = {pair: 1 - x for pair, x in shared.items() if len(pair) == 2}
        best = total_variation_optimum(values, shared)
    between |= {(k, i): x for (i, k), x in between.items()}
    return [x / 2 for x in found[:n]], best, between


def _kl_divergences(log_probs: list[jax.Array], p: list[jax.Array]) -> _Pairs:
    """``KL(p_i || p_k)`` of every pair, infinite where k lacks a token of i."""
    logs = [_finite(x) for x in log_probs]
    pairs = list(itertools.permutations(range(len(p)), 2))
    found = distributions.sums([p[i] * (logs[i] - logs[k]) for i, k in pairs])
    lacking = _lacking(log_probs)
    return {
        (i, k): jnp.where(lacking[i, k], jnp.inf, jnp.maximum(x, 0))
        for (i, k), x in zip(pairs, found, strict=True)
    }


def _lacking(log_probs: list[jax.Array]) -> _Pairs:
    """Whether k gives probability 0 to a token that i can draw, of every pair (i, k).

    Of the logs, as probabilities may underflow. A bit for each k makes one sum of all.
    """
    agents = range(len(log_probs))
    found: _Pairs = {}
    for first in range(0, len(log_probs), _BITS):
        some = agents[first : first + _BITS]
        lacks = sum(
            jnp.where(log_probs[k] == -jnp.inf, jnp.int32(1 << (k - first)), 0)
            for k in some
        )
        words = distributions.unions(
            [jnp.where(x > -jnp.inf, lacks, 0) for x in log_probs]
        )
        found |= {(i, k): words[i] >> (k - first) & 1 for i in agents for k in some}
    return found


def _finite(log_probs: jax.Array) -> jax.Array:
    return jnp.where(log_probs > -jnp.inf, log_probs, 0)


def _mixture_shortfall(
    values: jax.Array, p: jax.Array, log_q: jax.Array, forward: list[jax.Array]
) -> jax.Array:
    """``sum_i w_i KL(p_i || q)`` beyond its least, which the agents' mixture has.

    As ``sum_i w_i KL(mixture || q)``, which does not cancel where q is nearly best.
    """
    total = distributions.nonzero(values.sum())
    mixture = distributions.weighted_sum(values / total, p)
    log_mixture = _finite(distributions.safe_log(mixture))
    divergence = distributions.sum_last(mixture * (log_mixture - _finite(log_q)))
    infinite = [_times(w, x) == jnp.inf for w, x in zip(values, forward, strict=True)]
    infinite = functools.reduce(jnp.logical_or, infinite)
    return jnp.where(infinite, jnp.inf, total * jnp.maximum(divergence, 0))


def _geometric_shortfall(
    values: jax.Array, log_probs: jax.Array, welfare: jax.Array
) -> jax.Array:
    """``sum_i w_i KL(q || p_i)`` beyond its least, which the geometric mean has.

    The least is ``-sum_i w_i log Z``, Z the sum of the geometric mean not normalised.
    """
    total = distributions.nonzero(values.sum())
    weights = (values / total)[:, None]
    terms = jnp.where(weights > 0, weights * log_probs, 0)
    most = total * distributions.log_sum_exp(functools.reduce(jnp.add, list(terms)))
    shortfall = jnp.maximum(most - welfare, 0)
    return jnp.where(most > -jnp.inf, shortfall, -jnp.inf)
