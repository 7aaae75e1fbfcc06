"""Auctions to question a rule with, and what an adversary may change in them."""

import jax
import jax.numpy as jnp

from tokenauction_jax.mechanism import base, distributions

# Misreports per instance.
NUM_OWN_BIDS = 3
_DECADE = 2.302585
# How far an adversary may go: bids over three decades, probabilities down to 1e-7.
_LARGEST_LOG_BID = 1.5 * _DECADE
_LARGEST_LOGIT = 8.0


@base.record
class Instance:
    """One auction, seen from one agent, and what the auction is compared with.

    Attributes:
      agent: The agent whose bid and payment are questioned, an integer scalar.
      bids: `(n,)`; the agent's own is its true value.
      log_probs: `(n, V)`.
      own_bids: `(k,)`, other bids that the agent could make.
      rival_bids: `(n,)`, another profile of the others' bids.
      order: `(n,)`, a permutation of the agents.
      scale: Factor on all bids.
      seed: Of draws, an integer scalar.
    """

    agent: jax.Array
    bids: jax.Array
    log_probs: jax.Array
    own_bids: jax.Array
    rival_bids: jax.Array
    order: jax.Array
    scale: jax.Array
    seed: jax.Array


def random_instance(
    key: jax.Array, number: jax.Array, num_agents: int, vocab_size: int
) -> Instance:
    """Instance `number`: from flat to degenerate distributions, zeros, equal bids.

    Bids are log-uniform over three decades; in one instance of five all are equal, in
    one of ten a rival bids 0. In three of ten some probabilities are 0, and in one of
    ten the agents nearly agree.
    """
    key = jax.random.fold_in(key, number)
    names = ("agent", "kind", "bids", "own", "rivals", "order", "scale", "seed")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    agent = jax.random.randint(keys["agent"], (), 0, num_agents)
    key_logits, key_peak, key_zeros, key_flags = jax.random.split(keys["kind"], 4)
    zeros, agree, equal, silent = jax.random.uniform(key_flags, (4,))

    logits = jax.random.normal(key_logits, (num_agents, vocab_size))
    peaks = 10 ** jax.random.uniform(key_peak, (num_agents, 1), minval=-1, maxval=0.9)
    logits = jnp.where(agree < 0.1, logits[:1] + 0.1 * logits, peaks * logits)
    absent = jax.random.uniform(key_zeros, logits.shape) < 0.3
    absent &= logits < logits.max(axis=-1, keepdims=True)
    logits = jnp.where((zeros < 0.3) & absent, -jnp.inf, logits)

    def log_uniform(
        key: jax.Array, shape: tuple[int, ...], decades: float
    ) -> jax.Array:
        return 10 ** jax.random.uniform(key, shape, minval=-decades, maxval=decades)

    bids = log_uniform(keys["bids"], (num_agents,), 1.5)
    bids = jnp.where(equal < 0.2, 1, bids)
    bids = jnp.where(
        (silent < 0.1) & (jnp.arange(num_agents) == (agent + 1) % num_agents), 0, bids
    )
    return Instance(
        agent=agent,
        bids=bids,
        log_probs=distributions.normalize(logits),
        own_bids=bids[agent] * log_uniform(keys["own"], (NUM_OWN_BIDS,), 1.0),
        rival_bids=log_uniform(keys["rivals"], (num_agents,), 1.5),
        order=jax.random.permutation(keys["order"], num_agents),
        scale=log_uniform(keys["scale"], (), 3.0),
        seed=jax.random.bits(keys["seed"], (), jnp.uint32),
    )


def free_parts(instance: Instance) -> dict[str, jax.Array]:
    """What an adversary varies: logarithms of bids, and logits. Zeros stay zero."""
    return {
        "bids": distributions.safe_log(instance.bids),
        "own_bids": distributions.safe_log(instance.own_bids),
        "rival_bids": distributions.safe_log(instance.rival_bids),
        "logits": instance.log_probs,
    }


def within_bounds(parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The nearest parts that an adversary may use."""
    bids = {
        name: _clip(part, _LARGEST_LOG_BID)
        for name, part in parts.items()
        if name != "logits"
    }
    logits = parts["logits"]
    centred = logits - jnp.max(logits, axis=-1, keepdims=True) + _LARGEST_LOGIT
    return bids | {"logits": _clip(centred, _LARGEST_LOGIT)}


def with_parts(instance: Instance, parts: dict[str, jax.Array]) -> Instance:
    """The instance with the adversary's parts instead of its own."""
    return Instance(
        agent=instance.agent,
        bids=jnp.exp(parts["bids"]),
        log_probs=distributions.normalize(parts["logits"]),
        own_bids=jnp.exp(parts["own_bids"]),
        rival_bids=jnp.exp(parts["rival_bids"]),
        order=instance.order,
        scale=instance.scale,
        seed=instance.seed,
    )


def _clip(x: jax.Array, largest: float) -> jax.Array:
    return jnp.where(jnp.isneginf(x), x, jnp.clip(x, -largest, largest))
