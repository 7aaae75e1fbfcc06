"""The bid that is best against the others' bids, and how far bids are from equilibrium.

Payoffs need not be concave in a bid, so that a gradient alone finds some local maximum.
Here a grid over many orders of magnitude brackets the global one, and the derivative is
followed to its zero inside the best brackets.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import gradients
from tokenauction_jax.bidding.gradients import Problem, check_problem, mean_and_error
from tokenauction_jax.bidding.objectives import Objective, utility
from tokenauction_jax.mechanism.base import SMALLEST_BID, Mechanism, Valuation

# Bids of the grid, from so far below the least amount to so far above the largest.
_GRID, _BELOW, _ABOVE = 96, 1e-3, 32.0
# Brackets that are looked into, and halvings of each.
_BRACKETS, _HALVINGS = 3, 22
# Payoffs that differ by so many digits of the last place are the same.
_TIE = 16
# What each agent wants: a valuation of its utility, or its objective by its number.
Aims = Valuation | Callable[[ArrayLike], Objective]


@records.record
class BestResponse:
    """The best bid of one agent against the others.

    Attributes:
      bid: Money per unit of value; the present bid where none is better.
      gain: What changing to it gains, money per text, on auctions that had no part in
        the search.
      gain_error: Its standard error.
      grid: `(k,)`, bids that were tried, from 0 on.
      payoffs: `(k,)`, worth of the text at these bids in the search, money per text.
    """

    bid: jax.Array
    gain: jax.Array
    gain_error: jax.Array
    grid: jax.Array
    payoffs: jax.Array


@records.record
class Search:
    """What `best_bid` finds.

    Attributes:
      bid: The best bid.
      grid: `(k,)`, bids that were tried, from 0 on.
      payoffs: `(k,)`, mean worth of the text at these bids.
    """

    bid: jax.Array
    grid: jax.Array
    payoffs: jax.Array


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
    """

    gap: jax.Array
    gap_error: jax.Array
    gains: jax.Array
    gain_errors: jax.Array
    best_bids: jax.Array


def best_response(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    agent: ArrayLike,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
) -> BestResponse:
    """The bid that pays an agent most, the others' bids given.

    Payoffs of 96 bids over all relevant orders of magnitude, and of 0, are compared
    with common random numbers, and the best three brackets searched for the zero of the
    derivative. With one token and deterministic agents nothing is sampled, the bid is
    right to 1e-5 and the error 0.

    Args:
      key: A typed PRNG key. Search and gain use different auctions.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: `(n,)`, or `(A, n)` where the others' bids differ from auction to auction:
        the response is to their law (ex interim).
      agent: The number of the agent.
      values: True values, `(n,)` or `(A, n)`.
      valuation: What the agent's utility is made of; or a function from the number of
        an agent to its objective, such as ``lambda agent: text_reward(agent, reward)``.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      first_auction: The number of the first auction.

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
    found, gains = _respond(problem, agent)
    _check_payoffs(found.payoffs)
    gain, error = mean_and_error(gains, problem.certain)
    return BestResponse(found.bid, gain, error, found.grid, found.payoffs)


def equilibrium_gap(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
) -> EquilibriumGap:
    """The sum over agents of what the best unilateral deviation gains (NashConv).

    Each deviation is found on some auctions and measured on others, so that the gap is
    that of bids which exist, not of luck.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: `(n,)` or `(A, n)`.
      values: True values, `(n,)` or `(A, n)`.
      valuation: As in `best_response`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      first_auction: The number of the first auction.

    Raises:
      ValueError: If a shape or a number is wrong.
    """
    problem = check_problem(
        *(key, mechanism, pool, bids, aim(valuation, 0), values),
        *(num_tokens, num_auctions, first_auction),
    )
    gap = measure_gap(problem, as_tree(valuation))
    _check_payoffs(gap.gains)
    return gap


@jax.jit
def measure_gap(problem: Problem, aims: Aims) -> EquilibriumGap:
    """The work of `equilibrium_gap`, whatever the objective of the problem."""

    def respond(agent: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, gains = _respond(aimed(problem, aims, agent), agent)
        return found.bid, gains

    bids, gains = jax.lax.map(respond, jnp.arange(problem.pool.num_agents))
    certain = aimed(problem, aims, 0).certain
    each, errors = mean_and_error(gains.T, certain)
    gap, error = mean_and_error(gains.sum(axis=0), certain)
    return EquilibriumGap(gap, error, each, errors, bids)


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
def _respond(problem: Problem, agent: ArrayLike) -> tuple[Search, jax.Array]:
    """The best response, and its gains `(A,)` on fresh auctions."""
    search, fresh = split(problem)
    found = best_bid(search, agent)
    present, worth = search.numbers.bids[:, agent], search.totals().mean()
    best = found.payoffs.max()
    stays = (present == present[0]).all() & (worth >= best - _slack(best))
    bid = jnp.where(stays, present[0], found.bid)
    gains = with_bid(fresh, agent, bid).totals() - fresh.totals()
    return dataclasses.replace(found, bid=bid), jnp.where(stays, 0, gains)


def split(problem: Problem) -> tuple[Problem, Problem]:
    """The same problem on two sets of auctions."""
    first, second = jax.random.split(jax.random.clone(problem.key))
    return (
        dataclasses.replace(problem, key=first),
        dataclasses.replace(problem, key=second),
    )


def best_bid(problem: Problem, agent: ArrayLike) -> Search:
    """The best bid in these auctions."""
    numbers = problem.numbers
    rivals = numbers.bids.at[:, agent].set(0)
    contested = (rivals > 0).any(axis=1).all()

    def payoff(bid: jax.Array) -> jax.Array:
        worth = with_bid(problem, agent, bid).totals().mean()
        # Without any bid there is no auction, and no text.
        return jnp.where((bid > 0) | contested, worth, -jnp.inf)

    def slope(bid: jax.Array) -> jax.Array:
        moved = with_bid(problem, agent, bid)
        _, (slopes,) = gradients.slopes(
            moved, "score_function", gradients.of_bids(moved)
        )
        return slopes[:, agent].mean()

    ladder = _ladder(numbers.values[:, agent], rivals)
    grid = jnp.concatenate([jnp.zeros_like(ladder[:1]), ladder])
    payoffs = jax.lax.map(payoff, grid)
    top = jax.lax.top_k(payoffs, _BRACKETS)[1]
    low, high = grid[jnp.maximum(top - 1, 0)], grid[jnp.minimum(top + 1, _GRID)]

    def look_into(bracket: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        middle, low, high = bracket

        def halve(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            middle, low, high = state
            rises = slope(middle) > 0
            low, high = jnp.where(rises, middle, low), jnp.where(rises, high, middle)
            return (low + high) / 2, low, high

        found, *_ = jax.lax.fori_loop(0, _HALVINGS, halve, (middle, low, high))
        return found, payoff(found)

    found, worths = jax.lax.map(look_into, (grid[top], low, high))
    bids = jnp.concatenate([grid, found])
    worths = jnp.concatenate([payoffs, worths])
    # Near a maximum payoffs say less about the bid than their slopes: of equal ones
    # that is best where slopes were followed; but to stay out is better still.
    equal = worths >= worths.max() - _slack(worths.max())
    best = jnp.where(equal[_GRID + 1], found[0], bids[worths.argmax()])
    best = jnp.where(equal[0], 0, best)
    order = jnp.argsort(bids)
    return Search(best, bids[order], worths[order])


def _slack(payoff: jax.Array) -> jax.Array:
    """By how much payoffs that are the same may differ; 0 if they are infinite."""
    size = jnp.where(jnp.isfinite(payoff), jnp.abs(payoff), 0)
    return _TIE * jnp.finfo(payoff.dtype).eps * size


def _check_payoffs(payoffs: jax.Array) -> None:
    if records.is_concrete(payoffs) and jnp.isnan(payoffs).any():
        raise ValueError(
            "payoffs are NaN: an objective or a reward must answer money for every "
            "text, also for one that ends at once"
        )


def _ladder(values: jax.Array, rivals: jax.Array) -> jax.Array:
    """Bids of a grid, evenly in their logs, around all amounts that matter."""
    amounts = jnp.concatenate([values.ravel(), rivals.ravel()])
    largest = jnp.maximum(amounts.max(), SMALLEST_BID / _BELOW)
    least = jnp.where(amounts > 0, amounts, largest).min()
    low, high = jnp.log(_BELOW * least), jnp.log(_ABOVE * largest)
    return jnp.exp(jnp.linspace(low, high, _GRID))


def with_bid(problem: Problem, agent: ArrayLike, bid: jax.Array) -> Problem:
    """The problem with this bid of an agent in all auctions."""
    return problem.with_numbers(bids=problem.numbers.bids.at[:, agent].set(bid))
