"""What one agent changes where others' distribution is tilted by it."""

import jax
import jax.numpy as jnp
from jax import lax

from tokenauction_jax.mechanism import distributions


def divergence(q: jax.Array, log_r: jax.Array, x: jax.Array) -> jax.Array:
    """``KL(q || r_i)`` `(n,)` of what is left without each agent, from its tilt.

    q is ``r_i`` tilted by agent i, ``log(q / r_i) = x_i`` up to a constant, which drops
    out of ``mean(x) + log mean(exp(-x))``, means over q. With means of x next to 0 what
    is left is the sum of terms ``exp(-x) - 1 + x >= 0``, which keep their digits
    however small the agent.

    Args:
      q: `(V,)`.
      log_r: ``log q - x``, of ``r_i`` but for a factor, `(n, V)`; also where q is 0.
      x: `(n, V)`, any finite number where q is 0.
    """
    largest = distributions.max_last(log_r)
    # Where the agent keeps some of r from being drawn, exp(-x) may overflow.
    far = largest > 1
    shift = jnp.where(far, largest, 0)
    r = jnp.exp(log_r - shift[:, None])
    middle = mean(q, x)
    gap = distributions.sum_last(distributions.divergence_terms(q[None], r, x))
    excess = jnp.where(far, 0, gap - middle)
    near = gap + (jnp.log1p(excess) - excess)
    beyond = middle + shift + distributions.safe_log(distributions.sum_last(r))
    return jnp.where(far, beyond, near)


def mean(q: jax.Array, x: jax.Array) -> jax.Array:
    """Means `(n,)` of `x` `(n, V)` over q."""
    if jax.default_backend() == "cpu":
        return jnp.dot(x, q, precision=lax.Precision.HIGHEST)
    return distributions.sum_last(x * q[None])
