"""What is optimised: the worth of a text, in money, to an agent or to everybody.

An objective adds up the worth of each token before it is drawn, and perhaps a reward
for the finished text. Sums and multiples of objectives are objectives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.optimum import welfare as welfare_of

# Scores finished texts, tokens (A, T) and mask (A, T), with money (A,).
Reward = Callable[[jax.Array, jax.Array], jax.Array]


@records.record
class Outcome:
    """One auction of one token, before it is drawn.

    Attributes:
      bids: `(n,)`.
      values: `(n,)`, the agents' true values, money per unit of valuation.
      log_probs: `(n, V)`.
      log_q: `(V,)`, of the aggregate.
      expected_payments: `(n,)`, in money.
    """

    bids: jax.Array
    values: jax.Array
    log_probs: jax.Array
    log_q: jax.Array
    expected_payments: jax.Array


class Objective:
    """The worth of a text; one of your own is a `record` that inherits from this.

    It has `per_token`, `per_text`, or both, which are traced, and can do all that a
    built-in objective can.
    """

    def per_token(self, outcome: Outcome) -> ArrayLike:
        """Worth of one token of one auction, a scalar in money; 0 unless defined."""
        del outcome
        return 0.0

    def per_text(self, tokens: jax.Array, mask: jax.Array) -> jax.Array | None:
        """Worth `(A,)` of texts `(A, T)` once they are finished; None for nothing.

        Args:
          tokens: 0 after the end of a text.
          mask: True up to and including the end token.
        """
        del tokens, mask
        return None

    def __add__(self, other: "Objective") -> "Objective":
        if not isinstance(other, Objective):
            return NotImplemented
        return Combination(_terms(self) + _terms(other), _factors(self, other))

    def __mul__(self, factor: ArrayLike) -> "Objective":
        if isinstance(factor, Objective):
            return NotImplemented
        number = records.as_number("the multiple of an objective", factor)
        return Combination(_terms(self), tuple(number * x for x in _factors(self)))

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return -1.0 * self

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other


@records.record
class Combination(Objective):
    """A weighted sum of objectives, as ``+`` and ``*`` make it."""

    terms: tuple[Objective, ...]
    factors: tuple[records.Number, ...]

    def per_token(self, outcome: Outcome) -> jax.Array:
        """The weighted sum."""
        worths = [
            _multiple(factor, jnp.asarray(term.per_token(outcome)))
            for term, factor in zip(self.terms, self.factors, strict=True)
        ]
        return sum(worths[1:], worths[0])

    def per_text(self, tokens: jax.Array, mask: jax.Array) -> jax.Array | None:
        """The weighted sum of what terms reward texts."""
        rewards = [term.per_text(tokens, mask) for term in self.terms]
        worths = [
            _multiple(factor, reward)
            for factor, reward in zip(self.factors, rewards, strict=True)
            if reward is not None
        ]
        return sum(worths[1:], worths[0]) if worths else None


@records.record
class Utility(Objective):
    """See `utility`."""

    agent: ArrayLike
    valuation: base.Valuation

    def per_token(self, outcome: Outcome) -> jax.Array:
        """``w_i v_i(q) - E[zeta_i]``."""
        own = _pick(outcome.log_probs, self.agent)[None]
        amount = _pick(outcome.values, self.agent)[None]
        worth = welfare_of(self.valuation, amount, outcome.log_q, own)
        return worth - _pick(outcome.expected_payments, self.agent)


@records.record
class Welfare(Objective):
    """See `welfare`."""

    valuation: base.Valuation

    def per_token(self, outcome: Outcome) -> jax.Array:
        """``sum_i w_i v_i(q)``."""
        return welfare_of(
            self.valuation, outcome.values, outcome.log_q, outcome.log_probs
        )


@records.record
class Revenue(Objective):
    """See `revenue`."""

    def per_token(self, outcome: Outcome) -> jax.Array:
        """``sum_i E[zeta_i]``."""
        return outcome.expected_payments.sum()


@records.record
class TextReward(Objective):
    """See `text_reward`."""

    agent: ArrayLike
    reward: Reward

    def per_token(self, outcome: Outcome) -> jax.Array:
        """``-E[zeta_i]``."""
        return -_pick(outcome.expected_payments, self.agent)

    def per_text(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """The reward."""
        worth = jnp.asarray(self.reward(tokens, mask))
        records.check_shape("reward(tokens, mask)", worth, tokens.shape[:1])
        return worth.astype(jnp.promote_types(worth.dtype, jnp.float32))


def utility(agent: ArrayLike, valuation: base.Valuation) -> Utility:
    """What an agent gains, ``sum_t w_i v_i(q_t) - E[zeta_i | x_<t]``.

    Args:
      agent: ``i``, the number of the agent.
      valuation: What it likes, in units of ``values[i]``.

    Raises:
      ValueError: If the agent is no whole number or the valuation is none.
    """
    records.check_rule("valuation", valuation, base.Valuation)
    return Utility(records.check_agent("agent", agent), valuation)


def welfare(valuation: base.Valuation) -> Welfare:
    """What the text is worth to all agents, ``sum_t sum_i w_i v_i(q_t)``.

    Payments only change hands and do not count.

    Args:
      valuation: What the agents like, in units of `values`.

    Raises:
      ValueError: If the valuation is none.
    """
    records.check_rule("valuation", valuation, base.Valuation)
    return Welfare(valuation)


def revenue() -> Revenue:
    """What the agents pay, ``sum_t sum_i E[zeta_i | x_<t]``."""
    return Revenue()


def text_reward(agent: ArrayLike, reward: Reward) -> TextReward:
    """What a finished text is worth to an agent, less what it pays for it.

    Args:
      agent: ``i``, the number of the agent, which pays.
      reward: Called as ``reward(tokens, mask)`` with all texts `(A, T)`, inside a
        compiled program, it answers money `(A,)`. A callable pytree
        (`jax.tree_util.Partial`) may carry numbers as leaves.

    Raises:
      ValueError: If the agent is no whole number or the reward cannot be called.

    >>> import jax.numpy as jnp
    >>> brand = text_reward(0, lambda tokens, mask: 5.0 * (tokens == 3).any(axis=1))
    >>> objective = brand + 0.1 * revenue()
    """
    if not callable(reward):
        raise ValueError(f"reward must be a function of (tokens, mask), got {reward!r}")
    if jax.tree_util.all_leaves([reward]):
        reward = jax.tree_util.Partial(reward)
    return TextReward(records.check_agent("agent", agent), reward)


def check_objective(objective: Objective, num_agents: int) -> None:
    """Raises `ValueError` if it is none, or is about an agent that there is not."""
    if not isinstance(objective, Objective):
        raise ValueError(f"objective must be an Objective, got {objective!r}")
    for term in _terms(objective):
        if isinstance(term, Utility | TextReward):
            records.check_agent("agent", term.agent, num_agents)


def has_reward(objective: Objective, num_tokens: int = 1) -> bool:
    """Whether finished texts are worth something, besides their tokens."""
    tokens = jax.ShapeDtypeStruct((1, num_tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, num_tokens), bool)
    return any(
        # A reward is not asked: it may have amounts for each of more auctions.
        isinstance(term, TextReward)
        or jax.eval_shape(term.per_text, tokens, mask) is not None
        for term in _terms(objective)
    )


def _pick(x: jax.Array, agent: ArrayLike) -> jax.Array:
    """``x[agent]``, several times faster where the agent is traced: no gather."""
    own = jnp.arange(x.shape[0]) == agent
    return jnp.where(own.reshape(-1, *[1] * (x.ndim - 1)), x, 0).sum(axis=0)


def _multiple(factor: records.Number, worth: jax.Array) -> jax.Array:
    """``factor * worth``, where nothing of what is infinite is nothing."""
    counted = (jnp.asarray(factor) != 0) | jnp.isfinite(worth)
    return factor * jnp.where(counted, worth, 0)


def _terms(objective: Objective) -> tuple[Objective, ...]:
    return objective.terms if isinstance(objective, Combination) else (objective,)


def _factors(*objectives: Objective) -> tuple[records.Number, ...]:
    return tuple(
        factor
        for objective in objectives
        for factor in (
            objective.factors if isinstance(objective, Combination) else (1.0,)
        )
    )
