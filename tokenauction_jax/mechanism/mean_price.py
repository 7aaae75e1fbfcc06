"""The mean critical bid of a token that was won under linear aggregation.

A win pays ``b (v / (1 + x (1 - v)))^(1/a)`` with ``v`` uniform, at odds
``x = b_i^a / sum_{j != i} b_j^a`` and influence ``a``. In units of the bid the mean is
``g(x, c) = (1 + x) integral_0^1 w^c / (1 + x w)^2 dw`` with ``c = 1/a``.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.influence import Odds

# Terms of a series in lambda <= 1/2: the first one dropped is below 2^-54.
_SERIES_TERMS = 54
# Nodes of the double-exponential rule, which resolves both ends of the interval.
_NODES = np.linspace(-3.2, 3.2, 73)


def share_at(
    quantile: tuple[jax.Array, jax.Array], odds: Odds, influence: ArrayLike
) -> jax.Array:
    """Price of a won token as a share of the bid, ``(v / (1 + x (1 - v)))^(1/a)``.

    Args:
      quantile: `v` and ``1 - v`` `(n,)`, of full relative precision each.
      odds: Of the bidders.
      influence: The exponent ``a > 0``, a scalar.
    """
    v, complement = quantile
    # v / (x 2^-k (1 - v) + 2^-k), and 2^-k apart.
    scale = jnp.maximum(odds.exponent, 0)
    ratio = odds.ratio * distributions.power_of_two(jnp.minimum(odds.exponent, 0))
    divisor = distributions.nonzero(
        ratio * complement + distributions.power_of_two(-scale)
    )
    share = distributions.divide(v, divisor)
    log_share = distributions.log(distributions.nonzero(share))
    # The share itself is one factor: for an influence of 1 the other is 2^-k.
    power = (1 / influence - 1) * log_share - math.log(2) * scale / influence
    return share * jnp.exp(power)


def mean_share(odds: Odds, influence: ArrayLike) -> jax.Array:
    """Mean price of a won token as a share of the bid, ``g(x, 1/a)`` `(n,)`.

    Args:
      odds: Of the bidders.
      influence: The exponent ``a > 0``, a scalar.

    Returns:
      Shares in ``(0, a / (1 + a)]``: relative error below 1e-5 in float32 for odds
      from 0 to exp(700) and influences from 0.1 to 1e3, as long as the share itself is
      above 1e-38.
    """
    influence = jnp.asarray(influence, odds.ratio.dtype)
    return _mean_share(*odds[:4], influence)


@jax.custom_jvp
def _mean_share(
    weight: jax.Array,
    rest: jax.Array,
    ratio: jax.Array,
    exponent: jax.Array,
    influence: jax.Array,
) -> jax.Array:
    # The closed form is 100 times cheaper; both branches have the one derivative below.
    return lax.cond(
        influence == 1,
        _share_at_influence_one,
        lambda w, r, x, e: _share_by_quadrature(w, r, x, e, 1 / influence),
        *(weight, rest, ratio, exponent),
    )


def _mean_share_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, Any]:
    weight, rest, ratio, exponent, influence = primals
    # All of the odds follow from their ratio.
    _, _, ratio_dot, _, influence_dot = tangents
    share = _mean_share(*primals)
    tangent = jnp.zeros_like(share)
    if not isinstance(ratio_dot, SymbolicZero):
        # x g'(x) from the integral's differential equation in x.
        slope = (1 - share) * rest - share / influence
        tangent += slope * distributions.divide_tangent(ratio_dot, ratio)
    if not isinstance(influence_dot, SymbolicZero):
        _, by_influence = jax.jvp(
            lambda a: _share_by_quadrature(weight, rest, ratio, exponent, 1 / a),
            (influence,),
            (influence_dot,),
        )
        tangent += by_influence
    return share, tangent


_mean_share.defjvp(_mean_share_jvp, symbolic_zeros=True)


def _share_at_influence_one(
    weight: jax.Array, rest: jax.Array, ratio: jax.Array, exponent: jax.Array
) -> jax.Array:
    """``((1 + x) log1p(x) - x) / x^2``, by its series in lambda where that cancels."""
    small = weight < 0.25
    series = jnp.zeros_like(weight)
    for k in range(26, -1, -1):
        series = series * weight + 1 / (k + 2)
    scale = distributions.power_of_two(-jnp.maximum(exponent, 0))
    inverse = scale / jnp.where(small, 1, ratio)
    # log(1 + x) = log(x 2^-k + 2^-k) + k log 2.
    length = jnp.log(jnp.where(small, 1, ratio + scale))
    length += math.log(2) * jnp.maximum(exponent, 0)
    closed = ((1 + inverse) * length - 1) * inverse
    return jnp.where(small, series * rest, closed)


def _share_by_quadrature(
    weight: jax.Array,
    rest: jax.Array,
    ratio: jax.Array,
    exponent: jax.Array,
    c: jax.Array,
) -> jax.Array:
    """`g` for any ``c > 0``: a series below odds 1, quadrature above."""
    above = weight > rest
    weight, rest = jnp.where(above, 0.5, weight), jnp.where(above, 0.5, rest)
    # (1 - lambda) / (1 + c) * 2F1(1, 2; 2 + c; lambda), all terms positive.
    k = jnp.arange(2, _SERIES_TERMS + 2, dtype=weight.dtype)
    # Of a product of numbers near 0 the derivative is no number.
    weight = jnp.maximum(weight, 1e-26)
    terms = jnp.cumprod(jnp.multiply.outer(weight, k / (k + c)), axis=-1)
    series = (1 + terms.sum(-1)) * rest / (1 + c)
    length = jnp.log(ratio) + math.log(2) * exponent
    length = jnp.where(above, length, 0)
    share = jnp.exp(-c * length) * series / 2 + _body(length, c)
    return (1 + jnp.exp(-length)) * jnp.where(above, share, series / 2)


def _body(length: jax.Array, c: jax.Array) -> jax.Array:
    """``integral_0^L exp(-c (L - s)) sech(s/2)^2 / 4 ds``, double exponential rule."""
    step = _NODES[1] - _NODES[0]
    left = 1 / (1 + np.exp(-np.pi * np.sinh(_NODES)))
    right = 1 / (1 + np.exp(np.pi * np.sinh(_NODES)))
    widths = step * np.pi * np.cosh(_NODES) * left * right
    left, right, widths = (jnp.asarray(x, length.dtype) for x in (left, right, widths))
    decay = jnp.exp(-jnp.multiply.outer(length, left))
    values = jnp.exp(-c * jnp.multiply.outer(length, right)) * decay / (1 + decay) ** 2
    return length * jnp.dot(values, widths, precision=lax.Precision.HIGHEST)
