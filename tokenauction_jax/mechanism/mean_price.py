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

# Terms of a series in lambda <= 1/2: the first one dropped is below 2^-54.
_SERIES_TERMS = 54
# Nodes of the double-exponential rule, which resolves both ends of the interval.
_NODES = np.linspace(-3.2, 3.2, 73)


def odds(scores: jax.Array, others: jax.Array) -> jax.Array:
    """``scores / others``, large but finite where there are no others."""
    largest = jnp.finfo(scores.dtype).max / 64
    ratio = scores / jnp.where(others > 0, others, 1)
    return jnp.minimum(jnp.where(others > 0, ratio, largest), largest)


def mean_share(odds: jax.Array, influence: ArrayLike) -> jax.Array:
    """Mean price of a won token as a share of the bid, ``g(x, 1/a)``, elementwise.

    Args:
      odds: ``x >= 0``, the bidder's score over the sum of the others', any shape.
      influence: The exponent ``a > 0``, a scalar.

    Returns:
      Shares in ``(0, a / (1 + a)]``: relative error below 1e-5 in float32 for odds
      from 0 to 1e30 and influences from 0.1 to 10.
    """
    influence = jnp.asarray(influence, odds.dtype)
    return _mean_share(odds, influence)


@jax.custom_jvp
def _mean_share(odds: jax.Array, influence: jax.Array) -> jax.Array:
    # The closed form is 100 times cheaper; both branches have the one derivative below.
    return lax.cond(
        influence == 1,
        _share_at_influence_one,
        lambda x: _share_by_quadrature(x, 1 / influence),
        odds,
    )


def _mean_share_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    x, influence = primals
    x_dot, influence_dot = tangents
    share = _mean_share(x, influence)
    tangent = jnp.zeros_like(share)
    if not isinstance(x_dot, SymbolicZero):
        # x g'(x) from the integral's differential equation in x.
        slope = (x * share + 1) / (1 + x) - (1 / influence + 1) * share
        tangent += slope * x_dot / jnp.where(x > 0, x, 1)
    if not isinstance(influence_dot, SymbolicZero):
        _, by_influence = jax.jvp(
            lambda a: _share_by_quadrature(x, 1 / a), (influence,), (influence_dot,)
        )
        tangent += by_influence
    return share, tangent


_mean_share.defjvp(_mean_share_jvp, symbolic_zeros=True)


def _share_at_influence_one(x: jax.Array) -> jax.Array:
    """``((1 + x) log1p(x) - x) / x^2``, by its series in lambda where that cancels."""
    weight = x / (1 + x)
    small = weight < 0.25
    series = jnp.zeros_like(x)
    for k in range(26, -1, -1):
        series = series * weight + 1 / (k + 2)
    safe = jnp.where(small, 1, x)
    closed = ((1 + 1 / safe) * jnp.log1p(safe) - 1) / safe
    return jnp.where(small, series / (1 + x), closed)


def _share_by_quadrature(x: jax.Array, c: jax.Array) -> jax.Array:
    """`g` for any ``c > 0``: a series below odds 1, quadrature above."""
    low = jnp.minimum(x, 1)
    weight = low / (1 + low)
    # (1 - lambda) / (1 + c) * 2F1(1, 2; 2 + c; lambda), all terms positive.
    k = jnp.arange(2, _SERIES_TERMS + 2, dtype=x.dtype)
    terms = jnp.cumprod(jnp.multiply.outer(weight, k / (k + c)), axis=-1)
    series = (1 + terms.sum(-1)) / (1 + low) / (1 + c)
    high = jnp.maximum(x, 1)
    return (1 + 1 / high) * (high**-c * series / 2 + _body(jnp.log(high), c))


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
