"""Bids in equilibrium, for the auctions of one cell of a study."""

import dataclasses

import jax
import numpy as np

from tokenauction_jax import bidding
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.mechanism import Mechanism
from tokenauction_jax.scenarios import kinds, names
from tokenauction_jax.scenarios.scenario import ScenarioError
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.scenarios.values import draw_values

# Tells the randomness of texts that bids are found on from that of the auctions.
_TEXTS = 0x65717569


@dataclasses.dataclass(frozen=True)
class _Factors:
    """Bids that are factors on the values; equal factors are equal."""

    factors: tuple[float, ...]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values * np.asarray(self.factors, values.dtype)


def solved(setting: Setting, mechanism: Mechanism, pool: AgentPool) -> kinds.Bids:
    """Bids that are best responses to each other.

    The same in all auctions if the values are; else each agent multiplies its value by
    a factor of its own, knowing the law of the others' values.

    Args:
      setting: A cell whose bids are `EquilibriumBids`.
      mechanism: Its rules.
      pool: Its agents.

    Raises:
      ScenarioError: If none was found, with the gap that is left.
    """
    asked = setting.bids
    assert isinstance(asked, kinds.EquilibriumBids)
    n, size = pool.num_agents, asked.num_auctions
    values = draw_values(setting.values, setting.seed, n, 0, size)
    fixed = isinstance(setting.values, kinds.FixedValues | kinds.SharedValues)
    given = values[0] if fixed else values
    # Money that texts can be worth at most, in units of which the gap is judged.
    worth = float(values.sum(axis=1).mean()) * setting.num_tokens
    found = bidding.equilibrium(
        jax.random.fold_in(jax.random.key(setting.seed), _TEXTS),
        mechanism,
        pool,
        values=given,
        valuation=names.valuation(asked.valuation),
        num_tokens=setting.num_tokens,
        num_auctions=size,
        num_steps=asked.num_steps,
        tolerance=asked.tolerance * worth,
        unit=1.0 if fixed else values,
    )
    if not found.converged:
        gap, error = float(found.gap) / worth, 1.96 * float(found.gap_error) / worth
        raise ScenarioError(
            f"bids: no equilibrium of {setting.rule.name} was found in "
            f"{asked.num_steps} steps: agents would gain {gap:.2g} ± {error:.1g} "
            f"of their values, tolerance {asked.tolerance:g}; allow more steps, more "
            "auctions or a larger tolerance"
        )
    bids = tuple(np.asarray(found.bids, float).tolist())
    return kinds.FixedBids(amounts=bids) if fixed else kinds.GivenBids(_Factors(bids))
