"""Tests of what is drawn: no single instance says that a draw is wrong."""

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties.chance import (
    deviation_by_chance,
    found_surely,
    mean_by_chance,
)
from tokenauction_jax.auditing.properties.replies import SAMPLE_LAW
from tokenauction_jax.auditing.report import Finding
from tokenauction_jax.auditing.rules import Rules

# Auctions whose tokens cost most of a bid, where a draw says most, and of all kinds.
_CHOSEN = 64
# Draws in each of them in one round, and rounds at most, a power of two.
_DRAWS, _ROUNDS = 256, 128
# Of a payment: the fault that is to be found.
_FAULT = 0.01


def sampler_law(law: np.ndarray) -> Finding:
    """Tests of tokens, from what `sampler_margins` tells of them, `(N, K, 4)`.

    Ranks are held against the uniform law by the bound of Dvoretzky, Kiefer and
    Wolfowitz, and leanings against their mean by an empirical Bernstein bound.
    """
    law = law[~np.isnan(law).any(axis=(1, 2))].astype(float)
    ranks, excess, bound, gap = np.moveaxis(law, -1, 0)
    size = ranks.size
    if size == 0:
        return Finding(properties.SAMPLER_LAW, None, "not checked")
    distance = _distance(ranks.ravel())
    shift = np.abs(excess.mean())
    chance = mean_by_chance(excess.var(), size, 2 * bound.max(), 2)
    # Half the bid is log 2 away, and the mean moves in proportion.
    surely = found_surely(excess.var(), size, chance)
    smallest = 1 - np.exp(-float(surely * np.log(2) / max(gap.mean(), 1e-30)))
    worst = max(
        distance if distance > deviation_by_chance(size, 2) else 0.0,
        float(shift) if shift > chance else 0.0,
    )
    return Finding(
        property=properties.SAMPLER_LAW,
        payment=None,
        verdict="fails" if worst else "holds",
        instances=len(excess),
        holds_on=0 if worst else len(excess),
        worst=worst,
        note=f"all instances together, {size:,} draws; that a sampler runs at a bid "
        f"{smallest:.0%} too low is found in 99 of 100 audits",
    )


def reply_law(ranks: np.ndarray) -> Finding:
    """Tests of candidates, from their ranks `(N, K, 3)` in three orders."""
    ranks = ranks[~np.isnan(ranks).any(axis=(1, 2))].astype(float)
    if ranks.size == 0:
        return Finding(SAMPLE_LAW, None, "not checked")
    instances, draws, orders = ranks.shape
    distance = max(map(_distance, ranks.reshape(-1, orders).T))
    chance = deviation_by_chance(instances * draws, orders)
    worst = distance if distance > chance else 0.0
    return Finding(
        property=SAMPLE_LAW,
        payment=None,
        verdict="fails" if worst else "holds",
        instances=instances,
        holds_on=0 if worst else instances,
        worst=worst,
        note=f"all instances together, {instances * draws:,} draws; a law that is off "
        f"by {2 * chance:.2g} in cumulative probability is found",
    )


def _distance(ranks: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of numbers from the uniform law."""
    ranks, steps = np.sort(ranks), np.arange(ranks.size + 1) / ranks.size
    return float(np.maximum(steps[1:] - ranks, ranks - steps[:-1]).max())


def payment_draws(
    found: np.ndarray,
    rules: Rules,
    instances: Instance,
    payment: str | None,
    tolerance: float,
) -> Finding:
    """A test of realized payments against conditional ones, paired draw by draw.

    The difference has mean 0 whatever the token, so that tokens are chosen that say
    most: those that cost an agent the largest share of its bid.

    Args:
      found: `(N, 4)`, what `payment_margins` says of draws in random instances.
      rules: With the payment.
      instances: The random ones.
      payment: Its name.
      tolerance: What is rounding, relative to the payment.
    """
    applies = np.flatnonzero(~np.isnan(found).any(axis=-1))
    size = int(applies.size)
    if size == 0:
        return Finding(properties.DRAWS, payment, "not checked")
    differs, share, dear, drawn = np.moveaxis(found[applies], -1, 0)
    worst, note = 0.0, ""
    # A payment that does not vary needs no draws.
    if differs.max() > tolerance:
        dearest = np.resize(np.argsort(-share, kind="stable"), _CHOSEN)
        spread = np.linspace(0, size - 1, _CHOSEN).astype(int)
        rows = applies[np.append(dearest, spread)]
        tokens = np.append(dear[dearest], drawn[spread]).astype(np.int32)
        chosen = jax.tree.map(lambda x: np.asarray(x)[rows], instances)
        auctions = chosen.bids, chosen.log_probs, tokens, chosen.seed
        worst, note = mean_fault(rules, *auctions)
    return Finding(
        property=properties.DRAWS,
        payment=payment,
        verdict="fails" if worst else "holds",
        instances=size,
        holds_on=0 if worst else size,
        worst=worst,
        note=note,
    )


def mean_fault(
    rules: Rules,
    bids: np.ndarray,
    log_probs: np.ndarray,
    tokens: np.ndarray,
    seeds: np.ndarray,
) -> tuple[float, str]:
    """By how much realized payments miss conditional ones on average, 0 if by chance.

    Of all agents together and of each, in either half of the auctions, at growing
    numbers of draws: it ends once a fault is certain, or one of 1 % of the payment in
    the first half would be found in 99 of 100 tests.

    Args:
      rules: With the payment.
      bids: `(2 M, n)`.
      log_probs: `(2 M, n, V)`.
      tokens: `(2 M,)`, given which payments are drawn.
      seeds: `(2 M,)`, integers.

    Returns:
      The fault, relative to the payment, and what was tested.
    """
    auctions = bids, log_probs, tokens, seeds
    first, second, shares, longest = 0.0, 0.0, 0.0, 1.0
    draw = _excess[search.has_loops(rules, bids, log_probs)]
    looks, size, smallest, tested = int(np.log2(_ROUNDS)) + 1, 0, 1.0, ""
    for number in range(1, _ROUNDS + 1):
        excess, share = jax.device_get(draw(rules, *auctions, number))
        excess, share = (_by_group(x.astype(float)) for x in (excess, share))
        size += excess.shape[1]
        if not np.isfinite(excess).all():
            return float("inf"), f"all auctions, {size:,} draws each"
        first, second = first + excess.sum(axis=1), second + (excess**2).sum(axis=1)
        shares += share.mean(axis=1)
        longest = max(longest, float(np.abs(excess[..., 1:]).max()))
        # Looks at powers of two only: each costs certainty.
        if number & (number - 1):
            continue
        mean, share = first / size, np.maximum(shares / number, 1e-30)
        agents = excess.shape[2] - 1
        lengths = 2 * longest * np.array([agents] + [1] * agents)
        variance = second / size - mean**2
        chance = mean_by_chance(variance, size, lengths, mean.size * looks)
        certain, tested = np.abs(mean) > chance, f"all auctions, {size:,} draws each"
        if certain.any():
            return float((np.abs(mean) / share)[certain].max()), tested
        smallest = (found_surely(variance, size, chance) / share)[0, 0]
        if smallest < _FAULT:
            break
    return 0.0, f"{tested}; a fault of {smallest:.1%} is found in 99 of 100 audits"


def _by_group(x: np.ndarray) -> np.ndarray:
    """Numbers `(2 M, ..., n)` of agents as `(2, M ..., 1 + n)`, their sum first."""
    x = x.reshape(2, -1, x.shape[-1])
    return np.concatenate([x.sum(axis=-1, keepdims=True), x], axis=-1)


def _excess_of_auctions(
    rules: Rules,
    bids: np.ndarray,
    log_probs: np.ndarray,
    tokens: np.ndarray,
    seeds: np.ndarray,
    number: int,
) -> tuple[jax.Array, jax.Array]:
    """Realized payments less conditional ones `(M, K, n)`, these `(M, n)`, in bids."""
    payment = rules.priced()

    def of_auction(
        bids: jax.Array, log_probs: jax.Array, token: jax.Array, seed: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), number)
        realized = jax.vmap(payment.realized, (0, None, None, None))
        pays = realized(jax.random.split(key, _DRAWS), bids, log_probs, token)
        given = payment.conditional(bids, log_probs, token)
        unit = jnp.where(bids > 0, bids, bids.sum())
        return (pays - given[None]) / unit[None], given / unit

    return jax.vmap(of_auction)(*map(jnp.asarray, (bids, log_probs, tokens, seeds)))


_excess = search.by_loops(_excess_of_auctions)
