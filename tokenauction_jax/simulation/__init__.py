"""Rollouts over the tokens of many auctions."""

from tokenauction_jax.simulation.auction_step import Step as Step
from tokenauction_jax.simulation.auction_step import step as step
from tokenauction_jax.simulation.bidders import Bidders as Bidders
from tokenauction_jax.simulation.frames import decode_texts as decode_texts
from tokenauction_jax.simulation.frames import text_tokens as text_tokens
from tokenauction_jax.simulation.frames import token_pieces as token_pieces
from tokenauction_jax.simulation.outcome import Rollout as Rollout
from tokenauction_jax.simulation.policy import Info as Info
from tokenauction_jax.simulation.policy import Policy as Policy
from tokenauction_jax.simulation.rollout import simulate as simulate
