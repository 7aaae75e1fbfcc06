"""Properties of a payment: what an agent gains by its bid, and who pays whom."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties import (
    DRAWS,
    MEANS,
    NON_NEGATIVE,
    ORDER,
    PAYMENT_MONOTONE,
    RATIONAL,
    SCALE,
    SURPLUS,
    TRUTHFUL,
    WELL_FORMED,
    claims,
    path,
)
from tokenauction_jax.auditing.properties.claims import Claim, Margins
from tokenauction_jax.auditing.rules import Rules
from tokenauction_jax.mechanism import base, distributions

# Payments `(n,)` by the method of the payment that says them.
Charges = Mapping[str, jax.Array]

# Outcomes closer than this in total variation tie with the preferred distribution.
_TIE = 1e-4
# Payments closer than this, relative to themselves, may be in the wrong order.
_CLOSE = 1e-3
# Of a step from one own bid to the next, to integrate values along it. Even.
_PARTS = 32
# Of a bid, and of the sum of bids: below this, payments are small.
_OF_BID, _OF_TOTAL = 1e-2, 1e-4


def payment_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what concerns a payment, those of `incentive_margins` included.

    `DRAWS` maps to how much a draw differs from its mean, the largest share of its bid
    that an agent pays on average given a token, that token, and the one drawn.
    """
    payment, order, scale = rules.priced(), instance.order, instance.scale
    bids, log_probs = instance.bids, instance.log_probs
    key_token, key_payment = jax.random.split(jax.random.key(instance.seed))
    log_q = rules.aggregation.log_prob(bids, log_probs)
    token, q = jax.random.categorical(key_token, log_q), jnp.exp(log_q)
    # One call of each method on stacked auctions, to compile each only once.
    auctions = claims.symmetric_auctions(bids, log_probs, order, scale)
    others, tables = (jnp.stack(x) for x in zip(*auctions, strict=True))
    rows = jnp.concatenate([_own_bid_rows(instance), others[1:]])
    which = jnp.zeros(rows.shape[0], int).at[-2].set(1)
    expected = jax.vmap(payment.expected)(rows, tables[which])
    by_token = jax.vmap(payment.conditional, (None, None, 0))
    given = jax.vmap(by_token, (0, 0, None))(others[:2], tables[:2], jnp.arange(q.size))
    # Given a token that is not drawn a payment may be anything.
    given = jnp.where((q > 0)[None, :, None], given, 0)
    drawn = payment.realized(key_payment, bids, log_probs, token)
    truth, permuted, scaled = expected[-3:]
    charged = [
        *charge_claims(
            {"expected": truth, "conditional": given[0], "realized": drawn},
            {"expected": permuted, "conditional": given[1]},
            {"expected": scaled},
            bids,
            order,
            scale,
        ),
        *mean_claims(q, given[0], truth, bids),
        _finite("expected", expected),
    ]
    margins = _incentives(rules, instance, expected[:-2]) | claims.worst(charged)
    shares = jnp.where(bids > 0, given[0] / jnp.where(bids > 0, bids, 1)[None], 0)
    differs = jnp.abs(drawn - given[0][token]) / _size(given[0][token], bids)
    dearest = shares.max(axis=-1)
    place = dearest.argmax()
    margins[DRAWS] = jnp.stack([differs.max(), dearest[place], place, token])
    return claims.where_applicable(_is_questioned(payment, instance, log_q), margins)


def incentive_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what an agent can gain, from expected payments alone."""
    payment, log_probs = rules.priced(), instance.log_probs
    pays = jax.vmap(payment.expected, (0, None))(_own_bid_rows(instance), log_probs)
    margins = _incentives(rules, instance, pays)
    margins |= claims.worst(_nobody_is_paid("expected", pays[-1], instance.bids))
    log_q = rules.aggregation.log_prob(instance.bids, log_probs)
    return claims.where_applicable(_is_questioned(payment, instance, log_q), margins)


def charge_claims(
    plain: Charges,
    permuted: Charges,
    scaled: Charges,
    bids: jax.Array,
    order: jax.Array,
    scale: jax.Array,
) -> list[Claim]:
    """That payments are finite and not negative, in any order of agents and any unit.

    Args:
      plain: Payments `(..., n)` of an auction.
      permuted: Some of them with the agents in another order, see `symmetric_auctions`.
      scaled: Some of them with scaled bids.
      bids: `(n,)`, of the auction.
      order: `(n,)`, the permutation.
      scale: The factor.
    """
    total, charged = bids.sum(), []
    for method, pays in plain.items():
        charged += [_finite(method, pays), *_nobody_is_paid(method, pays, bids)]
    for method, pays in permuted.items():
        what, wanted = f"{method} in another order", plain[method][..., order]
        size = _size(wanted, bids[order])
        charged.append(Claim(ORDER, what, "==", pays, wanted, total, size))
    for method, pays in scaled.items():
        what, wanted = f"{method} with scaled bids", plain[method]
        size = _size(wanted, bids)
        charged.append(Claim(SCALE, what, "==", pays / scale, wanted, total, size))
    return charged


def mean_claims(
    q: jax.Array, given: jax.Array, expected: jax.Array, bids: jax.Array
) -> list[Claim]:
    """That payments `(V, n)` given each token are on average what is expected `(n,)`.

    Over the whole vocabulary: exact, without any draws.
    """
    what, mean = "the mean of conditional, against expected,", q @ given
    size = _size(expected, bids)
    return [Claim(MEANS, what, "==", mean, expected, bids.sum(), size)]


def is_priced(
    payment: base.Payment, bids: jax.Array, log_probs: jax.Array
) -> jax.Array:
    """Whether a payment says that the auction has one, where it may not."""
    if isinstance(payment, base.SupportsDefined):
        return payment.defined(bids, log_probs)
    return jnp.asarray(True)


def _is_questioned(
    payment: base.Payment, instance: Instance, log_q: jax.Array
) -> jax.Array:
    """Whether the auction is defined, it has payments, and the agent takes part."""
    takes_part = (log_q > -jnp.inf).any() & (instance.bids[instance.agent] > 0)
    return takes_part & is_priced(payment, instance.bids, instance.log_probs)


def _finite(method: str, pays: jax.Array) -> Claim:
    infinite = jnp.where(jnp.isfinite(pays), 0.0, jnp.inf)
    return Claim(WELL_FORMED, f"the infinite part of {method}", "==", infinite, 0.0)


def _nobody_is_paid(method: str, pays: jax.Array, bids: jax.Array) -> list[Claim]:
    negative, deficit = f"the negative part of {method}", f"the sum of {method}"
    total, sums = bids.sum(), pays.sum(axis=-1)
    paid = jnp.abs(pays).sum(axis=-1) + _OF_TOTAL * total
    own = jnp.broadcast_to(bids + _OF_TOTAL * total, pays.shape)
    return [
        Claim(NON_NEGATIVE, negative, ">=", pays, 0.0, total, own),
        Claim(SURPLUS, deficit, ">=", sums, 0.0, total, paid),
    ]


def _size(pays: jax.Array, bids: jax.Array) -> jax.Array:
    """What a fault of a payment `(..., n)` is relative to: itself, unless small."""
    small = _OF_BID * bids + _OF_TOTAL * bids.sum()
    return jnp.abs(pays) + jnp.broadcast_to(small, pays.shape)


def _incentives(rules: Rules, instance: Instance, expected: jax.Array) -> Margins:
    """From expected payments `(k, n)` of `_own_bid_rows`; the last row is the truth."""
    bids, log_probs, agent = instance.bids, instance.log_probs, instance.agent
    log_p, value = log_probs[agent], bids[agent]
    rows = _own_bid_rows(instance)[:, agent]
    rising = jnp.argsort(rows)
    nodes = path.between(rows[rising], _PARTS)
    # Without the agent, along its path, and with the truth.
    own_bids = jnp.concatenate([jnp.zeros_like(rows[:1]), nodes, rows[-1:]])
    log_qs = path.aggregates(rules.aggregation, agent, own_bids, bids, log_probs)
    defined = (log_qs > -jnp.inf).any(axis=-1)
    charges = expected[:, agent][rising]
    # Who stays out pays nothing.
    pays = jnp.concatenate([jnp.zeros_like(charges[:1]), charges, expected[-1:, agent]])
    ends = np.arange(1, nodes.size + 1, _PARTS)
    steps = np.array([0, *ends, nodes.size + 1])
    qs, p = jnp.exp(log_qs[ends]), jnp.exp(log_p)
    margins = {PAYMENT_MONOTONE: _payment_inconsistency(qs, charges, p)}
    tie = distributions.total_variation_distance(log_p, log_qs[0]) < _TIE
    for valuation in rules.valuations:
        worths = jax.vmap(valuation.value, (0, None))(log_qs, log_p)
        worths = jnp.where(defined, worths, -jnp.inf)
        gains = gains_over_truth(value, worths[steps], pays)
        stakes = defined[0] & jnp.isfinite(worths[-1])
        missed = _mispricing(nodes, worths[1:-1], charges)
        rational, truthful = gains[0], jnp.maximum(gains[1:-1].max(), missed)
        margins |= {
            RATIONAL + valuation.name: jnp.where(stakes & ~tie, rational, jnp.nan),
            TRUTHFUL + valuation.name: jnp.where(stakes, truthful, jnp.nan),
        }
    return margins


def _own_bid_rows(instance: Instance) -> jax.Array:
    """Bids `(k, n)`: with each of the agent's other bids, and last with the truth."""
    own_bids = jnp.append(instance.own_bids, instance.bids[instance.agent])
    rows = jnp.broadcast_to(instance.bids[None], (own_bids.size, instance.bids.size))
    return rows.at[:, instance.agent].set(own_bids)


def _mispricing(nodes: jax.Array, worths: jax.Array, pays: jax.Array) -> jax.Array:
    """By how much a payment misses what makes every bid between two the best one.

    That is ``zeta(s') - zeta(s) = integral s dx``, with ``x`` the worth at an own bid:
    Myerson's identity. A gain from lying is of the second order in such a fault, this
    is of the first.

    Args:
      nodes: `(k m + 1,)`, rising bids, of which every m-th has its payment.
      worths: `(k m + 1,)`, of the aggregates there.
      pays: `(k + 1,)`.
    """
    finite = jnp.isfinite(worths)
    worths = jnp.where(finite, worths, 0)
    places = np.add.outer(np.arange(0, nodes.size - 1, _PARTS), np.arange(_PARTS + 1))
    bids, worths = nodes[places], worths[places]

    def integral(s: jax.Array, x: jax.Array) -> jax.Array:
        return ((s[:, 1:] + s[:, :-1]) * jnp.diff(x)).sum(axis=-1) / 2

    fine, coarse = integral(bids, worths), integral(bids[:, ::2], worths[:, ::2])
    error = jnp.abs(fine - coarse)
    due = fine + (fine - coarse) / 3
    missed = jnp.abs(jnp.diff(pays) - due) - 2 * error
    paid = jnp.abs(pays[1:]) + jnp.abs(pays[:-1])
    sizes = bids[:, -1] * jnp.maximum(1, jnp.abs(worths).max(axis=-1))
    sizes = _OF_BID * sizes + jnp.maximum(paid, jnp.abs(due))
    known = finite[places].all(axis=-1) & (sizes > 0)
    return jnp.where(known, missed / jnp.where(known, sizes, 1), -jnp.inf).max()


def _payment_inconsistency(qs: jax.Array, pays: jax.Array, p: jax.Array) -> jax.Array:
    """The worst pair of neighbouring bids, in either direction."""
    up, down = path.both_ways(qs, p)
    dearer, cheaper = pays[1:] >= pays[:-1], pays[:-1] >= pays[1:]
    # Where rounding may have chosen the dearer one, only a clear preference counts.
    close = jnp.abs(jnp.diff(pays)) <= _CLOSE * (jnp.abs(pays[1:]) + jnp.abs(pays[:-1]))
    rises, falls = jnp.where(dearer, up, -jnp.inf), jnp.where(cheaper, down, -jnp.inf)
    return (jnp.maximum(rises, falls) - jnp.where(close, _CLOSE, 0)).max()


def gains_over_truth(value: jax.Array, worths: jax.Array, pays: jax.Array) -> jax.Array:
    """What bids gain over the last one, the truth, relative to the terms' size."""
    finite = jnp.isfinite(worths)
    worths = jnp.where(finite, worths, 0)
    gains = value * (worths - worths[-1]) - (pays - pays[-1])
    size = jnp.maximum(1, jnp.maximum(jnp.abs(worths), jnp.abs(worths[-1])))
    size = value * size + jnp.abs(pays) + jnp.abs(pays[-1])
    return jnp.where(finite, gains / jnp.where(size > 0, size, 1), -jnp.inf)
