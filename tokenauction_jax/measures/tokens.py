"""What is observed of each token of an auction, inside the rollout."""

from typing import Literal

import jax
import jax.numpy as jnp

from tokenauction_jax import records
from tokenauction_jax.measures.divergences import (
    divergence_measures,
    valuation_measures,
)
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.aggregation import Linear
from tokenauction_jax.mechanism.base import Aggregation, Valuation
from tokenauction_jax.mechanism.incentives import outcomes_without, preference_violation

Reference = Literal["uniform", "mean", "agent"]
# By how much, in probability, a token may miss a robust preference.
_TOLERANCE = 1e-6


@records.record
class TokenMeasures:
    """Observes one token of one auction.

    Attributes:
      aggregation: The rule of the auction.
      reference: The model of fluency: the uniform distribution, the mean of the
        agents', or that of a last "agent" which bids 0 and takes no part.
      valuation: One to measure besides the built-in ones.
    """

    aggregation: Aggregation
    reference: Reference = records.static_field()
    valuation: Valuation | None = None

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
        values: jax.Array,
    ) -> dict[str, jax.Array]:
        """Measures of one token: bids `(m,)`, log_probs `(m, V)`, values `(n,)`."""
        n = values.shape[0]
        weights = self.aggregation.weights(bids)[:n]
        drawn = log_probs[:, token]
        log_reference = self._log_reference(drawn, n, log_probs.shape[-1])
        gains, loses = self._robust_preferences(bids, log_probs, log_q, n)
        seen = divergence_measures(values, log_probs[:n], log_q)
        if self.valuation is not None:
            own = valuation_measures(self.valuation, values, log_probs[:n], log_q)
            for name, x in own.items():
                seen[name] = jnp.concatenate([seen[name], x[None]])
        return seen | {
            "realized": _realized_values(drawn[:n] - log_q[token]),
            "weight": weights,
            "robustly_gains": gains,
            "robustly_loses": loses,
            "entropy": distributions.entropy(log_q),
            "log_likelihood": log_reference,
            "log_ratio": drawn[:n] - log_reference,
        }

    def _robust_preferences(
        self, bids: jax.Array, log_probs: jax.Array, log_q: jax.Array, n: int
    ) -> tuple[jax.Array, jax.Array]:
        """Whether each agent prefers the outcome, and the one without it, `(n,)`."""
        others = distributions.sum_of_others(bids)[:n] > 0
        if isinstance(self.aggregation, Linear):
            # q - p_i is a share of r_i - p_i (section 4 of the paper): all gain.
            return others.astype(log_q.dtype), jnp.zeros(n, log_q.dtype)
        without = outcomes_without(self.aggregation, bids, log_probs)[:n]
        p = jnp.exp(log_probs[:n])
        with_it, without_it = jnp.exp(log_q)[None] - p, without - p
        failing = preference_violation(without_it, with_it)
        gains = (failing <= _TOLERANCE).all(-1) & others
        failing = preference_violation(with_it, without_it)
        loses = (failing <= _TOLERANCE).all(-1) & others & ~gains
        return gains.astype(log_q.dtype), loses.astype(log_q.dtype)

    def _log_reference(self, drawn: jax.Array, n: int, vocab_size: int) -> jax.Array:
        if self.reference == "uniform":
            return -jnp.log(jnp.asarray(vocab_size, drawn.dtype))
        if self.reference == "agent":
            return drawn[n]
        mean = jnp.full(n, 1 / n, drawn.dtype)
        return distributions.log_mixture(mean, drawn[:n, None])[0]


@records.record
class Attribution:
    """Observes the share of a token's probability that each agent brought."""

    aggregation: Aggregation

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
        values: jax.Array,
    ) -> jax.Array:
        """``lambda_i p_i / sum_j lambda_j p_j`` of the drawn token, `(n,)`."""
        n = values.shape[0]
        ratio = jnp.exp(log_probs[:n, token] - log_q[token])
        brought = self.aggregation.weights(bids)[:n] * ratio
        return brought / distributions.nonzero(brought.sum())


def _realized_values(log_ratio: jax.Array) -> jax.Array:
    """One-token estimates `(3, n)` of the values from ``log p_i(y) / q(y)`` `(n,)`.

    Each divergence is a mean over the drawn token of a convex function of that ratio.
    """
    ratio = jnp.exp(log_ratio)
    weighted = jnp.where(ratio > 0, ratio * log_ratio, 0)
    return jnp.stack([-jnp.maximum(1 - ratio, 0), -(weighted - ratio + 1), log_ratio])
