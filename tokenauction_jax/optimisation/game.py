"""From a configuration to arrays: who bids, what they want, and in which auctions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import bidding
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.bidding.responses import Aims
from tokenauction_jax.mechanism import Mechanism, Valuation
from tokenauction_jax.optimisation.config import Optimisation, OptimisationError
from tokenauction_jax.scenarios.rules import needs_tokens


class Game(NamedTuple):
    """What is optimised, as arrays.

    Attributes:
      key: Of all auctions.
      mechanism: The rules.
      pool: The agents.
      values: True values, `(n,)`, or `(A, n)` if they are drawn.
      bids: What agents bid at first, in units of `unit`, as the values.
      unit: What bids are multiples of, in money: the values if they are drawn.
      aims: What the agents want.
      valuation: What they like.
      num_tokens: The cap on tokens.
      num_auctions: How many texts.
    """

    key: jax.Array
    mechanism: Mechanism
    pool: AgentPool
    values: np.ndarray
    bids: np.ndarray
    unit: Any
    aims: Aims
    valuation: Valuation
    num_tokens: int
    num_auctions: int


def build(chosen: Optimisation) -> Game:
    """The game of a configuration; models are loaded.

    Raises:
      CheckpointError: If a language model cannot be loaded.
      ScenarioError: If its agents or prompts do not fit.
      OptimisationError: If values differ between auctions and one is 0.
    """
    population = chosen.population
    values, bids = population.draw(0, chosen.num_auctions)
    unit: Any = 1.0
    if chosen.in_factors:
        if not values.all():
            raise OptimisationError(
                "values: 0 has no factor, and they differ between auctions: leave out "
                "agents that value nothing"
            )
        unit, bids = values, bids / values
    else:
        values, bids = values[0], bids[0]
    aims: Aims = chosen.chosen_valuation
    tokenizer, phrases = population.cast.tokenizer, population.cast.mentions
    if chosen.objective == "mentions" and tokenizer is not None:
        rewards = [bidding.mentions(tokenizer, named) for named in phrases]
        amounts = jnp.broadcast_to(values, (chosen.num_auctions, values.shape[-1]))
        aims = jax.tree_util.Partial(_wants_mentions, rewards, amounts)
    return Game(
        key=jax.random.key(chosen.seed),
        mechanism=needs_tokens(population.mechanism),
        pool=population.pool,
        values=values,
        bids=bids,
        unit=unit,
        aims=aims,
        valuation=chosen.chosen_valuation,
        num_tokens=chosen.num_tokens,
        num_auctions=chosen.num_auctions,
    )


def _wants_mentions(
    rewards: list[Any], amounts: jax.Array, agent: Any
) -> bidding.Objective:
    """An agent, perhaps a traced one, that wants to be mentioned."""

    def reward(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        mentioned = jnp.stack([worth(tokens, mask) for worth in rewards], axis=1)
        own = jnp.arange(len(rewards)) == agent
        return jnp.where(own[None], amounts * mentioned, 0).sum(axis=1)

    return bidding.text_reward(agent, reward)
