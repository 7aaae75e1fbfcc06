"""Steps in which the numbers of policies follow the derivatives of their payoffs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tokenauction_jax import records
from tokenauction_jax.bidding import gradients, responses
from tokenauction_jax.bidding.deviations import with_policies
from tokenauction_jax.bidding.position import Position, first_position
from tokenauction_jax.bidding.problem import Problem
from tokenauction_jax.bidding.responses import Aims
from tokenauction_jax.bidding.texts import Varies, vary
from tokenauction_jax.mechanism.base import LARGEST_BID, SMALLEST_BID

# Whether to train what the policy of an agent has in the field of this name.
Trainable = Callable[[int, str], bool]


@records.record
class Training:
    """Steps of all agents' policies at once, each up its own payoff.

    Attributes:
      problem: On whose auctions the steps are found; its objective does not matter.
      aims: What the agents want.
      owners: For each leaf of the policies the agent that trains it, -1 for none.
      amounts: For each leaf whether it is an amount, which stays at 0 or above.
      optimizer: What follows the derivatives.
    """

    problem: Problem
    aims: Aims
    owners: tuple[int, ...] = records.static_field()
    amounts: Varies = records.static_field()
    optimizer: optax.GradientTransformation = records.static_field()

    @property
    def _trained(self) -> Varies:
        return tuple(owner >= 0 for owner in self.owners)

    def start(self) -> Position:
        """Before the first step, with the policies of the problem."""
        policies = self.problem.numbers.bids.policies
        numbers, _ = vary(policies, self._trained)
        dtype = self.problem.unit.dtype
        return first_position(policies, self.optimizer.init(numbers), dtype)

    def step(self, position: Position) -> Position:
        """After one more step."""
        numbers, rebuild = vary(position.bids, self._trained)
        slopes, unfit = self._slopes(position.bids)
        downhill = jax.tree.map(jnp.negative, slopes)
        updates, memory = self.optimizer.update(downhill, position.memory, numbers)
        found: Any = optax.apply_updates(numbers, updates)
        amounts, _ = vary(self.amounts, self._trained)
        found = [
            jnp.clip(x, 0, LARGEST_BID) if amount else x
            for x, amount in zip(found, amounts, strict=True)
        ]
        moved = _largest(jax.tree.map(jnp.subtract, found, numbers))
        moved = moved / jnp.maximum(_largest(found), SMALLEST_BID)
        moved = moved.astype(position.moved.dtype)
        return position.after(rebuild(found), moved, memory, unfit)

    def _slopes(self, policies: Any) -> tuple[list[jax.Array], jax.Array]:
        """Derivatives of each agent's payoff in what it trains, and unfit rewards."""
        problem = with_policies(self.problem, policies)
        size, shared = len(problem.unit), not problem.numbers.bids.by_auction
        tree, found, unfit = jax.tree.structure(policies), [], []
        for agent in sorted(set(self.owners) - {-1}):
            flags = tree.unflatten(owner == agent for owner in self.owners)
            aimed = responses.aimed(problem, self.aims, agent)
            varies = aimed.numbers.only_bids(flags)
            texts, slopes = gradients.slopes(aimed, "score_function", varies)
            # Rows move together, by what is added to all of them.
            found += [
                x / size if shared else jnp.broadcast_to(x.mean(0), x.shape)
                for x in slopes
            ]
            unfit.append((~jnp.isfinite(texts.reward)).sum())
        return found, jnp.stack(unfit).max()


def make_training(
    problem: Problem,
    aims: Aims,
    trainable: Trainable | None,
    optimizer: optax.GradientTransformation | None,
) -> Training:
    """The training of the policies of a problem.

    Raises:
      ValueError: If there is no optimizer, or nothing to train.
    """
    if optimizer is None:
        raise ValueError(
            "policies have no best responses here: train them with an optimizer, such "
            "as optax.adam(0.05), or start from bids"
        )
    chosen = trainable or (lambda _, name: name != "value")

    def look(path: tuple[Any, ...], leaf: jax.Array) -> tuple[int, bool]:
        agent, name = path[0].idx, getattr(path[1], "name", str(path[1]))
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        owner = agent if real and chosen(agent, name) else -1
        return owner, name in ("amount", "amounts")

    policies = problem.numbers.bids.policies
    paths, _ = jax.tree_util.tree_flatten_with_path(policies)
    owners, amounts = zip(*(look(path, leaf) for path, leaf in paths), strict=True)
    if set(owners) <= {-1}:
        raise ValueError(
            "no number of the policies is trained: say with trainable which fields "
            "of which agents are, such as lambda agent, name: name == 'amounts'"
        )
    return Training(problem, aims, owners, amounts, optimizer)


def _largest(numbers: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.abs(x).max() for x in numbers]).max()
