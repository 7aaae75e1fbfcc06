"""Whether the weights that an aggregation tells are those that it uses."""

import jax
import jax.numpy as jnp
from jax import lax

from tokenauction_jax.auditing.properties import WEIGHTS
from tokenauction_jax.auditing.properties.claims import Claim
from tokenauction_jax.mechanism import base

# The bid of a weight is searched between these multiples of the others' bids, in logs.
_FAR = 40.0
_HALVINGS = 40
# Weights near 0 and 1 have no digits to spare, and vetoes of next to none are for real.
_SMALLEST = 0.01
# Where a weight is a steep function of the bid, no float32 bid has it.
_SAME_WEIGHT = 1e-6


def influence_claims(
    aggregation: base.Aggregation,
    agent: jax.Array,
    bids: jax.Array,
    rival_bids: jax.Array,
    log_probs: jax.Array,
) -> list[Claim]:
    """That an agent of some weight has one influence, whatever the bids behind it.

    For three agents or more only the influence itself, as a share of the whole, is a
    number with this property: another one that rises from 0 to 1 with it does not add
    up to 1. With two agents it may.

    Args:
      aggregation: The rule.
      agent: One of the agents.
      bids: `(n,)`.
      rival_bids: `(n,)`, another profile of the others' bids, all positive.
      log_probs: `(n, V)`; the next agent's row stands in for those of all others.
    """
    agent, bids, rival_bids, log_probs = lax.stop_gradient(
        (agent, bids, rival_bids, log_probs)
    )
    size = bids.shape[0]
    others = (jnp.arange(size) != agent)[:, None]
    tables = jnp.where(others, log_probs[(agent + 1) % size][None], log_probs)

    def weight(log_bid: jax.Array) -> jax.Array:
        moved = rival_bids.at[agent].set(jnp.exp(log_bid))
        return aggregation.weights(moved)[agent]

    def halve(
        _: int, bracket: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        enough = weight(middle) >= wanted
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    wanted = aggregation.weights(bids)[agent]
    centre = jnp.log(rival_bids.at[agent].set(0).sum())
    _, log_bid = lax.fori_loop(0, _HALVINGS, halve, (centre - _FAR, centre + _FAR))
    rows = jnp.stack([bids, rival_bids.at[agent].set(jnp.exp(log_bid))])
    here, there = jnp.exp(jax.vmap(aggregation.log_prob, (0, None))(rows, tables))
    reached = jnp.abs(weight(log_bid) - wanted) <= _SAME_WEIGHT
    reached &= (wanted > _SMALLEST) & (wanted < 1 - _SMALLEST)
    silent = aggregation.weights(rival_bids.at[agent].set(0))[agent]
    what = "probabilities at other bids of the same weight"
    return [
        # Weights are rounded, and small ones may mean much.
        Claim(WEIGHTS, what, "==", jnp.where(reached, there, here), here, 10.0, 1.0),
        Claim(WEIGHTS, "the weight of a zero bidder", "==", silent[None], 0.0),
    ]
