"""Rollouts over the tokens of many auctions."""

from tokenauction_jax.simulation.rollout import Rollout as Rollout
from tokenauction_jax.simulation.rollout import simulate as simulate
