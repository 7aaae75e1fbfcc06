"""Bids at which no agent gains by another one: Nash equilibria in scalar bids."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import gradients, responses
from tokenauction_jax.bidding.gradients import Problem, check_problem
from tokenauction_jax.bidding.responses import Aims, EquilibriumGap
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import LARGEST_BID, SMALLEST_BID, Mechanism

DYNAMICS = ("mixed", "alternating", "simultaneous", "averaged")
# Steps of mixed dynamics that are taken all at once.
_TOGETHER = 40
# By how much the share of the way that an agent goes recovers in a step. One after the
# other, all of 200 contests of 2 to 12 agents with log-normal values came to rest, and
# 197 all at once.
_GROWTH, _GROWTH_AT_ONCE = 1.3, 1.05
# Bids that move by less, relative to the largest, have come to rest.
_AT_REST = 1e-6
# Agents that had better stay out do so below this share of the largest bid.
_OUT = 1e-4
# Of a measured gap, the two-sided 95 % quantile of its error.
_SURE = 1.96


@records.record
class Equilibrium:
    """Where bids came to rest, and how far from an equilibrium that is.

    Attributes:
      bids: `(n,)`, money per unit of value; 0 for agents that stay out.
      gap: The sum of what agents would gain by deviating, money per text, as
        `equilibrium_gap` measures it, on auctions that had no part in the search.
      gap_error: Its standard error.
      gains: `(n,)`, the gain of each agent.
      converged: Whether the gap and 1.96 standard errors more are within the tolerance.
      num_steps: How many steps were taken.
      history: `(num_steps, n)`, bids after each step; those of the last one are
        repeated.
    """

    bids: jax.Array
    gap: jax.Array
    gap_error: jax.Array
    gains: jax.Array
    converged: jax.Array
    num_steps: jax.Array
    history: jax.Array


def equilibrium(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    start: ArrayLike | None = None,
    dynamics: str = "mixed",
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 200,
    tolerance: ArrayLike = 1e-4,
    first_auction: ArrayLike = 0,
) -> Equilibrium:
    """Bids that are best responses to each other, if these dynamics find some.

    Every step goes towards best responses, found as in `best_response` on the same
    auctions throughout, and only part of the way once an agent turns round:
    ``"alternating"``, one agent after the other; ``"simultaneous"``, all at once, which
    keeps alike agents alike; ``"mixed"``, the second for 40 steps, and then the first,
    which comes to rest more often; ``"averaged"``, all at once, ``1 / k`` of the way in
    step k (fictitious play). With an `optimizer` every step instead follows the
    derivatives of each agent's payoff in its own bid, all at once; bids that would fall
    below 0 are 0. Payoffs need not be concave: a fixed point of an optimizer may be a
    local maximum, which the gap then tells.

    It can be `vmap`ped over values and starts. With one token and deterministic agents
    nothing is sampled.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      values: True values, `(n,)` or `(A, n)`.
      valuation: As in `best_response`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      start: Bids to start from, `(n,)`; half of the (mean) values if None.
      dynamics: One of the above.
      optimizer: From optax; None for best responses.
      num_steps: The most steps; fewer if bids come to rest.
      tolerance: The gap, money per text, up to which this is called an equilibrium.
      first_auction: The number of the first auction.

    Returns:
      An `Equilibrium`; look at `converged`.

    Raises:
      ValueError: If a shape or a number is wrong.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> found = ta.bidding.equilibrium(
    ...     jax.random.key(0), ta.Mechanism(ta.linear(), ta.pay_your_bid()), pool,
    ...     values=[2.0, 1.0], valuation=ta.total_variation(), num_tokens=1)
    >>> print(*(f"{bid:.4f}" for bid in found.bids), found.converged)
    0.4444 0.2222 True
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {dynamics!r}")
    num_steps = records.check_integer("num_steps", num_steps, 1)
    amounts = base.as_float(values)
    if start is None:
        mean = amounts if amounts.ndim == 1 else amounts.mean(axis=0)
        # An agent of value 0 has to get a chance to leave.
        start = jnp.maximum(mean / 2, 1e-3 * mean.max())
    problem = check_problem(
        *(key, mechanism, pool, start, responses.aim(valuation, 0), amounts),
        *(num_tokens, num_auctions, first_auction),
    )
    aims = responses.as_tree(valuation)
    return _equilibrium(problem, aims, tolerance, dynamics, optimizer, num_steps)


@functools.partial(jax.jit, static_argnames=("dynamics", "optimizer", "num_steps"))
def _equilibrium(
    problem: Problem,
    aims: Aims,
    tolerance: ArrayLike,
    dynamics: str,
    optimizer: optax.GradientTransformation | None,
    num_steps: int,
) -> Equilibrium:
    search, fresh = responses.split(problem)
    start = problem.numbers.bids.mean(axis=0)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        bids, step, state, _, history = carry
        if optimizer is None:
            found, state = _respond(search, aims, bids, dynamics, step, state)
        else:
            slopes = _own_slopes(search, aims, bids)
            updates, state = optimizer.update(-slopes, state, bids)
            found = jnp.asarray(optax.apply_updates(bids, updates))
            found = jnp.clip(found, 0, LARGEST_BID)
            found = jnp.where(found < SMALLEST_BID, 0, found)
        moved = jnp.abs(found - bids).max() / jnp.maximum(found.max(), SMALLEST_BID)
        return found, step + 1, state, moved, history.at[step].set(found)

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, step, _, moved, _ = carry
        return (step < num_steps) & (moved > _AT_REST)

    calm = jnp.ones_like(start), jnp.zeros_like(start)
    state = calm if optimizer is None else optimizer.init(start)
    history = jnp.zeros((num_steps, start.size), start.dtype)
    carry = (start, 0, state, jnp.full((), jnp.inf, start.dtype), history)
    bids, steps, _, _, history = jax.lax.while_loop(unfinished, advance, carry)
    gap: EquilibriumGap = responses.measure_gap(_bid(fresh, bids), aims)
    past = jnp.arange(num_steps)[:, None] >= steps
    return Equilibrium(
        bids=bids,
        gap=gap.gap,
        gap_error=gap.gap_error,
        gains=gap.gains,
        converged=gap.gap + _SURE * gap.gap_error <= tolerance,
        num_steps=steps,
        history=jnp.where(past, bids[None], history),
    )


def _respond(
    problem: Problem,
    aims: Aims,
    bids: jax.Array,
    dynamics: str,
    step: jax.Array,
    state: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Bids `(n,)` after one step towards best responses.

    Each agent goes a share of the way, which its state holds with the last way that it
    wanted to go: where it turns round the share is halved, or the bids of unequal
    agents would circle for ever.
    """
    before = bids
    at_once = step < _TOGETHER if dynamics == "mixed" else dynamics != "alternating"

    def turn(bids: jax.Array, agent: jax.Array) -> tuple[jax.Array, Any]:
        seen = jnp.where(at_once, before, bids)
        aimed = responses.aimed(_bid(problem, seen), aims, agent)
        best = responses.best_bid(aimed, agent).bid
        way = best - seen[agent]
        share = 1 / (step + 1).astype(way.dtype)
        if dynamics != "averaged":
            last_share, last_way = state[0][agent], state[1][agent]
            growth = jnp.where(at_once, _GROWTH_AT_ONCE, _GROWTH)
            share = jnp.minimum(growth * last_share, 1)
            share = jnp.where(way * last_way < 0, last_share / 2, share)
        bid = seen[agent] + share * way
        # Parts of the way never lead out of the auction.
        leaves = (best == 0) & (bid < _OUT * seen.max())
        return bids.at[agent].set(jnp.where(leaves, 0, bid)), (share, way)

    return jax.lax.scan(turn, bids, jnp.arange(bids.size))


def _own_slopes(problem: Problem, aims: Aims, bids: jax.Array) -> jax.Array:
    """The derivative `(n,)` of each agent's payoff in its own bid."""

    def own(agent: jax.Array) -> jax.Array:
        aimed = responses.aimed(_bid(problem, bids), aims, agent)
        varies = gradients.of_bids(aimed)
        _, (slopes,) = gradients.slopes(aimed, "score_function", varies)
        return slopes[:, agent].mean()

    return jax.lax.map(own, jnp.arange(bids.size))


def _bid(problem: Problem, bids: jax.Array) -> Problem:
    """The problem with these bids `(n,)` in all auctions."""
    return problem.with_numbers(bids=jnp.broadcast_to(bids, problem.numbers.bids.shape))
