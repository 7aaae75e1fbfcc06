"""Policies that pace: they bid less than the value so as to keep to a constraint.

Each learns a multiplier while the text grows. With a budget of ``B`` for ``T`` tokens,
``rho = B / T`` is what it may spend per token on average, and ``z`` what the agent paid
for the last one.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.bidding.policies import check_number
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.simulation import Info

# Of the logarithm of a dual variable: products of it and of money stay in range.
_FAR = 20.0


@records.record
class AdaptivePacing:
    """See `adaptive_pacing`. Its state is ``mu``."""

    value: records.Number
    rate: records.Number
    start: records.Number
    most: records.Number

    def init(self) -> jax.Array:
        """The multiplier before the first token."""
        return jnp.asarray(self.start, float)

    def bid(self, state: jax.Array, info: Info) -> tuple[ArrayLike, jax.Array]:
        """``value / (1 + mu)``."""
        mu = jnp.clip(state - self.rate * _unspent(info), 0, self.most)
        mu = jnp.where(info.position > 0, mu, state)
        return self.value / (1 + mu), mu


@records.record
class Controller:
    """See `pid`. Its state is the integral term and the last error."""

    value: records.Number
    proportional: records.Number
    integral: records.Number
    derivative: records.Number
    start: records.Number
    least: records.Number
    most: records.Number

    def init(self) -> tuple[jax.Array, jax.Array]:
        """The integral term and the error before the first token."""
        return jnp.log(jnp.asarray(self.start, float)), jnp.zeros((), float)

    def bid(
        self, state: tuple[jax.Array, jax.Array], info: Info
    ) -> tuple[ArrayLike, tuple[jax.Array, jax.Array]]:
        """The value times the exponential of the control signal."""
        total, last = state
        per_token = _per_token(info)
        error = 1 - info.last_payment / distributions.nonzero(per_token)
        error = jnp.where((info.position > 0) & (per_token > 0), error, 0)
        low, high = jnp.log(self.least), jnp.log(self.most)
        total = jnp.clip(total + self.integral * error, low, high)
        signal = total + self.proportional * error + self.derivative * (error - last)
        multiplier = jnp.exp(jnp.clip(signal, low, high))
        return self.value * multiplier, (total, error)


@records.record
class ValueMaximiser:
    """See `value_maximiser`. Its state is ``log lambda`` and ``mu``."""

    value: records.Number
    target: records.Number
    rate: records.Number
    budget_rate: records.Number
    most: records.Number

    def init(self) -> tuple[jax.Array, jax.Array]:
        """Both dual variables before the first token, 1 and 0."""
        return jnp.zeros((), float), jnp.zeros((), float)

    def bid(
        self, state: tuple[jax.Array, jax.Array], info: Info
    ) -> tuple[ArrayLike, tuple[jax.Array, jax.Array]]:
        """``value (1 + lambda) / (target lambda + mu)``, at most ``most value``."""
        drawn = info.position > 0
        log_ratio = jnp.where(drawn, info.last_log_prob - info.last_log_q, 0)
        worth = self.value * jnp.exp(jnp.minimum(log_ratio, 0))
        gain = worth - self.target * info.last_payment
        moved = (
            state[0] - self.rate * gain,
            state[1] - self.budget_rate * _unspent(info),
        )
        log_roi = jnp.where(drawn, jnp.clip(moved[0], -_FAR, _FAR), state[0])
        mu = jnp.where(drawn, jnp.maximum(moved[1], 0), state[1])
        roi = jnp.exp(log_roi)
        multiplier = jnp.minimum((1 + roi) / (self.target * roi + mu), self.most)
        return self.value * multiplier, (log_roi, mu)


def adaptive_pacing(
    value: ArrayLike, rate: ArrayLike, *, start: ArrayLike = 0.0, most: ArrayLike = 1e6
) -> AdaptivePacing:
    """Bids ``value / (1 + mu)`` with ``mu <- clip(mu - rate (rho - z), 0, most)``.

    Balseiro and Gur, "Learning in Repeated Auctions with Budgets" (Management Science
    2019), algorithm 1: gradient descent on the dual of the budget. With a rate of order
    ``1 / sqrt(T)`` its regret against the best multiplier is of order ``sqrt(T)`` where
    contexts are drawn independently. While ``mu`` stays off its bounds it has risen by
    ``rate (spend - budget)`` in the end, which is how near to the budget it comes.
    Without a budget it is truthful.

    Args:
      value: What the agent values a unit of valuation at, in money.
      rate: The step, ``epsilon`` in the paper, per unit of money.
      start: The first ``mu``, not negative.
      most: The largest ``mu``; at least ``value / rho - 1`` to hold any budget.

    Raises:
      ValueError: If a number is out of range.
    """
    return AdaptivePacing(
        value=check_number("value", value),
        rate=_positive("rate", rate),
        start=check_number("start", start),
        most=check_number("most", most),
    )


def multiplicative_pacing(
    value: ArrayLike, rate: ArrayLike, *, start: ArrayLike = 1.0, least: float = 1e-6
) -> Controller:
    """Bids ``m value`` with ``m <- clip(m exp(rate (1 - z / rho)), least, 1)``.

    The multiplier of Conitzer, Kroer, Sodomka and Stier-Moses, "Multiplicative Pacing
    Equilibria in Auction Markets" (Operations Research 2022), at most 1, and below 1
    only for a budget that binds (complementary slackness); it is learnt by mirror
    descent in its logarithm, the integral term of `pid`. While it stays off its bounds,
    ``log m`` has fallen by ``rate T (spend / budget - 1)`` in the end.

    Args:
      value: What the agent values a unit of valuation at, in money.
      rate: The step in ``log m`` of a token that is free; not negative.
      start: The first ``m``.
      least: The smallest ``m``.

    Raises:
      ValueError: If a number is out of range.
    """
    return pid(
        value, proportional=0.0, integral=rate, derivative=0.0, start=start, least=least
    )


def pid(
    value: ArrayLike,
    *,
    proportional: ArrayLike,
    integral: ArrayLike,
    derivative: ArrayLike = 0.0,
    start: ArrayLike = 1.0,
    least: ArrayLike = 1e-6,
    most: ArrayLike = 1.0,
) -> Controller:
    """Feedback control of the logarithm of the bid: ``value exp(phi)``.

    With the error ``e = 1 - z / rho``, ``phi = proportional e + I + derivative (e -
    e')`` and ``I <- I + integral e``, both within ``[log least, log most]``; ``e'`` is
    the error before, 0 at first. Zhang, Rong, Wang, Zhu and Wang, "Feedback Control of
    Real-Time Display Advertising" (WSDM 2016), with an integral that cannot wind up.

    Args:
      value: What the agent values a unit of valuation at, in money.
      proportional: Gain on the error, without unit as all gains; not negative.
      integral: Gain on its sum over tokens.
      derivative: Gain on its change.
      start: The first multiplier, ``exp(phi)``.
      least: The smallest multiplier, above 0.
      most: The largest; more than 1 bids above the value.

    Raises:
      ValueError: If a number is out of range.
    """
    least, most = _positive("least", least), _positive("most", most)
    low, high = (
        float(x) if records.is_concrete(x) else default
        for x, default in ((least, 0.0), (most, base.LARGEST_BID))
    )
    return Controller(
        value=check_number("value", value),
        proportional=check_number("proportional", proportional),
        integral=check_number("integral", integral),
        derivative=check_number("derivative", derivative),
        start=check_number("start", start, low, high),
        least=least,
        most=most,
    )


def value_maximiser(
    value: ArrayLike,
    target: ArrayLike,
    rate: ArrayLike,
    *,
    budget_rate: ArrayLike = 0.0,
    most: ArrayLike = 100.0,
) -> ValueMaximiser:
    """Buys as much value as its return on investment and its budget allow.

    It maximises the sum of ``v`` subject to ``sum v >= target sum z`` and ``sum z <=
    B``, where a token is worth ``v = value min(1, p_i(x) / q(x))``, on average ``value
    (1 - TV(q, p_i))``: that of `total_variation`, counted from nothing in common. It
    bids ``value (1 + lambda) / (target lambda + mu)`` with dual variables ``lambda <-
    lambda exp(-rate (v - target z))`` and ``mu <- max(mu - budget_rate (rho - z), 0)``:
    Feng, Padmanabhan and Wang, "Online Bidding Algorithms for Return-on-Spend
    Constrained Advertisers" (WWW 2023), algorithms 1 and 2. The constraint on returns
    holds up to what is learnt on the way, of order ``log(T) / rate``; the budget does
    always.

    Args:
      value: What the agent values a unit of valuation at, in money.
      target: The least return, value per money spent; above 0.
      rate: The step of ``log lambda``, per unit of money; of order ``1 / sqrt(T)``.
      budget_rate: The step of ``mu``, per unit of money; 0 leaves the budget to the
        cut of charges.
      most: The largest bid, in units of the value.

    Raises:
      ValueError: If a number is out of range.
    """
    return ValueMaximiser(
        value=check_number("value", value),
        target=_positive("target", target),
        rate=_positive("rate", rate),
        budget_rate=check_number("budget_rate", budget_rate),
        most=_positive("most", most),
    )


def _per_token(info: Info) -> jax.Array:
    """``rho``, money."""
    return info.budget / info.num_tokens


def _unspent(info: Info) -> jax.Array:
    """``rho - z``, money; the largest number there is without a budget."""
    largest = jnp.finfo(jnp.asarray(info.budget).dtype).max
    return jnp.minimum(_per_token(info) - info.last_payment, largest)


def _positive(name: str, value: ArrayLike) -> records.Number:
    return check_number(name, value, base.SMALLEST_BID, base.LARGEST_BID)
