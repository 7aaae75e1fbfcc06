"""Steps towards bids that are best responses to each other."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import responses, search
from tokenauction_jax.bidding.deviations import own_slopes, with_policies
from tokenauction_jax.bidding.position import Position, first_position
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.bidding.responses import Aims
from tokenauction_jax.bidding.training import Trainable, Training, make_training
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import LARGEST_BID, SMALLEST_BID, Mechanism
from tokenauction_jax.simulation import Bidders

DYNAMICS = ("mixed", "alternating", "simultaneous", "averaged")
# Steps of mixed dynamics that are taken all at once.
_TOGETHER = 40
# By how much the share of the way that an agent goes recovers in a step. One after the
# other, all of 200 contests of 2 to 12 agents with log-normal values came to rest, and
# 197 all at once.
_GROWTH, _GROWTH_AT_ONCE = 1.3, 1.05
# Agents that had better stay out do so below this share of the largest bid.
_OUT = 1e-4


@records.record
class Dynamics:
    """Steps towards an equilibrium; see `equilibrium`.

    Attributes:
      problem: On whose auctions the steps are found; its objective does not matter.
      aims: What the agents want.
      name: One of `DYNAMICS`.
      optimizer: What follows the derivatives; None for best responses.
    """

    problem: Problem
    aims: Aims
    name: str = records.static_field()
    optimizer: optax.GradientTransformation | None = records.static_field()

    def start(self) -> Position:
        """Before the first step, at the bids of the problem."""
        rows = self.problem.numbers.bids / self.problem.unit
        bids = rows.mean(axis=0)
        memory: Any = jnp.ones_like(bids), jnp.zeros_like(bids)
        if self.optimizer is not None:
            memory = self.optimizer.init(bids)
        return first_position(bids, memory, bids.dtype)

    def step(self, position: Position) -> Position:
        """After one more step."""
        bids = position.bids
        if self.optimizer is None:
            found, memory, unfit = _respond(self, position)
        else:
            slopes, unfit = _own_slopes(self.problem, self.aims, bids)
            updates, memory = self.optimizer.update(-slopes, position.memory, bids)
            found = jnp.asarray(optax.apply_updates(bids, updates))
            found = jnp.clip(found, 0, LARGEST_BID)
            found = jnp.where(found < SMALLEST_BID, 0, found)
        moved = jnp.abs(found - bids).max() / jnp.maximum(found.max(), SMALLEST_BID)
        return position.after(found, moved, memory, unfit)


def make_dynamics(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None,
    start: ArrayLike | Bidders | None,
    name: str,
    optimizer: optax.GradientTransformation | None,
    first_auction: ArrayLike,
    unit: ArrayLike,
    trainable: Trainable | None = None,
) -> tuple[Dynamics | Training, Problem]:
    """What `equilibrium` does, step by step, and fresh auctions to measure it on.

    Raises:
      ValueError: If a shape or a number is wrong.
    """
    if name not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {name!r}")
    amounts = base.as_float(values)
    if start is None:
        worth = jnp.divide(*jnp.broadcast_arrays(amounts, base.as_float(unit)))
        mean = worth if worth.ndim == 1 else worth.mean(axis=0)
        # An agent of value 0 has to get a chance to leave.
        start = jnp.maximum(mean / 2, 1e-3 * mean.max())
    problem = check_problem(
        *(key, mechanism, pool, start, responses.aim(valuation, 0), amounts),
        *(num_tokens, num_auctions, first_auction),
    )
    problem = responses.in_units(problem, unit)
    first, fresh = search.split(problem)
    aims = responses.as_tree(valuation)
    if isinstance(start, Bidders):
        return make_training(first, aims, trainable, optimizer), fresh
    return Dynamics(first, aims, name, optimizer), fresh


def _respond(
    dynamics: Dynamics, position: Position
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
    """Bids `(n,)` after one step towards best responses.

    Each agent goes a share of the way, which its memory holds with the last way that it
    wanted to go: where it turns round the share is halved, or the bids of unequal
    agents would circle for ever.
    """
    name, before = dynamics.name, position.bids
    at_once = position.step < _TOGETHER if name == "mixed" else name != "alternating"

    def turn(bids: jax.Array, agent: jax.Array) -> tuple[jax.Array, Any]:
        seen = jnp.where(at_once, before, bids)
        problem = with_bids(dynamics.problem, seen)
        aimed = responses.aimed(problem, dynamics.aims, agent)
        found = search.best_bid(aimed, agent)
        way = found.bid - seen[agent]
        share = 1 / (position.step + 1).astype(way.dtype)
        if name != "averaged":
            last_share, last_way = (x[agent] for x in position.memory)
            growth = jnp.where(at_once, _GROWTH_AT_ONCE, _GROWTH)
            share = jnp.minimum(growth * last_share, 1)
            share = jnp.where(way * last_way < 0, last_share / 2, share)
        bid = seen[agent] + share * way
        # Parts of the way never lead out of the auction.
        leaves = (found.bid == 0) & (bid < _OUT * seen.max())
        memory = share, way, found.payoffs.unfit.max()
        return bids.at[agent].set(jnp.where(leaves, 0, bid)), memory

    bids, (*memory, unfit) = jax.lax.scan(turn, before, jnp.arange(before.size))
    return bids, tuple(memory), unfit.max()


def _own_slopes(
    problem: Problem, aims: Aims, bids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The derivative `(n,)` of each agent's payoff in its own bid; unfit rewards."""

    def own(agent: jax.Array) -> tuple[jax.Array, jax.Array]:
        aimed = responses.aimed(with_bids(problem, bids), aims, agent)
        texts, slopes = own_slopes(aimed, agent)
        return slopes.mean(), (~jnp.isfinite(texts.reward)).sum()

    slopes, unfit = jax.lax.map(own, jnp.arange(bids.size))
    return slopes, unfit.max()


def with_bids(problem: Problem, bids: Any) -> Problem:
    """The problem with bids `(n,)`, in its units, in all auctions, or with policies."""
    if isinstance(problem.numbers.bids, Bidders):
        return with_policies(problem, bids)
    return problem.with_numbers(bids=bids[None] * problem.unit)
