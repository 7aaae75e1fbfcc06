"""The mean critical bid of a token that was won under linear aggregation.

A win pays ``b (v / (1 + x (1 - v)))^(1/a)`` with ``v`` uniform, at odds
``x = b_i^a / sum_{j != i} b_j^a`` and influence ``a``. In units of the bid the mean is
``g(x, c) = (1 + x) integral_0^1 w^c / (1 + x w)^2 dw`` with ``c = 1/a``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from tokenauction_jax.mechanism.influence import Odds

# Odds beyond exp(60) are handled by their logarithms.
_FAR = 60.0
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
    far = odds.log > _FAR
    # v / (1 + x (1 - v)) with x = share / rest.
    share = v * odds.rest / (odds.rest + odds.share * complement)
    usable = ~far & (share > 0)
    near = jnp.where(usable, jnp.where(usable, share, 1) ** (1 / influence), 0)
    log_share = jnp.log(v) - odds.log - jnp.log(complement + jnp.exp(-odds.log))
    return jnp.where(far, jnp.exp(log_share / influence), near)


def mean_share(log_odds: jax.Array, influence: ArrayLike) -> jax.Array:
    """Mean price of a won token as a share of the bid, ``g(x, 1/a)``, elementwise.

    Args:
      log_odds: ``log x``, of the bidder's score over the sum of the others', any shape.
      influence: The exponent ``a > 0``, a scalar.

    Returns:
      Shares in ``(0, a / (1 + a)]``: relative error below 1e-5 in float32 for odds
      from 0 to exp(700) and influences from 0.1 to 100, as long as the share itself is
      above 1e-38.
    """
    influence = jnp.asarray(influence, log_odds.dtype)
    return _mean_share(log_odds, influence)


@jax.custom_jvp
def _mean_share(log_odds: jax.Array, influence: jax.Array) -> jax.Array:
    # The closed form is 100 times cheaper; both branches have the one derivative below.
    return lax.cond(
        influence == 1,
        _share_at_influence_one,
        lambda x: _share_by_quadrature(x, 1 / influence),
        log_odds,
    )


def _mean_share_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    log_odds, influence = primals
    log_odds_dot, influence_dot = tangents
    share = _mean_share(log_odds, influence)
    tangent = jnp.zeros_like(share)
    if not isinstance(log_odds_dot, SymbolicZero):
        # x g'(x) from the integral's differential equation in x.
        slope = (1 - share) * jax.nn.sigmoid(-log_odds) - share / influence
        tangent += slope * log_odds_dot
    if not isinstance(influence_dot, SymbolicZero):
        _, by_influence = jax.jvp(
            lambda a: _share_by_quadrature(log_odds, 1 / a),
            (influence,),
            (influence_dot,),
        )
        tangent += by_influence
    return share, tangent


_mean_share.defjvp(_mean_share_jvp, symbolic_zeros=True)


def _share_at_influence_one(log_odds: jax.Array) -> jax.Array:
    """``((1 + x) log1p(x) - x) / x^2``, by its series in lambda where that cancels."""
    weight = jax.nn.sigmoid(log_odds)
    small = weight < 0.25
    series = jnp.zeros_like(log_odds)
    for k in range(26, -1, -1):
        series = series * weight + 1 / (k + 2)
    inverse = jnp.exp(-jnp.where(small, 0, log_odds))
    # log1p(x), which may be too large for x itself.
    length = jnp.where(small, 0, log_odds) + jnp.log1p(inverse)
    closed = ((1 + inverse) * length - 1) * inverse
    return jnp.where(small, series * (1 - weight), closed)


def _share_by_quadrature(log_odds: jax.Array, c: jax.Array) -> jax.Array:
    """`g` for any ``c > 0``: a series below odds 1, quadrature above."""
    weight = jax.nn.sigmoid(jnp.clip(log_odds, -_FAR, 0))
    # (1 - lambda) / (1 + c) * 2F1(1, 2; 2 + c; lambda), all terms positive.
    k = jnp.arange(2, _SERIES_TERMS + 2, dtype=log_odds.dtype)
    terms = jnp.cumprod(jnp.multiply.outer(weight, k / (k + c)), axis=-1)
    series = (1 + terms.sum(-1)) * (1 - weight) / (1 + c)
    length = jnp.maximum(log_odds, 0)
    return (1 + jnp.exp(-length)) * (
        jnp.exp(-c * length) * series / 2 + _body(length, c)
    )


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
