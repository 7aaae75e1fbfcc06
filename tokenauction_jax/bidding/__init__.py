"""Which bids? Worth of whole texts, exact and sampled, and its derivatives."""

from tokenauction_jax.bidding.enumeration import exact as exact
from tokenauction_jax.bidding.equilibrium import Equilibrium as Equilibrium
from tokenauction_jax.bidding.equilibrium import equilibrium as equilibrium
from tokenauction_jax.bidding.gradients import ValueAndGradient as ValueAndGradient
from tokenauction_jax.bidding.gradients import expected as expected
from tokenauction_jax.bidding.gradients import value_and_grad as value_and_grad
from tokenauction_jax.bidding.objectives import Objective as Objective
from tokenauction_jax.bidding.objectives import Outcome as Outcome
from tokenauction_jax.bidding.objectives import revenue as revenue
from tokenauction_jax.bidding.objectives import text_reward as text_reward
from tokenauction_jax.bidding.objectives import utility as utility
from tokenauction_jax.bidding.objectives import welfare as welfare
from tokenauction_jax.bidding.responses import BestResponse as BestResponse
from tokenauction_jax.bidding.responses import EquilibriumGap as EquilibriumGap
from tokenauction_jax.bidding.responses import best_response as best_response
from tokenauction_jax.bidding.responses import equilibrium_gap as equilibrium_gap
from tokenauction_jax.bidding.submissions import tempered as tempered
