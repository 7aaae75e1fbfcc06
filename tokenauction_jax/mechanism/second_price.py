"""The second price: the winner of a token pays its critical bid.

Source: Duetting et al. (arXiv 2310.10826), section 5. In expectation it is Myerson's
payment for `total_variation`.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, keys, mean_price, stable
from tokenauction_jax.mechanism.aggregation import Linear
from tokenauction_jax.mechanism.influence import (
    Odds,
    Scores,
    influence_odds,
    influence_scores,
    relative_to_second,
    rest_mean,
)
from tokenauction_jax.mechanism.invariances import is_neutral
from tokenauction_jax.mechanism.myerson import Myerson
from tokenauction_jax.mechanism.sampling import is_below, two_sided_uniform
from tokenauction_jax.mechanism.valuations import TotalVariation

# Tells the critical bid's randomness from that of a sample under the same key. Large:
# `fold_in(key, 1)` is the second key of any `split(key)`.
_CRITICAL = 0x63726974


@records.record
class SecondPrice:
    """See `second_price`."""

    aggregation: Linear
    name: ClassVar[str] = "second_price"

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``TV(p_i, r_i) lambda_i E[price | win]`` `(n,)`, in money per token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        odds = influence_odds(scores)
        p = jnp.exp(log_probs)
        gain = distributions.sum_last(jnp.abs(p - rest_mean(scores, p))) / 2
        return gain * odds.share * self._mean_price(bids, odds)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """``P(win_i | token) E[price | win]`` `(n,)`, in money; O(n) work."""
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        win, _ = _wins(scores, log_probs[:, base.check_token(token, log_probs)])
        return win * self._mean_price(bids, influence_odds(scores))

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """Critical bids `(n,)` of the agents that won the token, else 0; O(n) work.

        Draws from the exact law of the payment given the token, independently across
        agents; wins of probability 1e-18, and prices that near 0 or the bid, keep
        their relative accuracy.
        """
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        odds = influence_odds(scores)
        win, loss = _wins(scores, log_probs[:, base.check_token(token, log_probs)])
        lower, upper = two_sided_uniform(key, (2, *bids.shape), bids.dtype)
        wins = is_below((lower[0], upper[0]), win, loss) & odds.contested
        quantile = (lower[1], upper[1])
        share = mean_price.share_at(quantile, odds, self.aggregation.influence)
        return jnp.where(wins, bids * share, 0)

    def log_chance(
        self,
        bids: ArrayLike,
        log_probs: ArrayLike,
        token: ArrayLike,
        payments: ArrayLike,
    ) -> jax.Array:
        """Log-probability that those won the token that pay, and no others.

        What they pay is a fixed quantile of its law, and moves with the numbers.
        """
        bids, log_probs = base.check_auction(bids, log_probs)
        scores = influence_scores(bids, self.aggregation.influence)
        win, loss = _wins(scores, log_probs[:, base.check_token(token, log_probs)])
        contested = influence_odds(scores).contested
        chance = jnp.where(jnp.asarray(payments) > 0, win, loss)
        return jnp.where(contested, distributions.safe_log(chance), 0).sum()

    def _mean_price(self, bids: jax.Array, odds: Odds) -> jax.Array:
        """Of a won token `(n,)`; 0 where there is no other bid to beat."""
        price = bids * mean_price.mean_share(odds, self.aggregation.influence)
        return jnp.where(odds.contested, price, 0)


def _wins(scores: Scores, log_p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Chances that each agent's bid won a token of these log-probabilities, and not.

    Args:
      scores: Of the agents.
      log_p: `(n,)`.
    """
    # A common scale drops out.
    largest = jnp.max(jnp.where(scores.mantissa > 0, log_p, -jnp.inf))
    largest = lax.stop_gradient(jnp.where(jnp.isneginf(largest), 0, largest))
    # An agent that does not bid may have far more of it than all that do.
    p = jnp.exp(jnp.minimum(log_p - largest, distributions.LARGEST_EXPONENT))
    weights = relative_to_second(scores)
    # Each agent's part of the token, and its probability without the agent.
    parts = weights * p
    others = distributions.sum_of_others(parts)
    total = distributions.nonzero(parts + others)
    rest = distributions.nonzero(distributions.sum_of_others(weights))
    r = distributions.divide(others, rest)
    gains = p > r
    divisor = jnp.where(gains, p, 1)
    # Not `/`, whose derivative divides by squares.
    win = parts * distributions.divide(jnp.where(gains, p - r, 0), divisor)
    loss = others + parts * distributions.divide(r, divisor)
    win, loss = (distributions.divide(x, total) for x in (win, loss))
    return win, jnp.where(gains, loss, 1)


@records.record
class NumericalSecondPrice:
    """See `second_price`: the same law for any monotone rule, by quadrature."""

    aggregation: base.Aggregation
    name: ClassVar[str] = "second_price"

    @property
    def neutral(self) -> bool:
        """Whether the aggregation is."""
        return is_neutral(self.aggregation)

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``integral_0^b_i s dq_s(T+)`` `(n,)`, in money per token."""
        return Myerson(self.aggregation, TotalVariation()).expected(bids, log_probs)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """``integral_0^b_i s dq_s(token) / q(token)`` `(n,)`, 0 outside T+."""
        bids, log_probs = base.check_auction(bids, log_probs)
        token = base.check_token(token, log_probs)
        log_q = stable.log_prob(self.aggregation, bids, log_probs)[token]

        def log_rest(agent: jax.Array) -> jax.Array:
            rest = bids.at[agent].set(0)
            return stable.log_prob(self.aggregation, rest, log_probs)[token]

        gains = log_probs[:, token] > jax.vmap(log_rest)(jnp.arange(bids.shape[0]))
        reached = Myerson(self.aggregation, _TokenProbability(token))
        pays = reached.expected(bids, log_probs) / distributions.nonzero(jnp.exp(log_q))
        return jnp.where(gains, pays, 0)

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """Critical bids `(n,)` of the agents that won the token, else 0."""
        agents = jnp.arange(jnp.shape(bids)[0])
        own_keys = keys.split(key, agents.size)
        return jax.vmap(critical_bid, (0, None, 0, None, None, None))(
            own_keys, self.aggregation, agents, bids, log_probs, token
        )


@records.record
class _TokenProbability:
    """The chance of one token, as if it were a value."""

    token: jax.Array
    name: ClassVar[str] = "token_probability"

    def value(self, log_q: ArrayLike, log_p: ArrayLike) -> jax.Array:
        del log_p
        return jnp.exp(jnp.asarray(log_q)[self.token])


def second_price(aggregation: base.Aggregation) -> SecondPrice | NumericalSecondPrice:
    """The second price of the token auction: the winner pays its critical bid.

    With ``r`` the aggregate without agent i, i pays only for tokens that its bid won:
    under a stable coupling the token changes at most once as ``b_i`` rises, and i pays
    the bid at which it did. Truthful for `total_variation`. A lone bidder pays 0, as
    does one whose rivals' ``(b_j / b_i)^influence`` underflow.

    For `linear` all forms are closed, and what is paid given the token costs O(n). For
    another monotone rule they are found by quadrature and bisection along its path of
    own bids, several hundred aggregates a payment.

    Args:
      aggregation: A monotone rule: `linear` with any influence, or one of your own.

    Raises:
      ValueError: If the class of `aggregation` is not monotone: no stable sampler, and
        so no second price, exists.
    """
    records.check_rule("aggregation", aggregation, base.Aggregation)
    if not aggregation.monotone:
        raise ValueError(
            f"second_price needs a monotone aggregation and {aggregation.name!r} is "
            "not; use linear(), price log_linear() by clarke(log_linear()), or any "
            "rule by myerson(rule, valuation)"
        )
    if isinstance(aggregation, Linear):
        return SecondPrice(aggregation)
    return NumericalSecondPrice(aggregation)


def critical_bid(
    key: jax.Array,
    aggregation: base.Aggregation,
    agent: ArrayLike,
    bids: ArrayLike,
    log_probs: ArrayLike,
    token: ArrayLike,
) -> jax.Array:
    """Draws the bid at which the agent won the token, 0 if not by its bid.

    Given a token ``y`` of T+, the critical bid is at most ``s`` with probability
    ``q_s(y) / q(y)``, where ``q_s`` is the aggregate at an own bid of ``s``. For
    `linear` this is `second_price`; for another monotone rule it is found by bisection.
    A rule with a method ``critical_bid(key, agent, bids, log_probs, token)`` is asked
    instead. Independent of `stable_sample` under the same key.

    Args:
      key: A typed PRNG key.
      aggregation: A monotone rule.
      agent: The agent that pays.
      bids: `(n,)`.
      log_probs: `(n, V)`.
      token: The drawn token.

    Returns:
      A scalar in ``[0, b_i]``, in money.

    Raises:
      ValueError: If the class of `aggregation` is not monotone. If a shape is wrong or
        there is no such agent or token.
    """
    stable.check_monotone(aggregation)
    checked = base.check_path(agent, jnp.zeros(1, jnp.float32), bids, log_probs)
    if records.is_concrete(bids):
        # The agent's own as well, which is no path of its own here.
        base.check_amounts("bids", np.asarray(bids, float))
    _, bids, log_probs = checked
    token = base.check_token(token, log_probs)
    key = keys.fold_in(key, _CRITICAL)
    if isinstance(aggregation, base.SupportsCriticalBid):
        return aggregation.critical_bid(key, agent, bids, log_probs, token)
    if isinstance(aggregation, Linear):
        payment = second_price(aggregation)
        return payment.realized(key, bids, log_probs, token)[agent]

    def log_q(own_bid: jax.Array) -> jax.Array:
        moved = bids.at[agent].set(own_bid)
        return stable.log_prob(aggregation, moved, log_probs)[token]

    own_bid, log_r = bids[agent], log_q(jnp.zeros_like(bids[agent]))
    uniform, _ = two_sided_uniform(key, (), bids.dtype)
    target = log_q(own_bid) + jnp.log(uniform)
    gained = (log_probs[agent, token] > log_r) & (target > log_r)
    won = gained & (own_bid > 0) & (bids.at[agent].set(0).sum() > 0)
    top = jnp.log(jnp.where(won, own_bid, 1))
    _, log_bid = stable.bisect(lambda log_bid: log_q(jnp.exp(log_bid)) >= target, top)
    return jnp.where(won, jnp.exp(log_bid), 0)
