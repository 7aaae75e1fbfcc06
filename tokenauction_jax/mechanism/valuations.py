"""Valuations: how much an agent likes the distribution a token is drawn from."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions


@records.record
class TotalVariation:
    """See `total_variation`."""

    name: ClassVar[str] = "total_variation"
    neutral: ClassVar[bool] = True

    def value(self, log_q: ArrayLike, log_p: ArrayLike) -> jax.Array:
        """``-TV(q, p)``, in [-1, 0]; see `total_variation`."""
        return -distributions.total_variation_distance(*_check_pair(log_q, log_p))


@records.record
class ForwardKL:
    """See `forward_kl`."""

    name: ClassVar[str] = "forward_kl"
    neutral: ClassVar[bool] = True

    def value(self, log_q: ArrayLike, log_p: ArrayLike) -> jax.Array:
        """``-KL(p || q)`` in nats; see `forward_kl`."""
        log_q, log_p = _check_pair(log_q, log_p)
        return -distributions.kl_divergence(log_p, log_q)


@records.record
class ReverseKL:
    """See `reverse_kl`."""

    name: ClassVar[str] = "reverse_kl"
    neutral: ClassVar[bool] = True

    def value(self, log_q: ArrayLike, log_p: ArrayLike) -> jax.Array:
        """``-KL(q || p)`` in nats; see `reverse_kl`."""
        return -distributions.kl_divergence(*_check_pair(log_q, log_p))


def total_variation() -> TotalVariation:
    """Valuation ``v(q) = -TV(q, p) = -sum_t |q(t) - p(t)| / 2``.

    Under `linear` its truthful payment is the second price.
    """
    return TotalVariation()


def forward_kl() -> ForwardKL:
    """Valuation ``v(q) = -KL(p || q)``, ``-inf`` where `q` misses a token of `p`.

    `linear` maximises the bid-weighted sum of these; the Clarke payment of `linear`
    is truthful for it.
    """
    return ForwardKL()


def reverse_kl() -> ReverseKL:
    """Valuation ``v(q) = -KL(q || p)``, ``-inf`` where `q` has a token `p` has not.

    `log_linear` maximises the bid-weighted sum of these; the Clarke payment of
    `log_linear` is truthful for it.
    """
    return ReverseKL()


def _check_pair(log_q: ArrayLike, log_p: ArrayLike) -> tuple[jax.Array, jax.Array]:
    log_q, log_p = jnp.asarray(log_q), jnp.asarray(log_p)
    records.check_shape("log_q", log_q, (None,))
    records.check_shape("log_p", log_p, log_q.shape)
    base.check_logs("log_q", log_q)
    base.check_logs("log_p", log_p)
    return log_q, log_p
