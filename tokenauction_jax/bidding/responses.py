"""Best responses to the others' bids, and how far bids are from an equilibrium."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import gradients
from tokenauction_jax.bidding.gradients import mean_and_error
from tokenauction_jax.bidding.objectives import Objective, utility
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.bidding.search import Payoffs, Search, check_payoffs, respond
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import (
    LARGEST_BID,
    SMALLEST_BID,
    Mechanism,
    Valuation,
)
from tokenauction_jax.simulation import Bidders

# What each agent wants: a valuation of its utility, or its objective by its number.
Aims = Valuation | Callable[[ArrayLike], Objective]


@records.record
class BestResponse:
    """The best bid of one agent against the others.

    Attributes:
      bid: Money per unit of value; the present bid where none is better. Of an agent
        that follows a policy the best constant one, better or not.
      gain: What changing to it gains, money per text, on auctions that had no part in
        the search.
      gain_error: Its standard error.
      grid: `(k,)`, bids that were tried, from 0 on.
      payoffs: `(k,)`, worth of the text at these bids in the search, money per text.
      payoff_errors: `(k,)`, their standard errors.
      undefined: `(k,)`, how many auctions became undefined at these bids; they count
        with what came before, which may flatter a bid.
    """

    bid: jax.Array
    gain: jax.Array
    gain_error: jax.Array
    grid: jax.Array
    payoffs: jax.Array
    payoff_errors: jax.Array
    undefined: jax.Array


@records.record
class EquilibriumGap:
    """How much the agents would gain by deviating, one at a time (NashConv).

    Attributes:
      gap: The sum of the gains, money per text: 0 in an equilibrium. That of sampled
        texts may be below 0 by chance.
      gap_error: Its standard error.
      gains: `(n,)`, of each agent.
      gain_errors: `(n,)`, their standard errors.
      best_bids: `(n,)`, the best responses.
      undefined: How many auctions become undefined at the bids.
    """

    gap: jax.Array
    gap_error: jax.Array
    gains: jax.Array
    gain_errors: jax.Array
    best_bids: jax.Array
    undefined: jax.Array


def best_response(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
    agent: ArrayLike,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    unit: ArrayLike = 1.0,
) -> BestResponse:
    """The bid that pays an agent most, the others' bids given.

    Payoffs of 96 bids over all relevant orders of magnitude, and of 0, are compared
    with common random numbers, and the best three brackets searched for the zero of the
    derivative. With one token and deterministic agents nothing is sampled, the bid is
    right to 1e-5 and the error 0.

    Against policies it is the best *constant* bid, for every token and within the
    agent's budget, while the others follow theirs, and the gain is that over the
    agent's own policy, 0 if that is as good. A better policy may exist.

    Args:
      key: A typed PRNG key. Search and gain use different auctions.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: `(n,)`, or `(A, n)` where the others' bids differ from auction to auction:
        the response is to their law (ex interim). Or `Bidders`.
      agent: The number of the agent.
      values: True values, `(n,)` or `(A, n)`.
      valuation: What the agent's utility is made of; or a function from the number of
        an agent to its objective, such as ``lambda agent: text_reward(agent, reward)``.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      first_auction: The number of the first auction.
      unit: What bids are multiples of, in money, broadcast to `(A, n)`: given the
        `values`, a bid is the factor by which an agent shades its values.

    Raises:
      ValueError: If a shape or a number is wrong.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> mechanism = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    >>> found = ta.bidding.best_response(
    ...     jax.random.key(0), mechanism, pool, [1.0, 1.0], 0, values=[4.0, 1.0],
    ...     valuation=ta.total_variation(), num_tokens=1)
    >>> print(found.bid.round(4), found.gain.round(4))
    1.0 0.0
    """
    agent = records.check_agent("agent", agent, pool.num_agents)
    problem = check_problem(
        *(key, mechanism, pool, bids, aim(valuation, agent), values),
        *(num_tokens, num_auctions, first_auction),
    )
    problem = in_units(problem, unit)
    gradients.check_policies(problem)
    found, gains = respond(problem, agent)
    check_payoffs(found.payoffs)
    gain, error = mean_and_error(gains, problem.certain)
    return BestResponse(
        bid=found.bid,
        gain=gain,
        gain_error=error,
        grid=found.grid,
        payoffs=found.payoffs.mean,
        payoff_errors=found.payoffs.error,
        undefined=found.payoffs.undefined,
    )


def equilibrium_gap(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    unit: ArrayLike = 1.0,
) -> EquilibriumGap:
    """The sum over agents of what the best unilateral deviation gains (NashConv).

    Each deviation is found on some auctions and measured on others, so that the gap is
    that of bids which exist, not of luck. From policies agents deviate to constant bids
    within their budgets: a gap of 0 is one in these deviations only.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: `(n,)` or `(A, n)`, or `Bidders`.
      values: True values, `(n,)` or `(A, n)`.
      valuation: As in `best_response`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      first_auction: The number of the first auction.
      unit: What bids are multiples of, in money, broadcast to `(A, n)`: given the
        `values`, a bid is the factor by which an agent shades its values.

    Raises:
      ValueError: If a shape or a number is wrong.
    """
    problem = check_problem(
        *(key, mechanism, pool, bids, aim(valuation, 0), values),
        *(num_tokens, num_auctions, first_auction),
    )
    problem = in_units(problem, unit)
    gradients.check_policies(problem)
    gap, worst = measure_gap(problem, as_tree(valuation))
    check_payoffs(worst)
    return gap


@jax.jit
def measure_gap(problem: Problem, aims: Aims) -> tuple[EquilibriumGap, Payoffs]:
    """The work of `equilibrium_gap`, and what each agent saw at its best bid."""

    def one(agent: jax.Array) -> tuple[Search, jax.Array]:
        found, gains = respond(aimed(problem, aims, agent), agent)
        worst = dataclasses.replace(
            jax.tree.map(lambda x: x[0], found.payoffs),
            mean=found.payoffs.mean.max(),
            unfit=found.payoffs.unfit.max(),
        )
        return dataclasses.replace(found, grid=None, payoffs=worst), gains

    found, gains = jax.lax.map(one, jnp.arange(problem.pool.num_agents))
    certain = aimed(problem, aims, 0).certain
    each, errors = mean_and_error(gains.T, certain)
    gap, error = mean_and_error(gains.sum(axis=0), certain)
    undefined = (~problem.texts().valid).sum()
    measured = EquilibriumGap(gap, error, each, errors, found.bid, undefined)
    return measured, found.payoffs


def in_units(problem: Problem, unit: ArrayLike) -> Problem:
    """The problem with its bids read as multiples of amounts.

    Raises:
      ValueError: If the amounts do not fit, or are none that can be bid.
    """
    amounts = base.as_float(unit)
    shape = problem.unit.shape
    if amounts.shape not in ((), shape[1:], shape):
        raise ValueError(
            f"unit has shape {amounts.shape}, expected (), {shape[1:]} or {shape}"
        )
    if records.is_concrete(amounts):
        found = np.asarray(amounts)
        if not ((found >= SMALLEST_BID) & (found <= LARGEST_BID)).all():
            raise ValueError(
                f"unit must be from {SMALLEST_BID:g} to {LARGEST_BID:g}, got {found}"
            )
    rows = jnp.broadcast_to(amounts, shape)
    problem, bids = dataclasses.replace(problem, unit=rows), problem.numbers.bids
    # What policies bid is money.
    return (
        problem if isinstance(bids, Bidders) else problem.with_numbers(bids=bids * rows)
    )


def aim(aims: Aims, agent: ArrayLike) -> Objective:
    """What the agent wants."""
    if isinstance(aims, Valuation):
        return utility(agent, aims)
    if not callable(aims):
        raise ValueError(
            "valuation must be a Valuation, or a function from the number of an agent "
            f"to its objective, got {aims!r}"
        )
    return aims(agent)


def as_tree(aims: Aims) -> Aims:
    """The same as a pytree: a function becomes a part of the tree's structure."""
    bare = jax.tree_util.all_leaves([aims])
    return jax.tree_util.Partial(aims) if bare and callable(aims) else aims


def aimed(problem: Problem, aims: Aims, agent: ArrayLike) -> Problem:
    """The problem with the objective of an agent."""
    return problem.with_numbers(objective=aim(aims, agent))
