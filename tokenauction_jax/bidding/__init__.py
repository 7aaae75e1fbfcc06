"""Which bids? Worth of whole texts, its derivatives, best responses, and policies."""

import importlib
from typing import TYPE_CHECKING, Any

from tokenauction_jax.bidding.anarchy import PriceOfAnarchy as PriceOfAnarchy
from tokenauction_jax.bidding.anarchy import price_of_anarchy as price_of_anarchy
from tokenauction_jax.bidding.enumeration import exact as exact
from tokenauction_jax.bidding.equilibrium import Equilibrium as Equilibrium
from tokenauction_jax.bidding.equilibrium import equilibrium as equilibrium
from tokenauction_jax.bidding.gradients import ValueAndGradient as ValueAndGradient
from tokenauction_jax.bidding.gradients import expected as expected
from tokenauction_jax.bidding.gradients import value_and_grad as value_and_grad
from tokenauction_jax.bidding.mentions import mentions as mentions
from tokenauction_jax.bidding.objectives import Objective as Objective
from tokenauction_jax.bidding.objectives import Outcome as Outcome
from tokenauction_jax.bidding.objectives import revenue as revenue
from tokenauction_jax.bidding.objectives import text_reward as text_reward
from tokenauction_jax.bidding.objectives import utility as utility
from tokenauction_jax.bidding.objectives import welfare as welfare
from tokenauction_jax.bidding.pacing import adaptive_pacing as adaptive_pacing
from tokenauction_jax.bidding.pacing import (
    multiplicative_pacing as multiplicative_pacing,
)
from tokenauction_jax.bidding.pacing import pid as pid
from tokenauction_jax.bidding.pacing import value_maximiser as value_maximiser
from tokenauction_jax.bidding.policies import constant as constant
from tokenauction_jax.bidding.policies import platform as platform
from tokenauction_jax.bidding.policies import schedule as schedule
from tokenauction_jax.bidding.responses import BestResponse as BestResponse
from tokenauction_jax.bidding.responses import EquilibriumGap as EquilibriumGap
from tokenauction_jax.bidding.responses import best_response as best_response
from tokenauction_jax.bidding.responses import equilibrium_gap as equilibrium_gap
from tokenauction_jax.bidding.strategies import misreport as misreport
from tokenauction_jax.bidding.strategies import ring as ring
from tokenauction_jax.bidding.strategies import split as split
from tokenauction_jax.bidding.strategies import strategy_gain as strategy_gain
from tokenauction_jax.bidding.strategies import with_strategy as with_strategy
from tokenauction_jax.bidding.submissions import tempered as tempered

if TYPE_CHECKING:
    from tokenauction_jax.bidding.neural import network as network


def __getattr__(name: str) -> Any:
    # Brings Flax, which other policies do not need.
    if name != "network":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.neural").network
