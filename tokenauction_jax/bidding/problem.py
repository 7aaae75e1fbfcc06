"""What texts are bid for, once the arguments were checked."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool, SupportsCertainty
from tokenauction_jax.bidding import paths
from tokenauction_jax.bidding.objectives import Objective, check_objective, has_reward
from tokenauction_jax.bidding.submissions import TemperedPool
from tokenauction_jax.bidding.texts import Numbers, Texts, Varies, sample_texts
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Bidders
from tokenauction_jax.simulation.bidders import check_bidders, check_bids


@records.record
class Problem:
    """Arguments that were checked, with one row of bids and values an auction."""

    key: jax.Array
    pool: AgentPool
    numbers: Numbers
    first_auction: ArrayLike
    # What searches take a bid as a multiple of, `(A, n)` in money.
    unit: jax.Array
    num_tokens: int = records.static_field()
    # Whether a budget may be finite.
    limited: bool = records.static_field(default=False)

    def texts(self, varies: Varies | None = None) -> Texts:
        """Samples the texts, with slopes in the numbers that vary."""
        if isinstance(self.numbers.bids, Bidders):
            return paths.sample_paths(*self.paths())
        return sample_texts(
            *(jax.random.clone(self.key), self.pool, self.numbers),
            *(self.num_tokens, self.first_auction, varies),
        )

    def paths(self) -> tuple[Any, ...]:
        """What `bidding.paths` needs, where policies bid."""
        key, last = jax.random.clone(self.key), (self.first_auction, self.limited)
        return key, self.pool, self.numbers, self.num_tokens, *last

    def with_numbers(self, **changes: Any) -> "Problem":
        """The same with some numbers changed."""
        changed = dataclasses.replace(self.numbers, **changes)
        return dataclasses.replace(self, numbers=changed)

    def totals(self) -> jax.Array:
        """Worth `(A,)` of the texts."""
        return self.texts().totals()

    @property
    def certain(self) -> bool:
        """Whether all auctions with the same bids are worth the same."""
        policies = isinstance(self.numbers.bids, Bidders)
        return not policies and is_certain(
            self.pool, self.numbers.objective, self.num_tokens
        )


def check_problem(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
    objective: Objective,
    values: ArrayLike,
    num_tokens: int,
    num_auctions: int | None,
    first_auction: ArrayLike,
) -> Problem:
    """The arguments of `expected`; raises `ValueError` if one is wrong."""
    check_objective(objective, pool.num_agents)
    num_tokens = records.check_integer("num_tokens", num_tokens, 1)
    values = base.as_float(values)
    if values.ndim == 2 and num_auctions is None:
        num_auctions = values.shape[0]
    limited = False
    if isinstance(bids, Bidders):
        limited = _is_limited(bids)
        bids = check_bidders(bids, pool.num_agents, num_auctions)
        amounts = bids.budgets
    else:
        plain = np.ndim(bids) == values.ndim == 1
        if plain and is_certain(pool, objective, num_tokens):
            num_auctions = 1
        bids = amounts = check_bids(bids, pool.num_agents, num_auctions)
    values = check_values(values, amounts)
    temperature = jnp.ones(pool.num_agents, amounts.dtype)
    if isinstance(pool, TemperedPool):
        temperature = pool.temperature
        pool = TemperedPool(pool.pool, jax.lax.stop_gradient(temperature))
    numbers = Numbers(mechanism, objective, temperature, bids, values)
    numbers = jax.tree.map(jnp.asarray, numbers)
    sizes = {"num_tokens": num_tokens, "limited": limited}
    unit = jnp.ones_like(amounts)
    return Problem(key, pool, numbers, first_auction, unit, **sizes)


def _is_limited(bidders: Bidders) -> bool:
    """Whether some budget may be finite."""
    known = records.is_concrete(*jax.tree.leaves(bidders.budgets))
    return not known or bool(np.isfinite(np.asarray(bidders.budgets)).any())


def is_certain(pool: AgentPool, objective: Objective, num_tokens: int) -> bool:
    """Whether all auctions with the same bids are worth the same, whatever is drawn."""
    certain = isinstance(pool, SupportsCertainty) and pool.deterministic
    return num_tokens == 1 and certain and not has_reward(objective)


def check_values(values: ArrayLike, bids: jax.Array) -> jax.Array:
    """Values as `(A, n)`, like the bids."""
    values = base.as_float(values)
    if values.shape not in (bids.shape, bids.shape[1:]):
        raise ValueError(
            f"values has shape {values.shape}, expected {bids.shape[1:]} or "
            f"{bids.shape}: one true value for each agent"
        )
    if records.is_concrete(values):
        base.check_amounts("values", np.asarray(values))
    return jnp.broadcast_to(values, bids.shape)
