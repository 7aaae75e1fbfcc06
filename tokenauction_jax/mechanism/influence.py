"""From bids to influence, ``lambda_i = b_i^a / sum_j b_j^a``, whatever the ratios.

Powers of bids leave the range of a float long before the bids do: at an influence of
10, bids of 1 and 6,000 have a ratio of 1e38. Scores are therefore pairs of a mantissa
and an exponent. Only ratios of scores mean anything.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions

# Scores of less than exp(-60) of the largest get an exponent: products of a score and
# two probabilities stay in the range of a float32.
_SMALL = 60.0


class Scores(NamedTuple):
    """Scores ``mantissa * exp(exponent)`` of the agents.

    Attributes:
      mantissa: `(n,)`, not negative, and 0 for agents that do not bid.
      exponent: `(n,)`, whole numbers <= 0 without a derivative; 0 for agents that do
        not bid, and wherever a mantissa alone will do.
    """

    mantissa: jax.Array
    exponent: jax.Array


class Odds(NamedTuple):
    """Influence of each agent against that of all others, `(n,)` each.

    Attributes:
      share: ``lambda_i``.
      rest: ``1 - lambda_i``, not subtracted.
      log: ``log(lambda_i / (1 - lambda_i))``; finite, and without a derivative, for
        agents that do not bid or have no rival.
      contested: Whether another agent bids.
    """

    share: jax.Array
    rest: jax.Array
    log: jax.Array
    contested: jax.Array


def influence_scores(bids: jax.Array, influence: records.Number) -> Scores:
    """``(b_i / max_j b_j)^influence``; all 0 if the bids define no auction.

    At ``b_i = 0`` the derivative is the one-sided one, but for ``influence < 1``, where
    that is infinite and a finite one stands in.
    """
    largest = lax.stop_gradient(jnp.max(bids))
    valid = base.bids_define_auction(lax.stop_gradient(bids))
    largest = jnp.where(valid, largest, 1)
    positive = valid & (bids > 0)
    # A bid is its value times a variable near 1: powers of it have mild derivatives.
    value = lax.stop_gradient(jnp.where(positive, bids, largest))
    variable = jnp.where(valid, bids, 0) / value
    relative = value / largest
    tiny = relative < 2 * jnp.finfo(bids.dtype).tiny
    apart = jnp.log(value) - jnp.log(largest)
    log_scores = influence * jnp.where(tiny, apart, jnp.log(relative))
    small = tiny | (log_scores < -_SMALL)
    exponent = lax.stop_gradient(jnp.where(small, jnp.round(log_scores), 0))
    power = jnp.where(
        small,
        jnp.exp(log_scores - exponent),
        jnp.where(small, 1, relative) ** influence,
    )
    at_zero = jnp.where(influence > 1, 0, variable)
    slope = jnp.where(positive, jnp.where(positive, variable, 1) ** influence, at_zero)
    return Scores(power * slope, exponent)


def normalized(scores: Scores) -> Scores:
    """Scores divided by their sum."""
    return Scores(_shares(scores.mantissa, scores.exponent), scores.exponent)


def influence_weights(bids: ArrayLike, influence: records.Number) -> jax.Array:
    """``b_i^influence / sum_j b_j^influence`` `(n,)`; all 0 for undefined auctions."""
    return as_floats(normalized(influence_scores(base.check_bids(bids), influence)))


def as_floats(scores: Scores) -> jax.Array:
    """Scores `(n,)` as floats, which may underflow."""
    return scores.mantissa * jnp.exp(scores.exponent)


def rest_mean(scores: Scores, x: jax.Array) -> jax.Array:
    """For each agent the mean of the others' `x` `(n, ...)`, weighted by their scores.

    0 for an agent without others.
    """
    # Scores as floats, the second largest about 1: without the largest, nothing has
    # underflowed that matters. What one agent has more than exp(60) times as much of is
    # cut there, which moves the mean by less than 1e-26 of the largest `x`.
    gaps = scores.exponent - _exponents_of_others(scores).min()
    weights = scores.mantissa * jnp.exp(jnp.minimum(gaps, _SMALL))
    total = distributions.nonzero(distributions.sum_of_others(weights))
    weights, total = (y.reshape(-1, *[1] * (x.ndim - 1)) for y in (weights, total))
    return distributions.divide(distributions.sum_of_others(weights * x), total)


def influence_odds(scores: Scores) -> Odds:
    """The influence of each agent against that of all others."""
    exponents = _exponents_of_others(scores)
    mantissa = distributions.sum_of_others(as_floats(scores))
    # Of the one agent whose rivals all have an exponent.
    gaps = jnp.minimum(scores.exponent - exponents.min(), _SMALL)
    alone = distributions.sum_of_others(scores.mantissa * jnp.exp(gaps))
    mantissa = jnp.where(exponents < 0, alone, mantissa)
    gap = scores.exponent - exponents
    own = scores.mantissa * jnp.exp(jnp.minimum(gap, 0))
    rest = mantissa * jnp.exp(-jnp.maximum(gap, 0))
    total = distributions.nonzero(own + rest)
    both = (scores.mantissa > 0) & (mantissa > 0)
    log_ratio = distributions.log(jnp.where(both, scores.mantissa, 1))
    log_ratio -= distributions.log(jnp.where(both, mantissa, 1))
    unmatched = jnp.where(scores.mantissa > 0, _SMALL, -_SMALL)
    log_odds = jnp.where(both, log_ratio + gap, unmatched)
    return Odds(own / total, rest / total, log_odds, mantissa > 0)


def _exponents_of_others(scores: Scores) -> jax.Array:
    """The largest exponent among the other bidders `(n,)`, 0 if nobody else bids."""
    bidding, exponent = scores.mantissa > 0, scores.exponent
    top = bidding & (exponent == 0)
    rivals = bidding & ~top
    second = jnp.max(jnp.where(rivals, exponent, -jnp.inf))
    dominates = top & (top.sum() == 1) & rivals.any()
    return jnp.where(dominates, second, 0)


@jax.custom_jvp
def _shares(mantissa: jax.Array, exponent: jax.Array) -> jax.Array:
    """Mantissas `(n,)` of the shares."""
    total = (mantissa * jnp.exp(exponent)).sum()
    return mantissa / jnp.where(total > 0, total, 1)


@_shares.defjvp
def _shares_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Keeps its digits where one score dominates: ``1 - share`` is not subtracted."""
    (mantissa, exponent), (change, _) = primals, tangents
    scale = jnp.exp(exponent)
    values, changes = mantissa * scale, change * scale
    total = jnp.where(values.sum() > 0, values.sum(), 1)
    moved = change * distributions.sum_of_others(values)
    moved -= mantissa * distributions.sum_of_others(changes)
    return mantissa / total, moved / total**2
