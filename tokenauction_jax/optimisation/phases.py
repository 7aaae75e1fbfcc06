"""Optimisation cut into steps of seconds, between which it can be stopped and saved."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from tokenauction_jax.bidding import responses, search
from tokenauction_jax.bidding.dynamics import (
    Dynamics,
    Position,
    make_dynamics,
    with_bids,
)
from tokenauction_jax.bidding.gradients import mean_and_error
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.bidding.responses import Aims
from tokenauction_jax.bidding.search import Brackets, Payoffs
from tokenauction_jax.bidding.training import Training
from tokenauction_jax.optimisation.config import Equilibrium
from tokenauction_jax.optimisation.game import Game

# Bids of a grid that are tried in a step.
_TOGETHER = 8
# What phases found, by name: small arrays.
Found = Mapping[str, Any]
_OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}


class Row(NamedTuple):
    """One estimate of the history.

    Attributes:
      stage: In which phase it was made.
      step: After how many steps of it.
      agent: Whose, -1 for all.
      position: At which token, -1 for the text.
      bid: At which bid of the agent, NaN if at none.
      quantity: Of what.
      mean: The estimate.
      error: Its standard error.
    """

    stage: str
    step: int
    agent: int
    position: int
    bid: float
    quantity: str
    mean: float
    error: float


class Phase(Protocol):
    """A part of an optimisation; its state is a pytree of small arrays."""

    stage: str
    num_steps: int

    def start(self) -> Any:
        """The state before the first step."""
        ...

    def step(self, state: Any, step: int) -> tuple[Any, list[Row]]:
        """One step, which is number `step` from 0 on."""
        ...

    def finished(self, state: Any) -> bool:
        """Whether no step is left to do before `num_steps`."""
        ...

    def found(self, state: Any) -> Found:
        """What later phases, and the result, need to know."""
        ...


class Search:
    """The best bid of one agent: a grid, and then brackets that are halved.

    Args:
      problem: Whose bids the others have.
      aims: What the agents want.
      agent: Which.
    """

    def __init__(self, problem: Problem, aims: Aims, agent: int):
        self._problem = responses.aimed(problem, aims, agent)
        self._agent, self._grid = agent, search.ladder(self._problem, agent)
        self._tried = -(-self._grid.size // _TOGETHER)
        self.stage = "search"
        self.num_steps = self._tried + search.NUM_HALVINGS + 1

    def start(self) -> Any:
        """Nothing was tried."""
        few = jnp.full(self._grid.size, jnp.nan, self._grid.dtype)
        none = jnp.zeros(self._grid.size, jnp.int32)
        ends = jnp.zeros(3, self._grid.dtype)
        best = jnp.zeros((), self._grid.dtype), jnp.zeros((), bool)
        return Payoffs(few, few, none, none), Brackets(ends, ends, ends), best

    def step(self, state: Any, step: int) -> tuple[Any, list[Row]]:
        """A part of the grid, a halving, or the choice."""
        payoffs, brackets, best = state
        if step < self._tried:
            at = slice(step * _TOGETHER, (step + 1) * _TOGETHER)
            # As many as in other steps, so that one program does them all.
            bids = jnp.resize(self._grid[at], (_TOGETHER,))
            tried: Payoffs = _payoffs_of(self._problem, self._agent, bids)
            search.check_payoffs(tried)
            size = self._grid[at].size
            payoffs = jax.tree.map(
                lambda x, new: x.at[at].set(new[:size].astype(x.dtype)), payoffs, tried
            )
            if step + 1 == self._tried:
                brackets = search.best_brackets(self._grid, payoffs)
            return (payoffs, brackets, best), self._rows(step, bids, tried, size)
        if step + 1 < self.num_steps:
            brackets = _halve(self._problem, self._agent, brackets)
            return (payoffs, brackets, best), []
        inside: Payoffs = _payoffs_of(self._problem, self._agent, brackets.middle)
        found = search.choose(self._grid, payoffs, brackets, inside)
        found = _stay_if_as_good(self._problem, self._agent, found)
        rows = self._rows(step, brackets.middle, inside, brackets.middle.size)
        return (payoffs, brackets, (found.bid, found.stays)), rows

    def finished(self, state: Any) -> bool:
        """Every step is needed."""
        return False

    def found(self, state: Any) -> Found:
        """The best bid, and whether it is the one that the agent has."""
        bid, stays = state[2]
        return {f"best {self._agent}": bid, f"stays {self._agent}": stays}

    def _rows(self, step: int, bids: jax.Array, tried: Payoffs, size: int) -> list[Row]:
        count = self._problem.numbers.bids.shape[0]
        rows = []
        for k in range(size):
            about = (self.stage, step, self._agent, -1, float(bids[k]))
            rows.append(
                Row(*about, "payoff", float(tried.mean[k]), float(tried.error[k]))
            )
            if undefined := int(tried.undefined[k]):
                share = undefined / count
                rows.append(
                    _undefined(self.stage, step, self._agent, float(bids[k]), share)
                )
        return rows


class Walk:
    """Steps towards an equilibrium.

    Args:
      dynamics: Which.
      fresh: The problem on auctions to measure the gap on.
      goal: How many steps, and how often to measure.
    """

    def __init__(
        self, dynamics: Dynamics | Training, fresh: Problem, goal: Equilibrium
    ):
        self._dynamics, self._fresh, self._goal = dynamics, fresh, goal
        self.stage, self.num_steps = "dynamics", goal.num_steps

    def start(self) -> Position:
        """At the first bids."""
        return self._dynamics.start()

    def step(self, state: Position, step: int) -> tuple[Position, list[Row]]:
        """One step, and what the agents get there."""
        state = _walk(self._dynamics, state)
        search.check_payoffs(_nothing(state.unfit))
        rows = payoff_rows(
            *(self.stage, step, self._fresh, self._dynamics.aims, state.bids)
        )
        every = self._goal.gap_every
        if every and step % every == 0:
            problem = with_bids(self._fresh, state.bids)
            gap, worst = responses.measure_gap(problem, self._dynamics.aims)
            search.check_payoffs(worst)
            about = (self.stage, step, -1, -1, float("nan"))
            rows.append(Row(*about, "gap", float(gap.gap), float(gap.gap_error)))
        return state, rows

    def finished(self, state: Position) -> bool:
        """Whether bids have come to rest."""
        return bool(state.at_rest)

    def found(self, state: Position) -> Found:
        """Where."""
        return {"bids": state.bids}


class Gap:
    """What agents gain by the best bids that were found, on auctions not used before.

    Args:
      problem: The present bids, on fresh auctions.
      aims: What the agents want.
      found: Best bids, by `Search`.
      agents: Whose.
    """

    def __init__(self, problem: Problem, aims: Aims, found: Found, agents: list[int]):
        self._problem, self._aims, self._agents = problem, aims, agents
        self._best = [
            (found[f"best {agent}"], found[f"stays {agent}"]) for agent in agents
        ]
        self.stage, self.num_steps = "gap", 1

    def start(self) -> Any:
        """Nothing is known."""
        return jnp.full((2, 1 + len(self._agents)), jnp.nan)

    def step(self, state: Any, step: int) -> tuple[Any, list[Row]]:
        """All gains."""
        del state
        gains = []
        for agent, (bid, stays) in zip(self._agents, self._best, strict=True):
            problem = responses.aimed(self._problem, self._aims, agent)
            gains.append(
                _gains_of(problem, agent, jnp.asarray(bid), jnp.asarray(stays))
            )
        each = jnp.stack(gains, axis=1)
        certain = responses.aimed(self._problem, self._aims, 0).certain
        every = jnp.concatenate([each.sum(axis=1, keepdims=True), each], axis=1)
        means, errors = mean_and_error(every, certain)
        rows = [
            Row(
                self.stage,
                step,
                agent,
                -1,
                float(bid),
                "gain",
                float(mean),
                float(error),
            )
            for agent, (bid, _), mean, error in zip(
                self._agents, self._best, means[1:], errors[1:], strict=True
            )
        ]
        about = (self.stage, step, -1, -1, float("nan"))
        rows.append(Row(*about, "gap", float(means[0]), float(errors[0])))
        present = self._problem.numbers.bids / self._problem.unit
        rows += payoff_rows(
            *(self.stage, step, self._problem, self._aims, present.mean(axis=0))
        )
        return jnp.stack([means, errors]), rows

    def finished(self, state: Any) -> bool:
        """There is one step."""
        return False

    def found(self, state: Any) -> Found:
        """The gap and its error."""
        return {"gap": state[0, 0], "gap_error": state[1, 0]}


def best_response_phases(game: Game, agent: int) -> Iterator[Any]:
    """The search for the best response, and its gain."""
    problem = problem_of(game)
    first, fresh = search.split(problem)
    found = yield Search(first, game.aims, agent)
    yield Gap(fresh, game.aims, found, [agent])


def equilibrium_phases(game: Game, goal: Equilibrium) -> Iterator[Any]:
    """The dynamics, and the gap where they ended."""
    optimizer = None
    if goal.optimizer is not None:
        optimizer = _OPTIMIZERS[goal.optimizer](goal.learning_rate)
    start = game.bids if game.bids.ndim == 1 else game.bids.mean(axis=0)
    dynamics, fresh = make_dynamics(
        *(game.key, game.mechanism, game.pool, game.values, game.aims),
        *(game.num_tokens, game.num_auctions, start, goal.dynamics, optimizer),
        *(0, game.unit),
    )
    found = yield Walk(dynamics, fresh, goal)
    problem = with_bids(fresh, jnp.asarray(found["bids"]))
    first, measured = search.split(problem)
    agents = list(range(game.pool.num_agents))
    for agent in agents:
        found = yield Search(first, dynamics.aims, agent)
    yield Gap(measured, dynamics.aims, found, agents)


def problem_of(game: Game) -> Problem:
    """The problem of the game's own bids."""
    problem = check_problem(
        *(game.key, game.mechanism, game.pool, game.bids),
        *(responses.aim(game.aims, 0), game.values, game.num_tokens),
        *(game.num_auctions, 0),
    )
    return responses.in_units(problem, game.unit)


def payoff_rows(
    stage: str, step: int, problem: Problem, aims: Aims, bids: jax.Array
) -> list[Row]:
    """What the agents get at these bids."""
    found: tuple[jax.Array, ...] = _all_payoffs(problem, aims, bids)
    means, errors, undefined = found
    count = problem.numbers.bids.shape[0]
    rows = []
    for agent in range(bids.size):
        about = (stage, step, agent, -1, float(bids[agent]))
        rows.append(Row(*about, "payoff", float(means[agent]), float(errors[agent])))
    if undefined:
        share = int(undefined) / count
        rows.append(_undefined(stage, step, -1, float("nan"), share))
    return rows


@jax.jit
def _all_payoffs(
    problem: Problem, aims: Aims, bids: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    problem = with_bids(problem, bids)

    def one(agent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        aimed = responses.aimed(problem, aims, agent)
        texts = aimed.texts()
        mean, error = mean_and_error(texts.totals(), aimed.certain)
        return mean, error, (~texts.valid).sum()

    means, errors, undefined = jax.lax.map(one, jnp.arange(bids.size))
    return means, errors, undefined.max()


def _undefined(stage: str, step: int, agent: int, bid: float, share: float) -> Row:
    """The share of auctions that became undefined; its error is not looked at."""
    return Row(stage, step, agent, -1, bid, "undefined", share, float("nan"))


def _nothing(unfit: jax.Array) -> Payoffs:
    zero = jnp.zeros_like(unfit)
    return Payoffs(zero, zero, zero, unfit)


_payoffs_of = jax.jit(search.payoffs_of)
_halve = jax.jit(search.halve)
_stay_if_as_good = jax.jit(search.stay_if_as_good)
_gains_of = jax.jit(search.gains_of)
_walk = jax.jit(lambda dynamics, position: dynamics.step(position))
