"""Mechanisms on whole replies: who decides which candidate is returned, at what price.

A rule works on *one* auction's ``M`` candidates; `jax.vmap` makes it work on many. The
agents report a reward in money for each candidate, such as `log_ratio_rewards`.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, sampling


@records.record
class Mosaic:
    """See `mosaic`."""

    temperature: records.Number
    name: ClassVar[str] = "mosaic"

    def log_prob(self, rewards: ArrayLike, log_ratio: ArrayLike) -> jax.Array:
        """Log-probabilities `(M,)` with which each candidate is returned."""
        return self._law(rewards, log_ratio)[0]

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_ratio: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate, exact in the tails."""
        return sampling.sample_token(key, self.log_prob(rewards, log_ratio))

    def expected(self, rewards: ArrayLike, log_ratio: ArrayLike) -> jax.Array:
        """Mean payments `(n,)`, at least 0."""
        log_p, tilts = self._law(rewards, log_ratio)
        return self.temperature * _centred(log_p, tilts)[1]

    def realized(
        self, rewards: ArrayLike, log_ratio: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """Payments `(n,)`, of any sign, if candidate `reply` was returned.

        One that is left out has no payments: what it answers then means nothing.
        """
        log_p, tilts = self._law(rewards, log_ratio)
        reply = records.check_agent("reply", reply, log_p.shape[0])
        centred, divergence = _centred(log_p, tilts)
        return self.temperature * (centred[:, reply] + divergence)

    def _law(
        self, rewards: ArrayLike, log_ratio: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities `(M,)`, and each agent's rewards over `tau`, `(n, M)`."""
        rewards, log_ratio = _check_candidates(rewards, log_ratio)
        gains = _gains(rewards, log_ratio)[0]
        positive = (self.temperature > 0) & jnp.isfinite(self.temperature)
        temperature = jnp.where(positive, self.temperature, jnp.nan)
        tilts = gains / temperature
        if records.is_concrete(tilts) and not np.isfinite(tilts).all():
            raise ValueError(
                f"temperature {self.temperature} is too small for these rewards, whose "
                "quotients by it overflow; best_of() is the limit"
            )
        log_weights = log_ratio + gains.sum(0) / temperature
        return distributions.normalize(log_weights), tilts


@records.record
class BestOf:
    """See `best_of`."""

    name: ClassVar[str] = "best_of"

    def log_prob(self, rewards: ArrayLike, log_ratio: ArrayLike) -> jax.Array:
        """0 for the candidate that is returned, ``-inf`` for all others, `(M,)`."""
        gains, best = _gains(*_check_candidates(rewards, log_ratio))
        possible = ~jnp.isneginf(jnp.asarray(log_ratio))
        returned = (jnp.arange(possible.shape[0]) == best) & possible
        law = jnp.where(returned, 0, jnp.full_like(gains[0], -jnp.inf))
        return jnp.where(jnp.isnan(gains).any(), jnp.nan, law)

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_ratio: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate; the key is not needed."""
        del key
        return _gains(*_check_candidates(rewards, log_ratio))[1]

    def expected(self, rewards: ArrayLike, log_ratio: ArrayLike) -> jax.Array:
        """Payments `(n,)`, at least 0."""
        gains, _ = _gains(*_check_candidates(rewards, log_ratio))
        # Nothing is gained together beyond the best, so that what the others gain by
        # another candidate is no more than what the agent would lose: holding to that
        # makes a report of 0 free whatever the rounding.
        return jnp.minimum(distributions.sum_of_others(gains), -gains).max(1)

    def realized(
        self, rewards: ArrayLike, log_ratio: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """`expected`: which candidate is returned is certain."""
        records.check_agent("reply", reply, jnp.shape(log_ratio)[0])
        return self.expected(rewards, log_ratio)


def mosaic(temperature: ArrayLike) -> Mosaic:
    """MOSAIC: a reply is drawn by reported welfare, at its Clarke pivots.

    With ``r = sum_i r_i``, ``w`` the `log_ratio` and ``LSE`` the log-sum-exp over the
    candidates, the reply is drawn from ``p = softmax(w + r / tau)``, which maximises
    ``sum_j p_j r(y_j) - tau KL(p || softmax(w))``; agent i pays on average

        sum_j p_j r_i(y_j) - tau [LSE(w + r / tau) - LSE(w + r_-i / tau)],

    and ``r_i(y) - tau [...]`` if y was drawn, which may be negative. As
    ``log(p / p_-i)`` is ``r_i / tau`` less that bracket, the mean is
    ``tau KL(p || p_-i)``, where ``p_-i`` is the law without the agent. Truthful reports
    are dominant given the candidates, and nobody is worse off than if it had not taken
    part.

    The rule's methods take `rewards` `(n, M)`, in money, and `log_ratio` `(M,)`,
    ``log p_ref(y) - log p_gen(y)`` of the law that the reply should have if nobody
    reported anything and the law that the candidates were drawn from; ``-inf`` excludes
    a candidate. They raise `ValueError` if shapes disagree or, for concrete values, if
    something is not finite or nothing is left; under a transformation what is not
    finite answers NaN, and without a candidate nothing is drawn (candidate 0, of
    log-probability ``-inf``) or paid. Mean payments have a relative
    error of 1e-5 (float32) while ``|r / tau|`` is below 20, and in proportion to it
    beyond.

    Soumalias, Curry, Seuken, "Truthful Aggregation of LLMs with an Application to
    Online Advertising", NeurIPS 2025, arXiv 2405.05905, algorithm 1. An offset of the
    payment that does not depend on the agent's report, which the paper allows for, is
    left out.

    Args:
      temperature: ``tau``, in money, the price of a nat of divergence from the
        reference; a leaf.

    Raises:
      ValueError: If the temperature is (as far as it is known) not positive and finite.

    >>> import jax.numpy as jnp
    >>> rule = mosaic(2.0)
    >>> rewards, log_ratio = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros(2)
    >>> print(rule.expected(rewards, log_ratio).round(3))
    [0.245 0.056]
    """
    number = records.as_number("temperature", temperature)
    if records.is_concrete(number) and not 0 < float(number) < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return Mosaic(number)


def best_of() -> BestOf:
    """Best of M: the candidate of the largest reported welfare, at its Clarke pivots.

    Returns ``y* = argmax_y sum_i r_i(y)``, of ties the first, and charges agent i
    ``max_y r_-i(y) - r_-i(y*)`` (Vickrey, Clarke, Groves). It is the limit of `mosaic`
    as its temperature falls to 0. Its methods take and refuse what those of `mosaic`
    do; of `log_ratio` only matters which candidates are ``-inf``: they are left out.
    """
    return BestOf()


def single_winner(
    bids: ArrayLike, quality: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """The agent that writes the reply alone, and what each agent pays.

    The highest ``bid * quality`` wins, of ties the first agent, and pays the bid with
    which it would have come second: the second-highest product over its own quality.

    Args:
      bids: `(n,)`, money per reply.
      quality: `(n,)`, positive; None if all are alike.

    Returns:
      The winner, an int32 scalar, and payments `(n,)`, 0 for all others. Under a
      transformation agent 0 wins for nothing where all bids are 0.

    Raises:
      ValueError: If shapes disagree, bids are no bids or all 0, or qualities are not
        positive and finite.
    """
    bids = base.check_bids(bids)
    quality = base.as_float(jnp.ones_like(bids) if quality is None else quality)
    records.check_shape("quality", quality, bids.shape)
    if records.is_concrete(quality):
        wrong = ~((np.asarray(quality) > 0) & np.isfinite(quality))
        if wrong.any():
            raise ValueError(
                f"quality must be positive and finite, got {quality[wrong][0]}"
            )
    # Relative to the largest of the bidders: products of large numbers would overflow.
    quality = jnp.where(bids > 0, quality, 0)
    quality = quality / distributions.nonzero(quality.max())
    scores = bids * quality
    winner = jnp.argmax(scores).astype(jnp.int32)
    wins = jnp.arange(bids.shape[0]) == winner
    second = jnp.where(wins, 0, scores).max()
    price = jnp.minimum(second / distributions.nonzero(quality[winner]), bids[winner])
    return winner, jnp.where(wins, price, 0)


def _check_candidates(
    rewards: ArrayLike, log_ratio: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Rewards `(n, M)` and log-ratios `(M,)` in one float dtype.

    Rewards are NaN throughout if anything cannot be used.
    """
    rewards, log_ratio = base.as_float(rewards), base.as_float(log_ratio)
    records.check_shape("rewards", rewards, (None, None))
    if 0 in rewards.shape:
        raise ValueError(
            f"rewards has shape {rewards.shape}, expected at least one agent and one "
            "candidate"
        )
    records.check_shape("log_ratio", log_ratio, rewards.shape[1:])
    finite, below = jnp.isfinite(rewards), log_ratio < jnp.inf
    if records.is_concrete(rewards) and not finite.all():
        agent, reply = np.argwhere(~np.asarray(finite))[0].tolist()
        raise ValueError(
            f"rewards must be finite, got {rewards[agent, reply]} of agent {agent} for "
            f"candidate {reply}"
        )
    if records.is_concrete(log_ratio):
        if not below.all():
            raise ValueError(
                "log_ratio must be finite or -inf, got "
                f"{np.asarray(log_ratio)[~np.asarray(below)][0]}"
            )
        if np.isneginf(log_ratio).all():
            raise ValueError(
                "log_ratio is -inf throughout: the reference can write none of the "
                "candidates"
            )
    dtype = jnp.result_type(rewards, log_ratio)
    usable = finite.all() & below.all()
    return jnp.where(usable, rewards, jnp.nan).astype(dtype), log_ratio.astype(dtype)


def _gains(rewards: jax.Array, log_ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What agents gain by each candidate over the best, `(n, M)`, and which that is.

    All that matters of rewards are such differences, and what is common to all
    candidates would take their digits. 0, as of the best, for those that are left out.
    """
    possible = ~jnp.isneginf(log_ratio)
    best = jnp.argmax(jnp.where(possible, rewards.sum(0), -jnp.inf)).astype(jnp.int32)
    gains = rewards - rewards[:, best][:, None]
    return jnp.where(possible[None], gains, 0), best


def _centred(log_p: jax.Array, tilts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tilts less their means over p, `(n, M)`, and ``KL(p || p_-i)`` `(n,)`.

    Without agent i the law is ``p exp(-x)``, but for a factor, where x is the agent's
    tilt. So the divergence is ``mean(x) + log mean(exp(-x))``, means over p. It is of
    second order in x: what is summed are ``exp(-x) - 1 + x >= 0``, with x centred so
    that its mean is next to 0.
    """
    p = jnp.exp(log_p)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.dot(x, p, precision=lax.Precision.HIGHEST)

    x = tilts
    # Twice: where one candidate has nearly all of p, only differences to its tilt
    # matter, and their mean is far smaller than it.
    for _ in range(2):
        x = x - lax.stop_gradient(mean(x))[:, None]
    log_others = log_p[None] - x
    largest = distributions.max_last(log_others)
    # Where the agent keeps some candidate from being drawn, exp(-x) may overflow.
    far = largest > 1
    shift = jnp.where(far, largest, 0)
    others = jnp.exp(log_others - shift[:, None])
    gap = distributions.sum_last(distributions.divergence_terms(p[None], others, x))
    excess = jnp.where(far, 0, gap - mean(x))
    near = gap + (jnp.log1p(excess) - excess)
    beyond = mean(x) + shift + distributions.safe_log(distributions.sum_last(others))
    return x - mean(x)[:, None], jnp.where(far, beyond, near)
