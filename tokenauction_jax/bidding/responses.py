"""The bid that is best against the others' bids, and how far bids are from equilibrium.

Payoffs need not be concave in a bid, so that a gradient alone finds some local maximum.
Here a grid over many orders of magnitude brackets the global one, and the derivative is
followed to its zero inside the best brackets.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import gradients
from tokenauction_jax.bidding.deviations import (
    is_held,
    own_slopes,
    typical_bids,
    with_bid,
)
from tokenauction_jax.bidding.gradients import mean_and_error
from tokenauction_jax.bidding.objectives import Objective, utility
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import (
    LARGEST_BID,
    SMALLEST_BID,
    Mechanism,
    Valuation,
)
from tokenauction_jax.simulation import Bidders

# Bids of the grid, from so far below the least amount to so far above the largest.
_GRID, _BELOW, _ABOVE = 96, 1e-3, 32.0
# Brackets that are looked into, and halvings of each.
_BRACKETS, NUM_HALVINGS = 3, 22
# Payoffs that differ by so many digits of the last place are the same.
_TIE = 16
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
class Payoffs:
    """What `k` bids of an agent are worth to it, arrays `(k,)`.

    Attributes:
      mean: Mean worth of a text, minus infinity where nobody bids.
      error: Its standard error.
      undefined: How many auctions became undefined.
      unfit: How many texts have a reward that is infinite or NaN.
    """

    mean: jax.Array
    error: jax.Array
    undefined: jax.Array
    unfit: jax.Array


@records.record
class Search:
    """What `best_bid` finds.

    Attributes:
      bid: The best bid.
      grid: `(k,)`, bids that were tried, from 0 on.
      payoffs: What they are worth.
      stays: Whether it is the bid that the agent has.
    """

    bid: jax.Array
    grid: jax.Array
    payoffs: Payoffs
    stays: jax.Array


@records.record
class Brackets:
    """Where maxima are, arrays `(3,)`."""

    low: jax.Array
    middle: jax.Array
    high: jax.Array


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


@jax.jit
def respond(problem: Problem, agent: ArrayLike) -> tuple[Search, jax.Array]:
    """The best response, and its gains `(A,)` on fresh auctions."""
    search, fresh = split(problem)
    found = stay_if_as_good(search, agent, best_bid(search, agent))
    return found, gains_of(fresh, agent, found.bid, found.stays)


def stay_if_as_good(problem: Problem, agent: ArrayLike, found: Search) -> Search:
    """What was found, or the bid that the agent has where none is better."""
    worth, best = problem.totals().mean(), found.payoffs.mean.max()
    stays = worth >= best - _slack(best)
    if isinstance(problem.numbers.bids, Bidders):
        return dataclasses.replace(found, stays=stays)
    multiples = problem.numbers.bids[:, agent] / problem.unit[:, agent]
    present = multiples[0]
    same = jnp.abs(multiples - present) <= _TIE * jnp.finfo(worth.dtype).eps * present
    stays &= same.all()
    bid = jnp.where(stays, present, found.bid)
    return dataclasses.replace(found, bid=bid, stays=stays)


def gains_of(
    problem: Problem, agent: ArrayLike, bid: jax.Array, stays: jax.Array
) -> jax.Array:
    """What an agent gains `(A,)` by another bid; 0 if it `stays` with its own."""
    gains = with_bid(problem, agent, bid).totals() - problem.totals()
    return jnp.where(stays, 0, gains)


def split(problem: Problem) -> tuple[Problem, Problem]:
    """The same problem on two sets of auctions."""
    first, second = jax.random.split(jax.random.clone(problem.key))
    return (
        dataclasses.replace(problem, key=first),
        dataclasses.replace(problem, key=second),
    )


def best_bid(problem: Problem, agent: ArrayLike) -> Search:
    """The best bid in these auctions."""
    grid = ladder(problem, agent)
    payoffs = payoffs_of(problem, agent, grid)
    brackets = jax.lax.fori_loop(
        *(0, NUM_HALVINGS, lambda _, found: halve(problem, agent, found)),
        best_brackets(grid, payoffs),
    )
    return choose(grid, payoffs, brackets, payoffs_of(problem, agent, brackets.middle))


def ladder(problem: Problem, agent: ArrayLike) -> jax.Array:
    """Bids `(97,)`: 0, and more evenly in their logs around all that matter."""
    numbers, unit = problem.numbers, problem.unit[:, agent, None]
    rivals = typical_bids(problem).at[:, agent].set(0) / unit
    own = numbers.values[:, agent, None] / unit
    amounts = jnp.concatenate([own.ravel(), rivals.ravel()])
    largest = jnp.maximum(amounts.max(), SMALLEST_BID / _BELOW)
    least = jnp.where(amounts > 0, amounts, largest).min()
    low, high = jnp.log(_BELOW * least), jnp.log(_ABOVE * largest)
    bids = jnp.exp(jnp.linspace(low, high, _GRID))
    return jnp.concatenate([jnp.zeros_like(bids[:1]), bids])


def payoffs_of(problem: Problem, agent: ArrayLike, bids: jax.Array) -> Payoffs:
    """What some bids `(k,)` of an agent are worth to it, one after the other."""

    def payoff(bid: jax.Array) -> Payoffs:
        moved = with_bid(problem, agent, bid)
        texts = moved.texts()
        mean, error = mean_and_error(texts.totals(), problem.certain)
        # Without any bid there is no auction, and no text.
        held = is_held(moved, texts)
        return Payoffs(
            mean=jnp.where(held, mean, -jnp.inf),
            error=jnp.where(held, error, 0),
            undefined=jnp.where(held, ~texts.valid, 0).sum(),
            unfit=jnp.where(held, ~jnp.isfinite(texts.reward), 0).sum(),
        )

    return jax.lax.map(payoff, bids)


def best_brackets(grid: jax.Array, payoffs: Payoffs) -> Brackets:
    """The best bids of a grid, and their neighbours."""
    top = jax.lax.top_k(payoffs.mean, _BRACKETS)[1]
    low, high = jnp.maximum(top - 1, 0), jnp.minimum(top + 1, grid.size - 1)
    return Brackets(grid[low], grid[top], grid[high])


def halve(problem: Problem, agent: ArrayLike, brackets: Brackets) -> Brackets:
    """Brackets of half the width, around the zeros of the derivative."""

    def slope(bid: jax.Array) -> jax.Array:
        _, slopes = own_slopes(with_bid(problem, agent, bid), agent)
        return slopes.mean()

    rises = jax.lax.map(slope, brackets.middle) > 0
    low = jnp.where(rises, brackets.middle, brackets.low)
    high = jnp.where(rises, brackets.high, brackets.middle)
    return Brackets(low, (low + high) / 2, high)


def choose(
    grid: jax.Array, payoffs: Payoffs, brackets: Brackets, inside: Payoffs
) -> Search:
    """The best of a grid and of what was found inside its brackets."""
    bids = jnp.concatenate([grid, brackets.middle])
    payoffs = jax.tree.map(lambda *x: jnp.concatenate(x), payoffs, inside)
    worths = payoffs.mean
    # Near a maximum payoffs say less about the bid than their slopes: of equal ones
    # that is best where slopes were followed; but to stay out is better still.
    equal = worths >= worths.max() - _slack(worths.max())
    best = jnp.where(equal[grid.size], brackets.middle[0], bids[worths.argmax()])
    best = jnp.where(equal[0], 0, best)
    order = jnp.argsort(bids)
    payoffs = jax.tree.map(lambda x: x[order], payoffs)
    return Search(best, bids[order], payoffs, jnp.zeros((), bool))


def _slack(payoff: jax.Array) -> jax.Array:
    """By how much payoffs that are the same may differ; 0 if they are infinite."""
    size = jnp.where(jnp.isfinite(payoff), jnp.abs(payoff), 0)
    return _TIE * jnp.finfo(payoff.dtype).eps * size


def check_payoffs(payoffs: Payoffs) -> None:
    """Raises `ValueError` if known payoffs are not what can be compared."""
    if not records.is_concrete(payoffs.mean):
        return
    gradients.check_rewards(payoffs.unfit.max())
    if jnp.isnan(payoffs.mean).any():
        raise ValueError("payoffs are NaN: an objective must answer money")
