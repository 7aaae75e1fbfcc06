"""Payment rules: what each agent owes for one token.

Sources: Duetting et al. (arXiv 2310.10826), section 5, for stable sampling and the
second price; the closed forms are one case of Myerson's identity
``zeta_i = b_i v_i(b_i) - integral_0^{b_i} v_i(s) ds``.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base, distributions, win_price
from tokenauction_jax.mechanism.aggregation import (
    Linear,
    LogLinear,
    finite_logs,
    has_veto,
    influence_scores,
)
from tokenauction_jax.mechanism.sampling import sample_win, two_sided_uniform


@base.record
class PayYourBid:
    """See `pay_your_bid`."""

    name: ClassVar[str] = "pay_your_bid"

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """The bids `(n,)`."""
        bids, _ = base.check_auction(bids, log_probs)
        return jnp.where(influence_scores(bids, 1.0).sum() > 0, bids, 0)

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


@base.record
class SecondPrice:
    """See `second_price`."""

    aggregation: Linear
    name: ClassVar[str] = "second_price"

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``TV(p_i, r_i) lambda_i E[price | win]`` `(n,)`, in money per token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        others = distributions.sum_of_others(scores)
        p = jnp.exp(log_probs)
        r = distributions.sum_of_others(scores[:, None] * p) / _nonzero(others)[:, None]
        gain = distributions.sum_last(jnp.abs(p - r)) / 2
        win = gain * scores / _nonzero(scores + others)
        return jnp.where(others > 0, win * self._mean_price(bids, scores, others), 0)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """``P(win_i | token) E[price | win]`` `(n,)`, in money; O(n) work."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores, others, win, _ = self._wins(
            bids, log_probs, base.check_token(token, log_probs)
        )
        return jnp.where(others > 0, win * self._mean_price(bids, scores, others), 0)

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """Critical bids `(n,)` of the agents that won the token, else 0; O(n) work.

        Draws from the exact law of the payment given the token, independently across
        agents; wins of probability 1e-18, and prices that near 0 or the bid, keep
        their relative accuracy.
        """
        bids, log_probs = base.check_auction(bids, log_probs)
        scores, others, win, loss = self._wins(
            bids, log_probs, base.check_token(token, log_probs)
        )
        key_win, key_price = jax.random.split(key)
        wins = sample_win(key_win, win, loss) & (others > 0)
        v, one_minus_v = two_sided_uniform(key_price, bids.shape, bids.dtype)
        share = v / (1 + win_price.odds(scores, others) * one_minus_v)
        return jnp.where(wins, bids * share ** (1 / self.aggregation.influence), 0)

    def _mean_price(
        self, bids: jax.Array, scores: jax.Array, others: jax.Array
    ) -> jax.Array:
        odds = win_price.odds(scores, others)
        return bids * win_price.mean_share(odds, self.aggregation.influence)

    def _wins(
        self, bids: jax.Array, log_probs: jax.Array, token: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Scores of self and others, and chances of winning and not, each `(n,)`."""
        scores = influence_scores(bids, self.aggregation.influence)
        others = distributions.sum_of_others(scores)
        # A common scale drops out: the chances are ratios of probabilities.
        p = distributions.scaled_probs(scores, log_probs[:, token, None])[0][:, 0]
        rest = distributions.sum_of_others(scores * p)
        r = rest / _nonzero(others)
        q = _nonzero(scores * p + rest)
        win = scores * jnp.maximum(p - r, 0) / q
        loss = jnp.where(p > r, (scores + others) * r / q, 1)
        return scores, others, win, loss


@base.record
class Clarke:
    """See `clarke`."""

    aggregation: Linear | LogLinear
    name: ClassVar[str] = "clarke"

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """The loss that each agent causes the others `(n,)`, in money per token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        others = distributions.sum_of_others(scores)
        divergence = (
            _linear_divergence(scores, others, log_probs)
            if isinstance(self.aggregation, Linear)
            else _log_linear_divergence(scores, others, log_probs, bids)
        )
        loss = distributions.sum_of_others(bids) * divergence
        return jnp.where(others > 0, loss, 0)

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


def second_price(aggregation: base.Aggregation) -> SecondPrice:
    """The second price of the token auction: the winner pays its critical bid.

    With ``r`` the aggregate without agent i, i pays only for tokens that its bid won:
    under a stable coupling the token changes at most once as ``b_i`` rises, and i pays
    the bid at which it did. Truthful for `total_variation`. A lone bidder pays 0, as
    does one whose rivals' ``(b_j / b_i)^influence`` underflow.

    Args:
      aggregation: A `linear` rule, with any influence.

    Raises:
      ValueError: If the class of `aggregation` is not monotone (no stable sampler, and
        so no second price, exists), or is monotone but not `linear`.
    """
    if not isinstance(aggregation, base.Aggregation):
        raise ValueError(f"aggregation must be an Aggregation, got {aggregation!r}")
    if not aggregation.monotone:
        raise ValueError(
            f"second_price needs a monotone aggregation and {aggregation.name!r} is "
            "not; use linear(), or price log_linear() by clarke(log_linear())"
        )
    if not isinstance(aggregation, Linear):
        raise ValueError(
            f"second_price knows the stable coupling of linear() only, not that of "
            f"{aggregation.name!r}; give that rule a payment of its own"
        )
    return SecondPrice(aggregation)


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
    if base.is_concrete(influence) and float(influence) != 1:
        raise ValueError(
            f"clarke needs influence 1, got {influence}: with any other the aggregate "
            "does not maximise the bidders' welfare"
        )
    return Clarke(aggregation)


def _nonzero(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 1)


def _linear_divergence(
    scores: jax.Array, others: jax.Array, log_probs: jax.Array
) -> jax.Array:
    """``KL(r_i || q)`` `(n,)` of linear aggregation, ``r_i`` without agent i."""
    p = jnp.exp(log_probs)
    total = _nonzero(scores + others)[:, None]
    r = distributions.sum_of_others(scores[:, None] * p) / _nonzero(others)[:, None]
    gained = scores[:, None] * p / total
    q = gained + (others[:, None] / total) * r
    both = (r > 0) & (q > 0)
    # q / r - 1 without subtracting q and r, which nearly agree for a small bid.
    excess = jnp.where(both, scores[:, None] / total * (p - r) / _nonzero(r), 0)
    small = jnp.abs(excess) < 0.5
    log_ratio = jnp.where(
        small,
        -jnp.log1p(jnp.where(small, excess, 0)),
        jnp.log(jnp.where(both, r, 1)) - jnp.log(jnp.where(both, q, 1)),
    )
    r = jnp.where(both, r, 0)
    return distributions.sum_last(distributions.divergence_terms(r, q, log_ratio))


def _log_linear_divergence(
    scores: jax.Array, others: jax.Array, log_probs: jax.Array, bids: jax.Array
) -> jax.Array:
    """``KL(q || r_i)`` `(n,)` of log-linear aggregation, ``r_i`` without agent i."""
    vetoes = has_veto(scores, log_probs)
    base.check_defined(~vetoes.any(0).all() & (scores > 0).any(), bids)
    logs = finite_logs(log_probs)
    by_others = distributions.sum_of_others(vetoes.astype(jnp.int32)) > 0
    mean = (
        distributions.sum_of_others(scores[:, None] * logs) / _nonzero(others)[:, None]
    )
    log_r = distributions.normalize(jnp.where(by_others, -jnp.inf, mean))
    both = ~by_others & ~vetoes
    weight = (scores / _nonzero(scores + others))[:, None]
    # q is r tilted by the agent: log(q / r) = shift - log sum_t r exp(shift).
    shift = jnp.where(both, weight * (logs - jnp.where(by_others, 0, log_r)), 0)
    log_tilted = jnp.where(both, log_r, -jnp.inf) + shift
    log_total = _log_total(log_r, log_tilted, shift)[:, None]
    q = jnp.exp(log_tilted - log_total)
    log_ratio = jnp.where(both, shift - log_total, 0)
    terms = distributions.divergence_terms(q, jnp.exp(log_r), log_ratio)
    # Undefined auctions charge nothing.
    return jnp.where(both.any(-1), distributions.sum_last(terms), 0)


def _log_total(log_r: jax.Array, log_tilted: jax.Array, shift: jax.Array) -> jax.Array:
    """``log sum_t r(t) exp(shift(t))`` `(n,)`, at most 0, accurate near 0.

    0, instead of ``-inf``, where no token is left.
    """
    r = jnp.exp(log_r)
    small = (jnp.abs(shift) < 1) & (log_tilted > -jnp.inf)
    terms = jnp.where(
        small, r * jnp.expm1(jnp.where(small, shift, 0)), jnp.exp(log_tilted) - r
    )
    change = distributions.sum_last(terms)
    near = change > -0.5
    log_total = distributions.log_sum_exp(log_tilted)
    log_total = jnp.where(jnp.isneginf(log_total), 0, log_total)
    return jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), log_total)
