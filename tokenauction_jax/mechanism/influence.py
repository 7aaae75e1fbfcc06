"""From bids to influence, ``lambda_i = b_i^a / sum_j b_j^a``, whatever the ratios.

Powers of bids leave the range of a float long before the bids do: at an influence of
10, bids of 1 and 6,000 have a ratio of 1e38. Scores are therefore pairs of a mantissa
and a power of two. Only ratios of scores mean anything.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions

# Scores of less than 2^-86 of the largest get an exponent: products of a score and two
# probabilities stay in the range of a float32.
_SMALL = 86
_LOG_2 = math.log(2)
# Bids are up to 1e60 apart, ratios of a float32 1e38.
_SCALE = 100
# How far from 1 mantissas may be, as a power of two.
_FAR = 64


class Scores(NamedTuple):
    """Scores ``mantissa * 2^exponent`` of the agents.

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
      ratio: ``share / rest`` is this times ``2^exponent``; 1, without a derivative, for
        agents that do not bid or have no rival.
      exponent: Whole numbers without a derivative.
      contested: Whether another agent bids.
    """

    share: jax.Array
    rest: jax.Array
    ratio: jax.Array
    exponent: jax.Array
    contested: jax.Array

    def log(self) -> jax.Array:
        """``log(share / rest)``."""
        return distributions.log(self.ratio) + _LOG_2 * self.exponent


def influence_scores(bids: jax.Array, influence: records.Number) -> Scores:
    """``(b_i / max_j b_j)^influence``; all 0 if the bids define no auction.

    At ``b_i = 0`` the derivative is the one-sided one, but for ``influence < 1``, where
    that is infinite and a finite one stands in.
    """
    return Scores(*_scores(bids, jnp.asarray(influence, bids.dtype)))


@jax.custom_jvp
def _scores(bids: jax.Array, influence: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, ratio, scaled, positive = _ratios(bids)
    # What depends on the influence alone XLA would take out of a loop over auctions,
    # for each rule by itself, and then not see that two rules compute the same.
    influence = jnp.where(positive, influence, 1)
    part, digits = jnp.frexp(ratio)
    digits = digits.astype(ratio.dtype) + scaled
    exponent = _whole_bits(part, digits, influence)
    exponent = jnp.where((exponent < -_SMALL) | (scaled < 0), exponent, 0)
    # The ratio itself is one factor: for an influence of 1 the other is 1.
    coarse, fine = _split(influence - 1)
    rest = fine * digits + (influence - 1) * (jnp.log(part) / _LOG_2)
    whole = jnp.round(coarse * digits), jnp.round(rest)
    bits = (coarse * digits - whole[0]) + (rest - whole[1])
    shift = whole[0] + whole[1] + scaled - exponent
    # In two steps: of a small ratio the shift alone may be out of range.
    half = jnp.floor(shift / 2)
    first, second = map(distributions.power_of_two, (half, shift - half))
    mantissa = ratio * first * jnp.exp(_LOG_2 * bits) * second
    return jnp.where(positive, mantissa, 0), jnp.where(positive, exponent, 0)


def _whole_bits(part: jax.Array, digits: jax.Array, influence: jax.Array) -> jax.Array:
    """``influence log2(part 2^digits)``, to the nearest 1 + influence / 20.

    Of operations without rounding: XLA may compile an exponent that is used twice into
    two copies, and where they round differently it is not that of the mantissa.
    """
    x = jnp.round(64 * (2 * part - 1)) / 64
    log2 = jnp.round(16 * x + 5.5 * x * (1 - x)) / 16 - 1
    coarse, fine = _split(influence)
    whole = jnp.round(coarse * (digits + log2)) + jnp.round(fine * (digits + log2))
    # 0 for influences up to 500; mantissas far from 1 would leave the range of floats.
    left = influence * (jnp.log(part) / _LOG_2 - log2)
    return whole + _FAR * jnp.round(left / _FAR)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two numbers of half the digits: products with short numbers are exact."""
    info = jnp.finfo(x.dtype)
    coarse = lax.reduce_precision(x, info.nexp, info.nmant // 2)
    return coarse, x - coarse


@_scores.defjvp
def _scores_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (bids, influence), (bids_dot, influence_dot) = primals, tangents
    log_ratio, _, _, positive = _ratios(bids)
    # A bid is its value times a variable near 1, and its score a constant times a power
    # of that: its second derivative for an influence of 1 is exactly 0.
    value = lax.stop_gradient(jnp.where(positive, bids, 1))
    variable = jnp.where(positive, bids / value, 1)
    constant, _ = _scores(lax.stop_gradient(bids), influence)
    tangent = influence * bids_dot / value
    tangent += variable * (log_ratio + jnp.log(variable)) * influence_dot
    tangent *= constant * variable ** (influence - 1)
    largest = lax.stop_gradient(jnp.max(bids))
    valid = base.bids_define_auction(bids)
    from_zero = valid & (bids == 0) & (influence <= 1)
    largest = jnp.where(valid, largest, 1)
    tangent = jnp.where(from_zero, bids_dot / largest, tangent)
    mantissa, exponent = _scores(bids, influence)
    return (mantissa, exponent), (tangent, jnp.zeros_like(exponent))


def _ratios(bids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """``b_i / max_j b_j`` `(n,)`: its log, itself as ``ratio 2^scaled``; who bids.

    Has no derivative: only ratios of scores matter, whatever they are relative to.
    """
    bids = lax.stop_gradient(bids)
    valid = base.bids_define_auction(bids)
    largest = jnp.where(valid, jnp.max(bids), 1)
    positive = valid & (bids > 0)
    value = jnp.where(positive, bids, largest)
    ratio = value / largest
    tiny = ratio < 2 * jnp.finfo(bids.dtype).tiny
    ratio = jnp.where(tiny, value * 2.0**_SCALE / largest, ratio)
    scaled = jnp.where(tiny, -float(_SCALE), 0)
    return jnp.log(ratio) + _LOG_2 * scaled, ratio, scaled, positive


def normalized(scores: Scores) -> Scores:
    """Scores divided by their sum."""
    return Scores(_shares(scores.mantissa, scores.exponent), scores.exponent)


def influence_weights(bids: ArrayLike, influence: records.Number) -> jax.Array:
    """``b_i^influence / sum_j b_j^influence`` `(n,)`; all 0 for undefined auctions."""
    return as_floats(normalized(influence_scores(base.check_bids(bids), influence)))


def as_floats(scores: Scores) -> jax.Array:
    """Scores `(n,)` as floats, which may underflow."""
    return scores.mantissa * distributions.power_of_two(scores.exponent)


def scale_logs(scores: Scores, log_probs: jax.Array) -> jax.Array:
    """``log(p_i 2^exponent_i)`` `(n, V)`: what is left to multiply by the mantissas."""
    return log_probs + (_LOG_2 * scores.exponent)[:, None]


def rest_mean(scores: Scores, x: jax.Array) -> jax.Array:
    """For each agent the mean of the others' `x` `(n, V)`, weighted by their scores.

    0 for an agent without others.
    """
    weights = _over_second_exponent(scores)
    total = distributions.nonzero(distributions.sum_of_others(weights))[:, None]
    # Divided before they meet the vocabulary: the derivative of a division takes many
    # passes. As one product, an auction of 3 agents and 64 tokens took 0.09 us of a
    # CPU, and its derivative 0.4, instead of 0.5 and 1.3 where running sums were.
    others = jnp.where(jnp.eye(weights.size, dtype=bool), 0, weights[None])
    shares = others * distributions.divide(jnp.ones_like(total), total)
    return distributions.weighted_sums(shares, x)


def mean_without(left_out: jax.Array, scores: Scores, x: jax.Array) -> jax.Array:
    """The mean `(V,)` of agents' `x` `(n, V)` by scores, but for those `left_out`.

    0 if nobody else bids.
    """
    weights = jnp.where(left_out, 0, _over_second_exponent(scores))
    total = distributions.nonzero(weights.sum())
    return distributions.weighted_sum(distributions.divide(weights, total), x)


def influence_odds(scores: Scores) -> Odds:
    """The influence of each agent against that of all others."""
    exponents = _exponents_of_others(scores)
    mantissa = distributions.sum_of_others(as_floats(scores))
    # Of the one agent whose rivals all have an exponent.
    alone = distributions.sum_of_others(_over_second_exponent(scores))
    mantissa = jnp.where(exponents < 0, alone, mantissa)
    gap = scores.exponent - exponents
    own = scores.mantissa * distributions.power_of_two(jnp.minimum(gap, 0))
    rest = mantissa * distributions.power_of_two(-jnp.maximum(gap, 0))
    total = distributions.nonzero(own + rest)
    both = (scores.mantissa > 0) & (mantissa > 0)
    over, under = (jnp.where(both, x, 1) for x in (scores.mantissa, mantissa))
    unmatched = jnp.where(scores.mantissa > 0, _SMALL, -_SMALL)
    return Odds(
        share=own / total,
        rest=rest / total,
        ratio=distributions.divide(over, under),
        exponent=jnp.where(both, gap, unmatched),
        contested=mantissa > 0,
    )


def relative_to_second(scores: Scores) -> jax.Array:
    """Scores `(n,)` as floats whose sums without any one agent are right.

    The second largest is between 1 and 2: without the largest, nothing has underflowed
    that matters. A score of more than 2^86 is cut there, which moves means by 1e-25 of
    their largest term at most.
    """
    found = _over_second_exponent(scores)
    top = found == jnp.max(found)
    second = jnp.max(jnp.where(top, 0, found))
    second = jnp.where((top.sum() > 1) | (second == 0), jnp.max(found), second)
    return found * distributions.inverse_power(distributions.nonzero(second))


def _over_second_exponent(scores: Scores) -> jax.Array:
    """Scores `(n,)` as floats, over two to the second largest exponent."""
    gaps = scores.exponent - _exponents_of_others(scores).min()
    return scores.mantissa * distributions.power_of_two(jnp.minimum(gaps, _SMALL))


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
    total = (mantissa * distributions.power_of_two(exponent)).sum()
    return mantissa / jnp.where(total > 0, total, 1)


@_shares.defjvp
def _shares_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Keeps its digits where one score dominates: ``1 - share`` is not subtracted."""
    (mantissa, exponent), (change, _) = primals, tangents
    scale = distributions.power_of_two(exponent)
    values, changes = mantissa * scale, change * scale
    total = jnp.where(values.sum() > 0, values.sum(), 1)
    moved = change * distributions.sum_of_others(values)
    moved -= mantissa * distributions.sum_of_others(changes)
    return mantissa / total, moved / total**2
