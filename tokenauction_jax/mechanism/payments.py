"""Payments that do not depend on the drawn token: the own bid, and Clarke's.

Clarke payments are one case of Myerson's identity,
``zeta_i = b_i x_i(b_i) - integral_0^{b_i} x_i(s) ds``, in closed form.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, tilting
from tokenauction_jax.mechanism.aggregation import (
    Linear,
    LogLinear,
    finite_logs,
    has_veto,
    log_weights,
)
from tokenauction_jax.mechanism.influence import (
    Scores,
    as_floats,
    influence_odds,
    influence_scores,
    mean_without,
    normalized,
    rest_mean,
)


@records.record
class PayYourBid:
    """See `pay_your_bid`."""

    name: ClassVar[str] = "pay_your_bid"
    deterministic: ClassVar[bool] = True

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """The bids `(n,)`."""
        bids, _ = base.check_auction(bids, log_probs)
        return jnp.where(base.bids_define_auction(bids), bids, 0)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """The bids `(n,)`, whatever the token."""
        base.check_token(token, log_probs)
        return self.expected(bids, log_probs)

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """The bids `(n,)`, whatever the token."""
        del key
        return self.conditional(bids, log_probs, token)


@records.record
class Clarke:
    """See `clarke`."""

    aggregation: Linear | LogLinear
    name: ClassVar[str] = "clarke"
    neutral: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    @property
    def takes_logits(self) -> bool:
        """Under `log_linear`: a factor of an agent's odds drops out."""
        return isinstance(self.aggregation, LogLinear)

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """The loss that each agent causes the others `(n,)`, in money per token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        divergence = (
            _linear_divergence(scores, log_probs)
            if isinstance(self.aggregation, Linear)
            else _log_linear_divergence(scores, log_probs, bids)
        )
        others = distributions.sum_of_others(bids)
        defined = base.bids_define_auction(bids) & (others > 0)
        return jnp.where(defined, others * divergence, 0)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """`expected`: the payment does not depend on the token."""
        base.check_token(token, log_probs)
        return self.expected(bids, log_probs)

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """`expected`: the payment does not depend on the token."""
        del key
        return self.conditional(bids, log_probs, token)


def pay_your_bid() -> PayYourBid:
    """Every agent pays its bid for every token, whatever is drawn.

    Zero only where no bid is positive, under a transformation. It does not know the
    aggregation: `simulate` masks it in auctions that are undefined for other reasons.
    """
    return PayYourBid()


def clarke(aggregation: Linear | LogLinear) -> Clarke:
    """The Clarke payment: the welfare that an agent's presence costs the others.

    ``B KL(r || q)`` for `linear` (valuation `forward_kl`) and ``B KL(q || r)`` for
    `log_linear` (valuation `reverse_kl`), where ``B`` sums the others' bids and ``r``
    is the aggregate without the agent. Under `log_linear` an agent that cannot produce
    some token of ``r`` pays for its veto even at a vanishing bid.

    Args:
      aggregation: A `linear` or `log_linear` rule of influence 1 (if the influence is
        traced, that it is 1 is the caller's promise).

    Raises:
      ValueError: For any other class, or a concrete influence other than 1.
    """
    if not isinstance(aggregation, Linear | LogLinear):
        raise ValueError(
            "clarke prices linear() and log_linear() only, "
            f"not {getattr(aggregation, 'name', aggregation)!r}"
        )
    influence = aggregation.influence
    if records.is_concrete(influence) and float(influence) != 1:
        raise ValueError(
            f"clarke needs influence 1, got {influence}: with any other the aggregate "
            "does not maximise the bidders' welfare"
        )
    return Clarke(aggregation)


def _linear_divergence(scores: Scores, log_probs: jax.Array) -> jax.Array:
    """``KL(r_i || q)`` `(n,)` of linear aggregation, ``r_i`` without agent i."""
    p = jnp.exp(log_probs)
    r = rest_mean(scores, p)
    odds = influence_odds(scores)
    share, rest = odds.share[:, None], odds.rest[:, None]
    q = share * p + rest * r
    both = (r > 0) & (q > 0)
    # q / r - 1 without subtracting q and r, which nearly agree for a small bid.
    excess = distributions.divide(share * (p - r), jnp.where(both, r, 1))
    excess = jnp.where(both, excess, 0)
    small = jnp.abs(excess) < 0.5
    log_ratio = jnp.where(
        small,
        -jnp.log1p(jnp.where(small, excess, 0)),
        distributions.log(jnp.where(both, r, 1))
        - distributions.log(jnp.where(both, q, 1)),
    )
    r = jnp.where(both, r, 0)
    return distributions.sum_last(distributions.divergence_terms(r, q, log_ratio))


def _log_linear_divergence(
    scores: Scores, log_probs: jax.Array, bids: jax.Array
) -> jax.Array:
    """``KL(q || r_i)`` `(n,)` of log-linear aggregation, ``r_i`` without agent i.

    q is r tilted by the agent, ``log(q / r) = x`` up to a constant, which is chosen so
    that the mean of x is 0; see `tilting.divergence`.
    """
    vetoes, logs = has_veto(bids, log_probs), finite_logs(log_probs)
    weights = as_floats(normalized(scores))
    log_masses, pivot = distributions.below_zero(log_weights(bids, scores, log_probs))
    masses = jnp.exp(log_masses)
    total = distributions.sum_last(masses)
    defined = total > 0
    base.check_defined(defined, bids)
    total = distributions.nonzero(total)
    q = masses * (1 / total)
    mean = distributions.weighted_sum(weights, logs)
    # log(q / r) is in proportion to l - log r, and to l - log q, which is the same for
    # all: a product for each agent would take a third of the time of all else here.
    # But from log q the digits of the others are gone if the agent is most of it.
    leads = jnp.arange(bids.size) == jnp.argmax(weights)
    odds = influence_odds(scores)
    left = distributions.nonzero(jnp.where(leads, 1, odds.rest))
    rest = mean_without(leads, scores, logs)
    if bids.size == 2:
        # The other one itself, without rounding: the two may all but agree.
        share, x = odds.share, logs - logs[::-1]
    else:
        share = odds.share / left
        x = logs - jnp.where(leads[:, None], rest[None], mean[None])
    # First without a rounding: where one token has nearly all of q, only differences
    # to its tilt matter, and their mean is far smaller than it.
    top = distributions.max_last(jnp.where(log_masses == 0, jnp.arange(q.size), 0))
    x = share[:, None] * (x - lax.stop_gradient(x[:, top])[:, None])
    by_others = vetoes.sum(0)[None] > vetoes.astype(jnp.int32)
    x = jnp.where(by_others, tilting.NEVER, x)
    x = x - tilting.mean(q, x)[:, None]
    # Of a token that one agent keeps from being drawn, log q and x are far apart from
    # what is left without it, which is therefore the sum over the others itself.
    log_q = mean - (pivot + jnp.log(total))
    terms = weights[:, None] * logs
    # Of two thirds there is one at most, also where logits are not quite below 0.
    most = terms < mean[None] * (2 / 3)
    others = jnp.where(most, 0, terms).sum(0)[None]
    without = jnp.where(leads[:, None], rest[None], others / left[:, None])
    at_top = jnp.where(leads, rest[top], (mean[top] - terms[:, top]) / left)
    without = (without - at_top[:, None]) + (log_q[top] - x[:, top])[:, None]
    log_r = jnp.where(most & ~by_others, without, log_q[None] - x)
    log_r = jnp.where(by_others, -tilting.NEVER, log_r)
    divergence = tilting.divergence(q, log_q, log_r, x)
    # Undefined auctions charge nothing.
    return jnp.where(defined, divergence, 0)
