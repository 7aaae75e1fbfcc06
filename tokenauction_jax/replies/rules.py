"""Mechanisms on whole replies: who decides which candidate is returned, at what price.

A rule works on *one* auction's ``M`` candidates; `jax.vmap` makes it work on many. The
agents report a reward in money for each candidate, such as `log_ratio_rewards`.
"""

from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, sampling, tilting

# Times what is not finite it is NaN. Of a NaN that `where` chooses, XLA's `exp` makes
# any number on a CPU, whatever is in memory.
_NOTHING = 0.0


@runtime_checkable
class ReplyMechanism(Protocol):
    """Chooses one of the ``M`` candidates of an auction, and charges for it.

    A rule of your own is a class with these methods, decorated with
    `tokenauction_jax.record`; its `name`, if it has one, stands in tables. All of them
    take what the `n` agents report, `rewards` `(n, M)` in money, and `log_weights`
    `(M,)`, by how much the law of the candidates has to be corrected: ``log p_ref(y) -
    log p_gen(y)``, ``-inf`` for a candidate that the reference cannot write. They must
    be traceable by `jax.jit` and `jax.vmap`.
    """

    def log_prob(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Log-probabilities `(M,)` with which each candidate is returned."""
        ...

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_weights: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate, an integer scalar drawn by the law."""
        ...

    def expected(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Mean payments `(n,)`, in money, before a candidate is drawn."""
        ...

    def realized(
        self, rewards: ArrayLike, log_weights: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """Payments `(n,)`, in money, if candidate `reply` was returned."""
        ...


@records.record
class Mosaic:
    """See `mosaic`."""

    tau: records.Number
    name: ClassVar[str] = "mosaic"

    def log_prob(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Log-probabilities `(M,)` with which each candidate is returned."""
        return self._law(rewards, log_weights)[0]

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_weights: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate, exact in the tails."""
        return sampling.sample_token(key, self.log_prob(rewards, log_weights))

    def expected(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Mean payments `(n,)`, at least 0."""
        log_p, tilts = self._law(rewards, log_weights)
        return self.tau * _centred(log_p, tilts)[1]

    def realized(
        self, rewards: ArrayLike, log_weights: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """Payments `(n,)`, of any sign, if candidate `reply` was returned.

        One that is left out has no payments: what it answers then means nothing.
        """
        log_p, tilts = self._law(rewards, log_weights)
        reply = records.check_agent("reply", reply, log_p.shape[0])
        centred, divergence = _centred(log_p, tilts)
        return self.tau * (centred[:, reply] + divergence)

    def _law(
        self, rewards: ArrayLike, log_weights: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities `(M,)`, and each agent's rewards over `tau`, `(n, M)`."""
        rewards, log_weights = _check_candidates(rewards, log_weights)
        if records.is_concrete(log_weights) and np.isneginf(log_weights).all():
            raise ValueError(
                "log_weights is -inf throughout: the reference can write none of the "
                "candidates"
            )
        gains = _gains(rewards, ~jnp.isneginf(log_weights))[0]
        tau = self.tau + _NOTHING * jnp.log(self.tau)
        tilts = gains / tau
        if records.is_concrete(tilts) and not np.isfinite(tilts).all():
            raise ValueError(
                f"tau {self.tau} is too small for these rewards, whose "
                "quotients by it overflow; best_of() is the limit"
            )
        log_weights = log_weights + gains.sum(0) / tau
        return distributions.normalize(log_weights), tilts


@records.record
class BestOf:
    """See `best_of`."""

    name: ClassVar[str] = "best_of"

    def log_prob(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """0 for the candidate that is returned, ``-inf`` for all others, `(M,)`."""
        gains, best = _gains(_check_candidates(rewards, log_weights)[0])
        return _certain(best, gains)

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_weights: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate; the key is not needed."""
        del key
        return _gains(_check_candidates(rewards, log_weights)[0])[1]

    def expected(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Payments `(n,)`, at least 0."""
        gains, _ = _gains(_check_candidates(rewards, log_weights)[0])
        # Nothing is gained together beyond the best, so that what the others gain by
        # another candidate is no more than what the agent would lose: holding to that
        # makes a report of 0 free whatever the rounding.
        return jnp.minimum(distributions.sum_of_others(gains), -gains).max(1)

    def realized(
        self, rewards: ArrayLike, log_weights: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """`expected`: which candidate is returned is certain."""
        records.check_agent("reply", reply, jnp.shape(log_weights)[0])
        return self.expected(rewards, log_weights)


@records.record
class SingleWinner:
    """See `single_winner`."""

    name: ClassVar[str] = "single_winner"

    def log_prob(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """0 for the candidate that is returned, ``-inf`` for all others, `(M,)`."""
        rewards, _ = _check_candidates(rewards, log_weights)
        _, reply = _favourite(rewards)
        return _certain(reply, rewards)

    def sample(
        self, key: jax.Array, rewards: ArrayLike, log_weights: ArrayLike
    ) -> jax.Array:
        """The number of the returned candidate; the key is not needed."""
        del key
        return _favourite(_check_candidates(rewards, log_weights)[0])[1]

    def expected(self, rewards: ArrayLike, log_weights: ArrayLike) -> jax.Array:
        """Payments `(n,)`: the winner's, 0 for all others."""
        rewards, _ = _check_candidates(rewards, log_weights)
        winner, _ = _favourite(rewards)
        wins = jnp.arange(rewards.shape[0]) == winner
        second = jnp.where(wins, -jnp.inf, rewards.max(1)).max()
        # Alone, an agent has nobody to outbid.
        paid = jnp.where(wins & ~jnp.isneginf(second), second, 0)
        return jnp.where(jnp.isnan(rewards).any(), jnp.nan, paid)

    def realized(
        self, rewards: ArrayLike, log_weights: ArrayLike, reply: ArrayLike
    ) -> jax.Array:
        """`expected`: which candidate is returned is certain."""
        records.check_agent("reply", reply, jnp.shape(log_weights)[0])
        return self.expected(rewards, log_weights)


def mosaic(tau: ArrayLike) -> Mosaic:
    """MOSAIC: a reply is drawn by reported welfare, at its Clarke pivots.

    With ``r = sum_i r_i``, ``w`` the `log_weights` and ``LSE`` the log-sum-exp over the
    candidates, the reply is drawn from ``p = softmax(w + r / tau)``, which maximises
    ``sum_j p_j r(y_j) - tau KL(p || softmax(w))``; agent i pays on average

        sum_j p_j r_i(y_j) - tau [LSE(w + r / tau) - LSE(w + r_-i / tau)],

    and ``r_i(y) - tau [...]`` if y was drawn, which may be negative. As
    ``log(p / p_-i)`` is ``r_i / tau`` less that bracket, the mean is
    ``tau KL(p || p_-i)``, where ``p_-i`` is the law without the agent. Truthful reports
    are dominant given the candidates, and nobody is worse off than if it had not taken
    part.

    The rule's methods take `rewards` `(n, M)`, in money, and `log_weights` `(M,)`,
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
      tau: The temperature, in money: the price of a nat of divergence from the
        reference; a leaf.

    Raises:
      ValueError: If `tau` is (as far as it is known) not positive and finite.

    >>> import jax.numpy as jnp
    >>> rule = mosaic(2.0)
    >>> rewards, log_weights = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros(2)
    >>> print(rule.expected(rewards, log_weights).round(3))
    [0.245 0.056]
    """
    number = records.as_number("tau", tau)
    if records.is_concrete(number) and not 0 < float(number) < np.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")
    return Mosaic(number)


def best_of() -> BestOf:
    """Best of M: the candidate of the largest reported welfare, at its Clarke pivots.

    Returns ``y* = argmax_y sum_i r_i(y)``, of ties the first, and charges agent i
    ``max_y r_-i(y) - r_-i(y*)`` (Vickrey, Clarke, Groves). It is the limit of `mosaic`
    as its temperature falls to 0. Its methods take and refuse what those of `mosaic`
    do, and ignore `log_weights`.
    """
    return BestOf()


def single_winner() -> SingleWinner:
    """The agent with the highest reward of any candidate chooses that candidate.

    It pays the second-highest such reward, the highest of the other agents (Vickrey);
    nothing if there is no other agent. Of ties the first agent wins, and returns the
    first of its candidates. Its methods take and refuse what those of `mosaic` do, and
    ignore `log_weights`. For an agent that values what it reports, truth is dominant
    in what its own choice of a reply is worth; what it gains by a reply that another
    chose is not priced.
    """
    return SingleWinner()


def _check_candidates(
    rewards: ArrayLike, log_weights: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Rewards `(n, M)` and log-ratios `(M,)` in one float dtype.

    Rewards are NaN throughout if anything cannot be used.
    """
    rewards, log_weights = base.as_float(rewards), base.as_float(log_weights)
    records.check_shape("rewards", rewards, (None, None))
    if 0 in rewards.shape:
        raise ValueError(
            f"rewards has shape {rewards.shape}, expected at least one agent and one "
            "candidate"
        )
    records.check_shape("log_weights", log_weights, rewards.shape[1:])
    # By NumPy: within `jax.jit` what JAX says even of known numbers is not known.
    if records.is_concrete(rewards) and not np.isfinite(rewards).all():
        agent, reply = np.argwhere(~np.isfinite(rewards))[0].tolist()
        raise ValueError(
            f"rewards must be finite, got {rewards[agent, reply]} of agent {agent} for "
            f"candidate {reply}"
        )
    if records.is_concrete(log_weights):
        wrong = ~(np.asarray(log_weights) < np.inf)
        if wrong.any():
            found = np.asarray(log_weights)[wrong][0]
            raise ValueError(f"log_weights must be finite or -inf, got {found}")
    dtype = jnp.result_type(rewards, log_weights)
    weights = jnp.where(jnp.isneginf(log_weights), 0, log_weights)
    unusable = (_NOTHING * rewards).sum() + (_NOTHING * weights).sum()
    return (rewards + unusable).astype(dtype), log_weights.astype(dtype)


def _gains(
    rewards: jax.Array, possible: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """What agents gain by each candidate over the best, `(n, M)`, and which that is.

    All that matters of rewards are such differences, and what is common to all
    candidates would take their digits. 0, as of the best, for those that are not
    `possible` `(M,)`; None if all are.
    """
    if possible is None:
        possible = jnp.ones(rewards.shape[1], bool)
    best = jnp.argmax(jnp.where(possible, rewards.sum(0), -jnp.inf)).astype(jnp.int32)
    gains = rewards - rewards[:, best][:, None]
    return jnp.where(possible[None], gains, 0), best


def _favourite(rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The agent with the highest reward of any candidate, and that candidate."""
    winner = jnp.argmax(rewards.max(1))
    return winner, jnp.argmax(rewards[winner]).astype(jnp.int32)


def _certain(reply: jax.Array, rewards: jax.Array) -> jax.Array:
    """Log-probabilities `(M,)` of a choice that is certain, NaN if it is undefined."""
    is_reply = jnp.arange(rewards.shape[1]) == reply
    law = jnp.where(is_reply, 0, jnp.full_like(rewards[0], -jnp.inf))
    return law + (_NOTHING * rewards).sum()


def _centred(log_p: jax.Array, tilts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tilts less their means over p, `(n, M)`, and ``KL(p || p_-i)`` `(n,)`.

    Without agent i the law is ``p exp(-x)``, but for a factor, where x is the agent's
    tilt.
    """
    p = jnp.exp(log_p)
    # Twice: where one candidate has nearly all of p, only differences to its tilt
    # matter, and their mean is far smaller than it.
    x = tilts - lax.stop_gradient(tilting.mean(p, tilts))[:, None]
    x = x - tilting.mean(p, x)[:, None]
    possible = (log_p > -jnp.inf)[None]
    tilted = jnp.where(possible, x, tilting.NEVER)
    log_r = jnp.where(possible, log_p[None] - x, -tilting.NEVER)
    return x, tilting.divergence(p, log_p, log_r, tilted)
