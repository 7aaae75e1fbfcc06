"""Aggregation rules: how bids and distributions become one distribution.

Source: Duetting et al., "Mechanism Design for Large Language Models"
(arXiv 2310.10826), section 4, for `linear` and `log_linear`.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, sampling
from tokenauction_jax.mechanism.influence import (
    Scores,
    as_floats,
    influence_scores,
    influence_weights,
    normalized,
    scale_logs,
)


@records.record
class Linear:
    """See `linear`."""

    influence: records.Number
    name: ClassVar[str] = "linear"
    monotone: ClassVar[bool] = True
    neutral: ClassVar[bool] = True

    def weights(self, bids: ArrayLike) -> jax.Array:
        """Influence ``b_i^a / sum_j b_j^a`` of each agent, `(n,)`."""
        return influence_weights(bids, self.influence)

    def log_prob(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``log q`` `(V,)` for bids `(n,)` and `log_probs` `(n, V)`; see `linear`."""
        bids, log_probs = base.check_auction(bids, log_probs)
        shares = normalized(influence_scores(bids, self.influence))
        scaled = scale_logs(shares, log_probs)
        return distributions.log_mixture(shares.mantissa, scaled)

    def sample(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """A token, and its log-probability; no logarithm of any other."""
        bids, log_probs = base.check_auction(bids, log_probs)
        return self._sample(key, bids, log_probs, jnp.zeros_like(log_probs[:, 0]))

    def sample_from_logits(
        self, key: jax.Array, bids: jax.Array, logits: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The same of logits `(n, V)`, by one exponential for each of them."""
        totals = sampling.log_totals(logits)
        return self._sample(key, base.check_bids(bids), logits, totals)

    def _sample(
        self,
        key: jax.Array,
        bids: jax.Array,
        logits: jax.Array,
        log_totals: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Of `logits` `(n, V)`, the log-probabilities plus `log_totals` `(n,)`."""
        shares = normalized(influence_scores(bids, self.influence))
        # Of shares that underflow no token is likely enough to be drawn. A mixture's
        # columns are the mixture of the agents': no mixture of all tokens is needed.
        weights = lax.stop_gradient(as_floats(shares) / jnp.exp(log_totals))
        given = lax.stop_gradient(logits)

        def mixed(masses: jax.Array) -> jax.Array:
            return distributions.weighted_sum(weights, masses)

        def masses_of(number: jax.Array) -> jax.Array:
            return mixed(jnp.exp(sampling.column(given, number, -jnp.inf)))

        sums = mixed(sampling.column_sums(jnp.exp(given)))
        token = sampling.race(key, logits.shape[1], sums, masses_of)
        log_probs = logits - log_totals[:, None]
        drawn = scale_logs(shares, log_probs[:, token][:, None])
        return token, distributions.log_mixture(shares.mantissa, drawn)[0]


@records.record
class LogLinear:
    """See `log_linear`."""

    influence: records.Number
    name: ClassVar[str] = "log_linear"
    monotone: ClassVar[bool] = False
    neutral: ClassVar[bool] = True

    def weights(self, bids: ArrayLike) -> jax.Array:
        """Influence ``b_i^a / sum_j b_j^a`` of each agent, `(n,)`."""
        return influence_weights(bids, self.influence)

    def log_prob(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``log q`` `(V,)` of bids `(n,)`, `log_probs` `(n, V)`; see `log_linear`."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.influence)
        return _normalize(log_weights(bids, scores, log_probs), bids)

    def sample(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """A token, and its log-probability; one exponential for each token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        return self.sample_from_logits(key, bids, log_probs)

    def sample_from_logits(
        self, key: jax.Array, bids: jax.Array, logits: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The same of logits `(n, V)`: a factor of an agent's odds drops out."""
        bids = base.check_bids(bids)
        scores = influence_scores(bids, self.influence)
        log_masses, _ = distributions.below_zero(log_weights(bids, scores, logits))
        masses = jnp.exp(log_masses)
        token = sampling.sample_from_masses(key, lax.stop_gradient(masses))
        total = distributions.sum_last(masses)
        base.check_defined(total > 0, bids)
        return token, log_masses[token] - jnp.log(distributions.nonzero(total))


@records.record
class PowerMean:
    """See `power_mean`."""

    order: records.Number
    influence: records.Number
    name: ClassVar[str] = "power_mean"
    # A constant of the class: of this family only order 1 is monotone, as `linear`.
    monotone: ClassVar[bool] = False
    neutral: ClassVar[bool] = True

    def weights(self, bids: ArrayLike) -> jax.Array:
        """Influence ``b_i^a / sum_j b_j^a`` of each agent, `(n,)`."""
        return influence_weights(bids, self.influence)

    def log_prob(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``log q`` `(V,)` of bids `(n,)`, `log_probs` `(n, V)`; see `power_mean`."""
        bids, log_probs = base.check_auction(bids, log_probs)
        shares = normalized(influence_scores(bids, self.influence))
        scales = scale_logs(shares, jnp.zeros_like(log_probs[:, :1]))
        mean = distributions.log_power_mean(
            self.order, as_floats(shares), (shares.mantissa, scales), log_probs
        )
        # Comparisons with NaN would take it for a token that cannot be produced.
        total = functools.reduce(jnp.add, list(log_probs))
        mean = jnp.where(jnp.isnan(total), total, mean)
        return _normalize(mean, bids)


def linear(influence: ArrayLike = 1.0) -> Linear:
    """Linear aggregation, ``q = sum_i lambda_i p_i``.

    It minimises ``sum_i lambda_i KL(p_i || q)`` and is monotone: raising a bid moves
    every token's probability towards the bidder's own (section 4 of the paper).

    Args:
      influence: Exponent ``a > 0`` in ``lambda_i = b_i^a / sum_j b_j^a``; 1 makes
        influence proportional to bids, large values approach winner-takes-all.

    Raises:
      ValueError: If `influence` is not a positive, finite scalar.

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]]))
    >>> q = jnp.exp(linear().log_prob(jnp.array([1.0, 2.0, 2.0]), p))
    >>> print(q.round(2))
    [0.56 0.44]
    """
    return Linear(_check_influence(influence))


def log_linear(influence: ArrayLike = 1.0) -> LogLinear:
    """Log-linear aggregation, ``q ∝ prod_i p_i^lambda_i``.

    It minimises ``sum_i lambda_i KL(q || p_i)``. A token that one bidder cannot
    produce cannot be drawn; if that leaves none the auction is undefined: on concrete
    values `log_prob` raises `ValueError`, under a transformation it is all ``-inf``.
    It is not monotone (section 4 of the paper).

    Args:
      influence: Exponent ``a > 0`` in ``lambda_i = b_i^a / sum_j b_j^a``.

    Raises:
      ValueError: If `influence` is not a positive, finite scalar.
    """
    return LogLinear(_check_influence(influence))


def power_mean(order: ArrayLike, influence: ArrayLike = 1.0) -> PowerMean:
    """Power-mean aggregation, ``q ∝ (sum_i lambda_i p_i^order)^(1/order)``.

    Order 1 is `linear` and the limit order 0 is `log_linear`; each order is optimal
    for an alpha-divergence. For orders <= 0 a bidder vetoes the tokens it cannot
    produce, and an auction with none left is undefined, as in `log_linear`.

    Args:
      order: Any finite real.
      influence: Exponent ``a > 0`` in ``lambda_i = b_i^a / sum_j b_j^a``.

    Raises:
      ValueError: If `order` is not a finite scalar or `influence` not a positive one.
    """
    number = records.as_number("order", order)
    if records.is_concrete(number) and not abs(float(number)) < float("inf"):
        raise ValueError(f"order must be finite, got {number}")
    return PowerMean(number, _check_influence(influence))


def draw(
    key: jax.Array, aggregation: base.Aggregation, bids: jax.Array, log_probs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A token of any rule's aggregate, and its log-probability: two scalars.

    The log-probability is infinite or NaN in undefined auctions, and NaN where that of
    any token is.
    """
    if isinstance(aggregation, base.SupportsSample):
        return aggregation.sample(key, bids, log_probs)
    log_q = aggregation.log_prob(bids, log_probs)
    token = sampling.sample_token(key, log_q)
    largest = distributions.max_last(log_q)
    return token, jnp.where(jnp.isfinite(largest), log_q[token], largest)


def log_weights(bids: jax.Array, scores: Scores, log_probs: jax.Array) -> jax.Array:
    """Log of the weighted geometric mean `(V,)`, ``-inf`` where it is vetoed."""
    weights = as_floats(normalized(scores))
    # A sum, which payments need as well: XLA takes it once for both.
    vetoed = ~(weights > 0).any() | (has_veto(bids, log_probs).sum(0) > 0)
    mean = distributions.weighted_sum(weights, finite_logs(log_probs))
    return jnp.where(vetoed, -jnp.inf, mean)


def has_veto(bids: jax.Array, log_probs: jax.Array) -> jax.Array:
    """Where an agent that bids, however little, cannot produce a token, `(n, V)`."""
    return (bids > 0)[:, None] & jnp.isneginf(log_probs)


def finite_logs(log_probs: jax.Array) -> jax.Array:
    """Log-probabilities with 0 for ``-inf``, so that ``0 * log 0 = 0``."""
    return jnp.where(jnp.isneginf(log_probs), 0, log_probs)


def _normalize(log_weights: jax.Array, bids: jax.Array) -> jax.Array:
    base.check_defined(jnp.isfinite(log_weights).any(), bids)
    return distributions.normalize(log_weights)


def _check_influence(influence: ArrayLike) -> records.Number:
    number = records.as_number("influence", influence)
    if records.is_concrete(number) and not 0 < float(number) < float("inf"):
        raise ValueError(f"influence must be positive and finite, got {number}")
    return number
