"""Properties of an aggregation: a distribution that bids move the bidder's way."""

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties import (
    CONSISTENT,
    MONOTONE,
    ORDER,
    SCALE,
    STABLE,
    WELL_FORMED,
    claims,
    path,
)
from tokenauction_jax.auditing.properties.claims import Claim, Margins
from tokenauction_jax.auditing.properties.influence import influence_claims
from tokenauction_jax.auditing.properties.sampler import sampler_margins
from tokenauction_jax.auditing.rules import Rules
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.incentives import comparable_fraction

# Weights `(n,)` and probabilities `(V,)`.
Outcome = tuple[jax.Array, jax.Array]

# A robust preference below this is rounding, not a premise.
_ROUNDING = 1e-6


def aggregation_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what concerns the aggregation alone, and the sampler if there is one.

    `SAMPLER_LAW` maps to what `sampler.sampler_margins` says of each draw.
    """
    aggregation = rules.aggregation
    bids, log_probs, agent = instance.bids, instance.log_probs, instance.agent
    own_bids, p = path.rising_bids(instance), jnp.exp(log_probs[agent])
    log_qs = path.aggregates(aggregation, agent, own_bids, bids, log_probs)
    log_elsewhere = path.aggregates(
        aggregation, agent, own_bids[1:], instance.rival_bids, log_probs
    )
    qs, elsewhere = jnp.exp(log_qs), jnp.exp(log_elsewhere)
    plain, permuted, scaled = (
        outcome(aggregation, *auction)
        for auction in claims.symmetric_auctions(
            bids, log_probs, instance.order, instance.scale
        )
    )
    margins = {
        MONOTONE: path.worst_step(path.moves(qs, p), qs),
        CONSISTENT: _inconsistency(qs[1:], elsewhere, p),
        STABLE: path.worst_step(_wrong_way(qs, p), qs),
        **claims.worst(symmetries(plain, permuted, scaled, instance.order)),
        **claims.worst(
            influence_claims(aggregation, agent, bids, instance.rival_bids, log_probs)
        ),
    }
    if rules.sampler is not None:
        found = sampler_margins(rules.sampler, aggregation, instance, own_bids, qs)
        margins |= found | {STABLE: jnp.maximum(margins[STABLE], found[STABLE])}
    margins = claims.where_applicable(path.is_defined(qs)[1:].all(), margins)
    return claims.worst(well_formed(plain[0], path.probabilities(log_qs))) | margins


def compare_outcomes(rules: Rules, instance: Instance) -> dict[str, jax.Array]:
    """Whether the agent can compare the outcomes of the two profiles of bids."""
    log_qs = jax.vmap(rules.aggregation.log_prob, (0, None))(
        jnp.stack([instance.bids, instance.rival_bids]), instance.log_probs
    )
    defined = (log_qs > -jnp.inf).any(axis=-1).all()
    share = comparable_fraction(log_qs, instance.log_probs[instance.agent])
    return {"defined": defined, "comparable": defined & (share == 1)}


def outcome(
    aggregation: base.Aggregation, bids: jax.Array, log_probs: jax.Array
) -> Outcome:
    """The answers of an aggregation to one auction."""
    return aggregation.weights(bids), jnp.exp(aggregation.log_prob(bids, log_probs))


def well_formed(weights: jax.Array, q: jax.Array) -> list[Claim]:
    """That weights `(n,)` and probabilities `(..., V)`, unless all are 0, sum to 1."""
    # A sum with NaN misses by infinity.
    weights, q = (jnp.where(jnp.isnan(x), -jnp.inf, x) for x in (weights, q))
    sums, wanted = distributions.sum_last(q), path.is_defined(q).astype(q.dtype)
    return [
        Claim(WELL_FORMED, "the negative part of weights", ">=", weights, 0.0),
        Claim(WELL_FORMED, "the sum of weights", "==", weights.sum(), 1.0),
        Claim(WELL_FORMED, "the sum of probabilities", "==", sums, wanted),
    ]


def symmetries(
    plain: Outcome, permuted: Outcome, scaled: Outcome, order: jax.Array
) -> list[Claim]:
    """What the outcomes of `symmetric_auctions` have in common."""
    return [
        Claim(ORDER, "weights in another order", "==", permuted[0], plain[0][order]),
        Claim(ORDER, "probabilities in another order", "==", permuted[1], plain[1]),
        Claim(SCALE, "weights with scaled bids", "==", scaled[0], plain[0]),
        Claim(SCALE, "probabilities with scaled bids", "==", scaled[1], plain[1]),
    ]


def _wrong_way(qs: jax.Array, p: jax.Array) -> jax.Array:
    """What a token of T+ loses, or another gains, in each step, `(k-1,)`."""
    rises = qs[1:] - qs[:-1]
    return jnp.where((p > qs[0])[None], -rises, rises).max(axis=-1)


def _inconsistency(here: jax.Array, there: jax.Array, p: jax.Array) -> jax.Array:
    """The worst pair of neighbouring bids, in either direction, at two profiles."""
    # Axes: profile, direction (bids rising, falling), step.
    moves = jnp.stack([jnp.stack(path.both_ways(x, p)) for x in (here, there)])
    strictly = moves[:, ::-1]
    violated = jnp.minimum(strictly, moves[::-1])
    return jnp.where(moves <= _ROUNDING, violated, -moves).max()
