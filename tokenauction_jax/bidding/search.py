"""The search for the bid that pays an agent most, the others' bids given.

Payoffs need not be concave in a bid, so that a gradient alone finds some local maximum.
Here a grid over many orders of magnitude brackets the global one, and the derivative is
followed to its zero inside the best brackets.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.bidding import gradients
from tokenauction_jax.bidding.deviations import (
    is_held,
    own_slopes,
    typical_bids,
    with_bid,
)
from tokenauction_jax.bidding.gradients import mean_and_error
from tokenauction_jax.bidding.problem import Problem
from tokenauction_jax.mechanism.base import SMALLEST_BID
from tokenauction_jax.simulation import Bidders

# Bids of the grid, from so far below the least amount to so far above the largest.
_GRID, BELOW, _ABOVE = 96, 1e-3, 32.0
# Brackets that are looked into, and halvings of each.
_BRACKETS, NUM_HALVINGS = 3, 22
# Payoffs that differ by so many digits of the last place are the same.
_TIE = 16


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
    largest = jnp.maximum(amounts.max(), SMALLEST_BID / BELOW)
    least = jnp.where(amounts > 0, amounts, largest).min()
    low, high = jnp.log(BELOW * least), jnp.log(_ABOVE * largest)
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
