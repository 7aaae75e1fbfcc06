"""Strategies beyond the bid: false distributions, false names, and rings.

Truthful bids are best for an agent that submits what it prefers, under one name, alone.
A strategy says what is submitted and bid instead; `strategy_gain` says what that earns
at one token, and `with_strategy` runs it over whole texts.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.wrapped import WrappedPool
from tokenauction_jax.bidding.policies import check_number
from tokenauction_jax.mechanism import base, distributions


class Strategy(Protocol):
    """What some of ``n`` owners submit and bid, by way of ``m`` agents."""

    def owners(self, num_owners: int) -> tuple[int, ...]:
        """Whose each of the ``m`` agents is; the first ``n`` are one each."""
        ...

    def submit(self, log_probs: jax.Array) -> jax.Array:
        """`(m, V)`, of the distributions `(n, V)` that the owners prefer."""
        ...

    def bids(self, bids: jax.Array) -> jax.Array:
        """`(m,)`, of the bids `(n,)` of owners that hide nothing."""
        ...


@records.record
class Misreport:
    """See `misreport`."""

    temperature: records.Number
    shift: jax.Array
    agent: int = records.static_field()

    def owners(self, num_owners: int) -> tuple[int, ...]:
        """One agent each."""
        return tuple(range(num_owners))

    def submit(self, log_probs: jax.Array) -> jax.Array:
        """All but one submit what they prefer."""
        told = log_probs[self.agent] / self.temperature + self.shift
        return log_probs.at[self.agent].set(distributions.normalize(told))

    def bids(self, bids: jax.Array) -> jax.Array:
        """As before."""
        return bids


@records.record
class Split:
    """See `split`."""

    agent: int = records.static_field()
    parts: int = records.static_field()

    def owners(self, num_owners: int) -> tuple[int, ...]:
        """The further agents come last."""
        return (*range(num_owners), *[self.agent] * (self.parts - 1))

    def submit(self, log_probs: jax.Array) -> jax.Array:
        """All of the owner's agents want the same."""
        return log_probs[np.array(self.owners(log_probs.shape[0]))]

    def bids(self, bids: jax.Array) -> jax.Array:
        """Each of its agents bids an equal part."""
        shared = bids.at[self.agent].divide(self.parts)
        return shared[np.array(self.owners(bids.shape[0]))]


@records.record
class Ring:
    """See `ring`."""

    aggregation: base.Aggregation
    weight: records.Number
    agents: tuple[int, int] = records.static_field()

    def owners(self, num_owners: int) -> tuple[int, ...]:
        """One agent each."""
        return tuple(range(num_owners))

    def submit(self, log_probs: jax.Array) -> jax.Array:
        """Both submit the mixture."""
        pair = np.array(self.agents)
        weight = jnp.asarray(self.weight, log_probs.dtype)
        weights = jnp.stack([weight, 1 - weight])
        told = self.aggregation.log_prob(weights, log_probs[pair])
        return log_probs.at[pair].set(told[None])

    def bids(self, bids: jax.Array) -> jax.Array:
        """As before."""
        return bids


@records.record
class StrategicPool(WrappedPool):
    """See `with_strategy`."""

    pool: AgentPool
    strategy: Any
    reveal: bool = records.static_field()

    @property
    def num_agents(self) -> int:
        """``m``, and ``n`` more that show what the owners prefer."""
        owners = self.pool.num_agents
        return len(self.strategy.owners(owners)) + owners * self.reveal

    def step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """What is submitted, then what is preferred if that is revealed."""
        state, log_probs = self.pool.step(state, tokens)
        told = jax.vmap(self.strategy.submit)(log_probs)
        if self.reveal:
            told = jnp.concatenate([told, log_probs], axis=1)
        return state, told


def misreport(
    agent: int, *, temperature: ArrayLike = 1.0, shift: ArrayLike = 0.0
) -> Misreport:
    """One agent submits ``p^(1 / temperature) exp(shift)``, normalised, for its ``p``.

    Args:
      agent: Which.
      temperature: Below 1 it exaggerates what it wants, above 1 it hedges.
      shift: Added to its log-probabilities, `(V,)` or a scalar; finite.

    Raises:
      ValueError: If a number is out of range.
    """
    agent = records.check_integer("agent", agent, 0)
    temperature = check_number("temperature", temperature, base.SMALLEST_BID)
    shift = base.as_float(shift)
    if shift.ndim > 1:
        raise ValueError(f"shift has shape {shift.shape}, expected (V,) or ()")
    if records.is_concrete(shift) and not np.isfinite(shift).all():
        raise ValueError(
            "shift must be finite: an agent cannot be made to veto a token"
        )
    return Misreport(temperature, shift, agent)


def split(agent: int, parts: int) -> Split:
    """One owner bids under several names (Sybils), an equal part of its bid under each.

    Args:
      agent: Which.
      parts: How many agents it has in all, at least 2; the further ones come last.

    Raises:
      ValueError: If a number is out of range.
    """
    agent = records.check_integer("agent", agent, 0)
    return Split(agent, records.check_integer("parts", parts, 2))


def ring(
    first: int, second: int, *, aggregation: base.Aggregation, weight: ArrayLike
) -> Ring:
    """Two agents collude: both submit the mixture of what they want.

    Under `linear` and `log_linear` of influence 1, ``weight = b_first / (b_first +
    b_second)`` leaves the text what it was, but neither pays any longer for moving it
    away from the other.

    Args:
      first: One of them.
      second: The other.
      aggregation: How they mix, usually the rule of the auction.
      weight: Of the first one's distribution, from 0 to 1.

    Raises:
      ValueError: If a number is out of range, or both are the same.
    """
    first = records.check_integer("first", first, 0)
    second = records.check_integer("second", second, 0)
    if first == second:
        raise ValueError(f"second must be another agent than first, got {second} twice")
    records.check_rule("aggregation", aggregation, base.Aggregation)
    return Ring(aggregation, check_number("weight", weight, 0, 1), (first, second))


def with_strategy(
    pool: AgentPool, strategy: Strategy, *, reveal: bool = False
) -> StrategicPool:
    """A pool whose agents submit what a strategy says.

    Args:
      pool: The owners and what they prefer.
      strategy: What they submit; their bids are ``strategy.bids(bids)``.
      reveal: Whether ``n`` more agents show what the owners prefer, for observers that
        measure it. They must bid 0, and so take no part.
    """
    return StrategicPool(pool, strategy, reveal)


def strategy_gain(
    mechanism: base.Mechanism,
    valuation: base.Valuation,
    strategy: Strategy,
    bids: ArrayLike,
    log_probs: ArrayLike,
    *,
    values: ArrayLike,
) -> jax.Array:
    """What a strategy adds to each owner's mean utility at one token, exactly.

    Utility is ``w_i v(q, p_i)`` of what the owner prefers, whatever is submitted, less
    the mean payments of its agents. A ring divides the sum of its two gains.

    Args:
      mechanism: The rules.
      valuation: The owners' valuation.
      strategy: The strategy.
      bids: `(n,)`, the owners' bids without it.
      log_probs: `(n, V)`, what they prefer.
      values: `(n,)`, ``w``.

    Returns:
      Money per token, `(n,)`. Of one auction: `vmap` for more.
    """
    bids, log_probs = base.check_auction(bids, log_probs)
    values = jnp.asarray(values, bids.dtype)
    owners = np.array(strategy.owners(bids.shape[0]))

    def utilities(bids: jax.Array, told: jax.Array, owners: np.ndarray) -> jax.Array:
        log_q = mechanism.aggregation.log_prob(bids, told)
        worth = jax.vmap(valuation.value, (None, 0))(log_q, log_probs)
        paid = mechanism.payment.expected(bids, told)
        return values * worth - jnp.zeros_like(values).at[owners].add(paid)

    honest = utilities(bids, log_probs, np.arange(bids.shape[0]))
    return utilities(strategy.bids(bids), strategy.submit(log_probs), owners) - honest
