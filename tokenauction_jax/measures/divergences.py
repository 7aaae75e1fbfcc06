"""How far an outcome is from what each agent wants, and from the best outcome.

All sums over the vocabulary are written out here, not taken rule by rule from
`valuations`, so that they share their terms: this is where a study's time goes. What
follows from the sums is computed one number at a time, as XLA does not vectorise the
short axes of arrays `(A, n)`.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax.measures import reductions
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
# What two numbers that are one may differ by, in units of their last digits.
_ROUNDING = 8
# A number of each ordered pair of distributions.
_Pairs = dict[tuple[int, int], jax.Array]


def divergence_measures(
    values: jax.Array, log_probs: jax.Array, log_q: jax.Array
) -> dict[str, jax.Array]:
    """Values `(3, n)` of the outcome, and how far its welfare is from others'.

    What rounding cannot tell from 0 is 0: a mean of what is left would be positive.

    Args:
      values: Of the agents, `(n,)`.
      log_probs: `(n, V)`.
      log_q: The outcome, `(V,)`.
    """
    n = values.shape[0]
    p, q = jnp.exp(log_probs), jnp.exp(log_q)
    rounding = _rounding(log_q)
    variation, most, between = _variations(values, p, q, rounding)
    # Number n is the outcome.
    divergence = _kl_divergences([*log_probs, log_q], [*p, q], rounding)
    forward = [divergence[i, n] for i in range(n)]
    reverse = [divergence[n, i] for i in range(n)]
    w = list(values)
    worth = [
        [_times(value, -x) for value, x in zip(w, lost, strict=True)]
        for lost in (variation, forward, reverse)
    ]
    welfare = [functools.reduce(jnp.add, x) for x in worth]
    # The welfare of each agent's distribution as the outcome.
    swapped = {(i, k): divergence[k, i] for i, k in divergence}
    alone = [
        [-sum(_times(w[i], x[i, k]) for i in range(n) if i != k) for k in range(n)]
        for x in (between, divergence, swapped)
    ]
    unsure = values.sum() * rounding
    shortfall = [
        _beyond(unsure, most - welfare[0]),
        _mixture_shortfall(values, p, q, log_q, forward),
        _geometric_shortfall(values, log_probs, q, log_q, welfare[2]),
    ]
    return {
        "values": -jnp.array([variation, forward, reverse]),
        "optimum_shortfall": jnp.stack(shortfall),
        "single_agents": jnp.array(
            [
                [_gap(x, total, unsure) for x in row]
                for row, total in zip(alone, welfare, strict=True)
            ],
            p.dtype,
        ),
        "minimum_welfare": jnp.stack([functools.reduce(jnp.minimum, x) for x in worth]),
        **_finite_parts(welfare),
        "nash_welfare": distributions.safe_log(1 - jnp.stack(variation)).sum(),
    }


def valuation_measures(
    valuation: Valuation, values: jax.Array, log_probs: jax.Array, log_q: jax.Array
) -> dict[str, jax.Array]:
    """What `divergence_measures` says of a valuation, without its best outcome."""
    value = jax.vmap(valuation.value, (None, 0))
    found = value(log_q, log_probs)
    worth = _times(values, found)
    welfare = worth.sum()
    of_agents = jax.vmap(value, (0, None))(log_probs, log_probs)
    alone = jnp.where(values[None] > 0, values[None] * of_agents, 0).sum(1)
    finite = _finite_parts([welfare])
    return {
        "values": found,
        "single_agents": _gap(alone, welfare, values.sum() * _rounding(log_q)),
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


def _rounding(log_q: jax.Array) -> float:
    """What of a divergence of `log_q` `(V,)` may be rounding.

    Logarithms err in proportion to their size, whose mean is ``log V`` at most.
    """
    return float(jnp.finfo(log_q.dtype).eps) * (1 + math.log(log_q.shape[-1]))


def _beyond(rounding: ArrayLike, x: jax.Array) -> jax.Array:
    """`x`, or 0 where rounding would explain it."""
    return jnp.where(jnp.abs(x) <= rounding, 0, x)


def _gap(other: ArrayLike, welfare: jax.Array, rounding: jax.Array) -> jax.Array:
    """How far another welfare is above the outcome's, NaN where both are infinite."""
    size = jnp.where(jnp.isinf(welfare), 0, -welfare)
    rounding += _ROUNDING * jnp.finfo(welfare.dtype).eps * size
    return _beyond(rounding, jnp.asarray(other) - welfare)


def _times(value: jax.Array, x: jax.Array) -> jax.Array:
    """``value * x``, 0 if the value is 0."""
    return jnp.where(value > 0, value * x, 0)


def _variations(
    values: jax.Array, p: jax.Array, q: jax.Array, rounding: float
) -> tuple[list[jax.Array], jax.Array, _Pairs]:
    """Total variation from the outcome, the optimum, and between pairs of agents."""
    n = p.shape[0]
    from_outcome = [jnp.abs(row - q) for row in p]
    if n > MOST_LISTED:
        pairs = list(itertools.combinations(range(n), 2))
        found = reductions.sums(from_outcome + [jnp.abs(p[i] - p[k]) for i, k in pairs])
        between = {pair: x / 2 for pair, x in zip(pairs, found[n:], strict=True)}
        best = dual_total_variation_optimum(values, p)
    else:
        lowest = shared_probs(p)
        found = reductions.sums([*from_outcome, *lowest.values()])
        shared = dict(zip(lowest, found[n:], strict=True))
        between = {pair: 1 - x for pair, x in shared.items() if len(pair) == 2}
        best = total_variation_optimum(values, shared)
    between = {pair: _beyond(rounding, x) for pair, x in between.items()}
    between |= {(k, i): x for (i, k), x in between.items()}
    return [_beyond(rounding, x / 2) for x in found[:n]], best, between


def _kl_divergences(
    log_probs: list[jax.Array], p: list[jax.Array], rounding: float
) -> _Pairs:
    """``KL(p_i || p_k)`` of every pair, infinite where k lacks a token of i."""
    logs = [_finite(x) for x in log_probs]
    pairs = list(itertools.permutations(range(len(p)), 2))
    found = reductions.sums([p[i] * (logs[i] - logs[k]) for i, k in pairs])
    lacking = _lacking(log_probs)
    return {
        (i, k): jnp.where(lacking[i, k], jnp.inf, _beyond(rounding, x))
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
        words = reductions.unions(
            [jnp.where(x > -jnp.inf, lacks, 0) for x in log_probs]
        )
        found |= {(i, k): words[i] >> (k - first) & 1 for i in agents for k in some}
    return found


def _finite(log_probs: jax.Array) -> jax.Array:
    return jnp.where(log_probs > -jnp.inf, log_probs, 0)


def _mixture_shortfall(
    values: jax.Array,
    p: jax.Array,
    q: jax.Array,
    log_q: jax.Array,
    forward: list[jax.Array],
) -> jax.Array:
    """``sum_i w_i KL(p_i || q)`` beyond its least, which the agents' mixture has.

    As ``sum_i w_i KL(mixture || q)``.
    """
    total = values.sum()
    mixture = distributions.weighted_sum(values / distributions.nonzero(total), p)
    log_mixture = _finite(distributions.safe_log(mixture))
    log_q = _finite(log_q)
    divergence = _divergence(mixture, q, log_mixture - log_q, log_q)
    infinite = [_times(w, x) == jnp.inf for w, x in zip(values, forward, strict=True)]
    infinite = functools.reduce(jnp.logical_or, infinite)
    return jnp.where(infinite, jnp.inf, _times(total, divergence))


def _geometric_shortfall(
    values: jax.Array,
    log_probs: jax.Array,
    q: jax.Array,
    log_q: jax.Array,
    welfare: jax.Array,
) -> jax.Array:
    """``sum_i w_i KL(q || p_i)`` beyond its least, which the geometric mean has.

    As ``sum_i w_i KL(q || mean)``; ``-inf`` where no outcome has finite welfare.
    """
    total = values.sum()
    weights = (values / distributions.nonzero(total))[:, None]
    terms = jnp.where(weights > 0, weights * log_probs, 0)
    terms = functools.reduce(jnp.add, list(terms))
    pivot = _finite(distributions.max_last(terms))
    mean = jnp.exp(terms - pivot)
    total_mean = distributions.sum_last(mean)
    log_mean = _finite(terms) - (pivot + distributions.safe_log(total_mean))
    log_ratio = _finite(log_q) - log_mean
    divergence = _divergence(q, mean / total_mean, log_ratio, _finite(terms))
    shortfall = jnp.where(welfare > -jnp.inf, _times(total, divergence), jnp.inf)
    return jnp.where((terms > -jnp.inf).any(), shortfall, -jnp.inf)


def _divergence(
    p: jax.Array, q: jax.Array, log_ratio: jax.Array, logs: jax.Array
) -> jax.Array:
    """``KL(p || q)``, exactly 0 if all of `log_ratio` may be rounding of `logs`."""
    rounding = _ROUNDING * jnp.finfo(p.dtype).eps * (1 - logs)
    log_ratio = _beyond(rounding, log_ratio)
    return distributions.sum_last(distributions.divergence_terms(p, q, log_ratio))
