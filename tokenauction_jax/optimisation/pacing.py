"""Multipliers that spend budgets, and the texts that are written under budgets.

A multiplier below 1 is only for a budget that binds (complementary slackness):
Conitzer, Kroer, Sodomka and Stier-Moses, "Multiplicative Pacing Equilibria in Auction
Markets" (Operations Research 2022).
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import bidding, records
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.bidding.gradients import mean_and_error
from tokenauction_jax.mechanism.base import SMALLEST_BID, Mechanism, Valuation
from tokenauction_jax.optimisation.config import Pacing
from tokenauction_jax.optimisation.game import Game
from tokenauction_jax.optimisation.phases import Found, Row
from tokenauction_jax.simulation import Bidders, Rollout, simulate

# Multipliers that move by less have come to rest.
_AT_REST = 1e-6
_GROWTH = 1.3
# Points of a curve over the positions of a text.
_POSITIONS = 128
_POLICIES = {
    "adaptive_pacing": bidding.adaptive_pacing,
    "multiplicative_pacing": bidding.multiplicative_pacing,
}


@records.record
class Multipliers:
    """Where the multipliers are after some steps, arrays `(n,)`.

    Attributes:
      value: What bids are multiplied by.
      share: Which part of the way an agent goes.
      way: Where it wanted to go last, in logarithms.
      moved: By how much the last step moved them.
    """

    value: jax.Array
    share: jax.Array
    way: jax.Array
    moved: jax.Array


class Pace:
    """Steps towards multipliers that spend the budgets; nothing is cut.

    Args:
      game: Who bids.
      budgets: `(n,)`, infinity for none.
      goal: How many steps.
      key: Of the auctions.
    """

    def __init__(self, game: Game, budgets: np.ndarray, goal: Pacing, key: jax.Array):
        self._auctions, self._key = _auctions(game), key
        self._num_tokens = game.num_tokens
        self._budgets = jnp.asarray(budgets)
        self.stage, self.num_steps = "dynamics", goal.num_steps

    def start(self) -> Multipliers:
        """Nobody shades."""
        ones = jnp.ones_like(self._budgets)
        return Multipliers(ones, ones, jnp.zeros_like(ones), jnp.array(jnp.inf))

    def step(self, state: Multipliers, step: int) -> tuple[Multipliers, list[Row]]:
        """What is spent, and the multipliers that would spend the budgets."""
        found = _spend(self._auctions, self._key, state.value, self._num_tokens)
        spent, errors, payoffs, payoff_errors = found
        rows = []
        for agent in range(self._budgets.size):
            about = (self.stage, step, agent, -1, float(state.value[agent]))
            for quantity, mean, error in (
                ("spend", spent[agent], errors[agent]),
                ("payoff", payoffs[agent], payoff_errors[agent]),
            ):
                rows.append(Row(*about, quantity, float(mean), float(error)))
        return _paced(state, self._budgets, spent), rows

    def finished(self, state: Multipliers) -> bool:
        """Whether they have come to rest."""
        return bool(state.moved <= _AT_REST)

    def found(self, state: Multipliers) -> Found:
        """The multipliers."""
        return {"bids": state.value}


class Texts:
    """Texts under budgets, with the bids of one kind of policy.

    Args:
      stage: What the policies are called.
      game: Who bids.
      bidders: Policies and budgets.
      key: Of the auctions.
    """

    num_steps = 1

    def __init__(self, stage: str, game: Game, bidders: Bidders, key: jax.Array):
        self.stage = stage
        self._game, self._bidders, self._key = game, bidders, key
        self._auctions = _auctions(game)

    def start(self) -> Any:
        """Nothing is known."""
        return jnp.full((2, self._game.pool.num_agents), jnp.nan)

    def step(self, state: Any, step: int) -> tuple[Any, list[Row]]:
        """All texts."""
        del state
        game = self._game
        budgets = np.asarray(self._bidders.budgets)[0]
        rollout, worth = _write(
            self._auctions, self._key, self._bidders, game.num_tokens
        )
        spent = jnp.cumsum(rollout.payments, axis=1)
        totals, errors = mean_and_error(spent[:, -1], certain=False)
        # What is expected is an upper bound where budgets cut.
        gains, gain_errors = mean_and_error(worth - spent[:, -1], certain=False)
        rows = []
        for agent in range(game.pool.num_agents):
            about = (self.stage, step, agent, -1, float("nan"))
            for quantity, mean, error in (
                ("spend", totals[agent], errors[agent]),
                ("payoff", gains[agent], gain_errors[agent]),
            ):
                rows.append(Row(*about, quantity, float(mean), float(error)))
        last = game.num_tokens - 1
        shown = np.unique(np.linspace(0, last, _POSITIONS).round().astype(int))
        unit = jnp.broadcast_to(jnp.asarray(game.unit), rollout.bids[:, 0].shape)
        # Of texts that go on: those that ended bid nothing.
        running = rollout.mask[:, :, None]
        bids = jnp.where(running, rollout.bids / unit[:, None], jnp.nan)
        for position in shown:
            for quantity, x in (("spent", spent), ("bid", bids)):
                at = np.asarray(x[:, position], float)
                for agent in np.flatnonzero(np.isfinite(budgets)):
                    mean, error = _mean_of_finite(at[:, agent])
                    about = (self.stage, step, int(agent), int(position), float("nan"))
                    rows.append(Row(*about, quantity, mean, error))
        return jnp.stack([totals, errors]), rows

    def finished(self, state: Any) -> bool:
        """There is one step."""
        return False

    def found(self, state: Any) -> Found:
        """What was spent."""
        return {f"spent {self.stage}": state}


class Slackness:
    """How far the multipliers are from spending the budgets, on fresh auctions."""

    stage, num_steps = "gap", 1

    def __init__(self, game: Game, budgets: np.ndarray, found: Found, key: jax.Array):
        self._auctions, self._key = _auctions(game), key
        self._num_tokens, self._budgets = game.num_tokens, budgets
        self._multipliers = jnp.asarray(found["bids"])

    def start(self) -> Any:
        """Nothing is known."""
        return jnp.full(2, jnp.nan)

    def step(self, state: Any, step: int) -> tuple[Any, list[Row]]:
        """What is spent, and the largest share of a budget that it is off by."""
        del state
        found = _spend(self._auctions, self._key, self._multipliers, self._num_tokens)
        spent, errors, payoffs, payoff_errors = (np.asarray(x, float) for x in found)
        rows, off, off_errors = [], [0.0], [0.0]
        for agent, budget in enumerate(self._budgets):
            multiplier = float(self._multipliers[agent])
            about = (self.stage, step, agent, -1, multiplier)
            rows.append(Row(*about, "payoff", payoffs[agent], payoff_errors[agent]))
            rows.append(Row(*about, "spend", spent[agent], errors[agent]))
            if not np.isfinite(budget):
                continue
            over = spent[agent] / budget - 1
            # A budget that does not bind may be left over, by those who do not shade.
            off.append(max(over, 0.0) if multiplier == 1 else abs(over))
            off_errors.append(errors[agent] / budget)
        worst = int(np.argmax(off))
        about = (self.stage, step, -1, -1, float("nan"))
        rows.append(Row(*about, "gap", off[worst], off_errors[worst]))
        return jnp.array([off[worst], off_errors[worst]]), rows

    def finished(self, state: Any) -> bool:
        """There is one step."""
        return False

    def found(self, state: Any) -> Found:
        """The gap and its error."""
        return {"gap": state[0], "gap_error": state[1]}


def phases(game: Game, goal: Pacing) -> Iterator[Any]:
    """The multipliers, what they spend, and texts of three kinds of bidders."""
    n = game.pool.num_agents
    budgets = budgets_of(goal, n)
    first, second, third = jax.random.split(game.key, 3)
    found = yield Pace(game, budgets, goal, first)
    yield Slackness(game, budgets, found, second)
    money = np.broadcast_to(game.bids * game.unit, (game.num_auctions, n))
    multipliers = np.asarray(found["bids"])
    learn = _POLICIES[goal.policy]
    limited = np.isfinite(budgets)

    def bidders(make: Any) -> Bidders:
        policies = [make(agent, money[:, agent]) for agent in range(n)]
        return Bidders(policies, np.broadcast_to(budgets, money.shape), by_auction=True)

    def constant(amounts: ArrayLike) -> Any:
        return jax.vmap(bidding.constant)(jnp.asarray(amounts))

    def learning(agent: int, bids: np.ndarray) -> Any:
        if not limited[agent]:
            return constant(bids)
        return jax.vmap(lambda bid: learn(bid, goal.rate))(jnp.asarray(bids))

    kinds = {
        "unpaced": lambda agent, bids: constant(bids),
        "paced": lambda agent, bids: constant(multipliers[agent] * bids),
        goal.policy: learning,
    }
    for stage, make in kinds.items():
        yield Texts(stage, game, bidders(make), jax.random.clone(third))


def budgets_of(goal: Pacing, num_agents: int) -> np.ndarray:
    """Budgets `(n,)`, infinity for agents that have none."""
    budgets = np.full(num_agents, np.inf, jnp.result_type(float))
    agents = range(num_agents) if goal.agents is None else goal.agents
    budgets[list(agents)] = goal.budgets
    return budgets


def _paced(state: Multipliers, budgets: jax.Array, spent: jax.Array) -> Multipliers:
    """Part of the way to what would spend the budgets, were spending proportional."""
    wanted = jnp.log(budgets) - jnp.log(jnp.maximum(spent, SMALLEST_BID))
    # At most 1, and of agents whose money buys nothing, all the same.
    target = jnp.minimum(jnp.log(state.value) + wanted, 0)
    target = jnp.maximum(target, jnp.log(SMALLEST_BID) / 2)
    way = target - jnp.log(state.value)
    turned = way * state.way < 0
    share = jnp.where(turned, state.share / 2, jnp.minimum(_GROWTH * state.share, 1))
    value = jnp.exp(jnp.log(state.value) + share * way)
    value = jnp.where(target == 0, jnp.where(share == 1, 1, value), value)
    moved = jnp.abs(value - state.value).max()
    return Multipliers(value, share, way, moved)


@records.record
class _Worth:
    """Observes what a token is worth to each agent, ``w_i v_i(q)``."""

    valuation: Valuation

    def __call__(
        self,
        _bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        _token: jax.Array,
        values: jax.Array,
    ) -> jax.Array:
        worth = jax.vmap(self.valuation.value, (None, 0))(log_q, log_probs)
        return jnp.where(values > 0, values * worth, 0)


@records.record
class _Auctions:
    """A game's arrays, one row an auction."""

    mechanism: Mechanism
    pool: AgentPool
    valuation: Valuation
    values: jax.Array
    bids: jax.Array


def _auctions(game: Game) -> _Auctions:
    shape = (game.num_auctions, game.pool.num_agents)
    return _Auctions(
        game.mechanism,
        game.pool,
        game.valuation,
        jnp.broadcast_to(jnp.asarray(game.values), shape),
        jnp.broadcast_to(jnp.asarray(game.bids * game.unit), shape),
    )


@functools.partial(jax.jit, static_argnames="num_tokens")
def _spend(
    auctions: _Auctions, key: jax.Array, multipliers: jax.Array, num_tokens: int
) -> tuple[jax.Array, ...]:
    """Mean spending and payoffs `(n,)` without budgets, each with its error."""
    bids = auctions.bids * multipliers[None]
    rollout, worth = _texts(auctions, key, bids, num_tokens)
    spent = rollout.expected_payments.sum(axis=1)
    return (
        *mean_and_error(spent, certain=False),
        *mean_and_error(worth - spent, certain=False),
    )


@functools.partial(jax.jit, static_argnames="num_tokens")
def _write(
    auctions: _Auctions, key: jax.Array, bidders: Bidders, num_tokens: int
) -> tuple[Rollout, jax.Array]:
    return _texts(auctions, key, bidders, num_tokens)


def _texts(
    auctions: _Auctions, key: jax.Array, bids: Any, num_tokens: int
) -> tuple[Rollout, jax.Array]:
    """Texts, and what each is worth to the agents `(A, n)`."""
    rollout = simulate(
        *(jax.random.clone(key), auctions.mechanism, auctions.pool, bids),
        num_tokens=num_tokens,
        accumulate=_Worth(auctions.valuation),
        observe_args=(auctions.values,),
    )
    return rollout, rollout.totals


def _mean_of_finite(x: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of the numbers that are finite; NaN if there are none."""
    kept = x[np.isfinite(x)]
    if not kept.size:
        return math.nan, math.nan
    error = kept.std(ddof=1) / math.sqrt(kept.size) if kept.size > 1 else math.nan
    return float(kept.mean()), float(error)
