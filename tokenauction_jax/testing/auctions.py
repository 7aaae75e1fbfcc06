"""The auctions that rules are checked on: edge cases, then random ones of the audit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing.instances import random_instances
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.testing.fakes import random_log_probs

# Arrays by name, of one auction or of `A` stacked ones.
Arrays = dict[str, Any]

# At two tokens even shared noise is stable.
AGENTS, TOKENS = 3, 8
_AUCTIONS = 64
# Of the auctions, one with zero bids and probabilities.
ZEROS = 2


def random_auctions(seed: int) -> Arrays:
    """Bids `(A, n)` and log-probabilities `(A, n, V)`: edge cases, then random ones."""
    instances = random_instances(seed, _AUCTIONS, AGENTS, TOKENS)
    bids, log_probs = instances.bids, instances.log_probs
    p = random_log_probs(seeded_key(seed), AGENTS, TOKENS)
    some = np.arange(TOKENS) % AGENTS == np.arange(AGENTS)[:, None]
    for row, (edge_bids, edge_log_probs) in enumerate(
        (
            ([1, 2, 3], p),
            ([1, 1, 1], jnp.tile(p[:1], (AGENTS, 1))),
            ([1, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([0, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([1, 2, 3], jnp.where(some, p, -jnp.inf)),
            ([1, 2, 3], jnp.where(jnp.arange(TOKENS)[None] == 1, p, -jnp.inf)),
        )
    ):
        bids[row], log_probs[row] = edge_bids, distributions.normalize(edge_log_probs)
    return {"bids": bids, "log_probs": log_probs}


def random_changes(seed: int) -> Arrays:
    """An order of the agents `(A, n)` and a factor on bids `(A,)` for each auction."""
    instances = random_instances(seed, _AUCTIONS, AGENTS, TOKENS)
    # Powers of 2 round nothing: at a tie ``p_i = r`` a payment may jump.
    scale = np.exp2(np.round(np.log2(instances.scale)))
    return {"order": instances.order, "scale": scale}


def random_rivals(seed: int) -> Arrays:
    """An agent `(A,)` and another profile of bids `(A, n)` for each auction."""
    instances = random_instances(seed, _AUCTIONS, AGENTS, TOKENS)
    return {"agent": instances.agent, "rival_bids": instances.rival_bids}


def take(auctions: Arrays, index: Any) -> Arrays:
    """Some of the auctions, or one."""
    return {name: x[index] for name, x in auctions.items()}


def seeded_key(seed: Any) -> jax.Array:
    """A key from which `vmap` draws the same numbers as a loop."""
    return jax.random.key(seed, impl="threefry2x32")
