"""Properties of a payment: what an agent gains by its bid, and who pays whom."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties import (
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


def payment_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what concerns a payment, those of `incentive_margins` included."""
    payment, order, scale = rules.priced(), instance.order, instance.scale
    bids, log_probs = instance.bids, instance.log_probs
    key_token, key_payment = jax.random.split(jax.random.key(instance.seed))
    log_q = rules.aggregation.log_prob(bids, log_probs)
    token = jax.random.categorical(key_token, log_q)
    # One call of each method on stacked auctions, to compile each only once.
    auctions = claims.symmetric_auctions(bids, log_probs, order, scale)
    others, tables = (jnp.stack(x) for x in zip(*auctions, strict=True))
    own_rows = _own_bid_rows(instance)
    rows = jnp.concatenate([own_rows, others[1:]])
    which = jnp.zeros(rows.shape[0], int).at[-2].set(1)
    expected = jax.vmap(payment.expected)(rows, tables[which])
    given = jax.vmap(payment.conditional, (0, 0, None))(others[:2], tables[:2], token)
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
        _finite("expected", expected),
    ]
    margins = _incentives(rules, instance, expected[:-2]) | claims.worst(charged)
    return claims.where_applicable(_is_questioned(payment, instance, log_q), margins)


def incentive_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what an agent can gain, from expected payments alone."""
    payment, log_probs = rules.priced(), instance.log_probs
    pays = jax.vmap(payment.expected, (0, None))(_own_bid_rows(instance), log_probs)
    margins = _incentives(rules, instance, pays)
    margins |= claims.worst(_nobody_is_paid("expected", pays[-1], instance.bids.sum()))
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
      plain: Payments of an auction.
      permuted: Some of them with the agents in another order, see `symmetric_auctions`.
      scaled: Some of them with scaled bids.
      bids: `(n,)`, of the auction.
      order: `(n,)`, the permutation.
      scale: The factor.
    """
    total, charged = bids.sum(), []
    for method, pays in plain.items():
        charged += [_finite(method, pays), *_nobody_is_paid(method, pays, total)]
    for method, pays in permuted.items():
        what, wanted = f"{method} in another order", plain[method][order]
        charged.append(Claim(ORDER, what, "==", pays, wanted, total))
    for method, pays in scaled.items():
        what, wanted = f"{method} with scaled bids", plain[method]
        charged.append(Claim(SCALE, what, "==", pays / scale, wanted, total))
    return charged


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


def _nobody_is_paid(method: str, pays: jax.Array, total: jax.Array) -> list[Claim]:
    negative, deficit = f"the negative part of {method}", f"the sum of {method}"
    return [
        Claim(NON_NEGATIVE, negative, ">=", pays, 0.0, total),
        Claim(SURPLUS, deficit, ">=", pays.sum(), 0.0, total),
    ]


def _incentives(rules: Rules, instance: Instance, expected: jax.Array) -> Margins:
    """From expected payments `(k, n)` of `_own_bid_rows`; the last row is the truth."""
    bids, log_probs, agent = instance.bids, instance.log_probs, instance.agent
    log_p, value = log_probs[agent], bids[agent]
    own_bids = jnp.append(path.rising_bids(instance), value)
    log_qs = path.aggregates(rules.aggregation, agent, own_bids, bids, log_probs)
    defined = (log_qs > -jnp.inf).any(axis=-1)
    # Who stays out pays nothing.
    pays = jnp.append(0.0, expected[:, agent])
    qs, p = jnp.exp(log_qs), jnp.exp(log_p)
    margins = {PAYMENT_MONOTONE: _payment_inconsistency(qs[1:-1], pays[1:-1], p)}
    tie = distributions.total_variation_distance(log_p, log_qs[0]) < _TIE
    for valuation in rules.valuations:
        worths = jax.vmap(valuation.value, (0, None))(log_qs, log_p)
        gains = jnp.where(defined, _gains(value, worths, pays), -jnp.inf)
        stakes = defined[0] & jnp.isfinite(worths[-1])
        rational, truthful = gains[0], gains[1:-1].max()
        margins |= {
            RATIONAL + valuation.name: jnp.where(stakes & ~tie, rational, jnp.nan),
            TRUTHFUL + valuation.name: jnp.where(stakes, truthful, jnp.nan),
        }
    return margins


def _own_bid_rows(instance: Instance) -> jax.Array:
    """Bids `(k, n)`: the agent's own rising along the path, and last the truth."""
    own_bids = jnp.append(path.rising_bids(instance)[1:], instance.bids[instance.agent])
    rows = jnp.broadcast_to(instance.bids[None], (own_bids.size, instance.bids.size))
    return rows.at[:, instance.agent].set(own_bids)


def _payment_inconsistency(qs: jax.Array, pays: jax.Array, p: jax.Array) -> jax.Array:
    """The worst pair of neighbouring bids, in either direction."""
    up, down = path.both_ways(qs, p)
    dearer, cheaper = pays[1:] >= pays[:-1], pays[:-1] >= pays[1:]
    return jnp.maximum(
        jnp.where(dearer, up, -jnp.inf).max(), jnp.where(cheaper, down, -jnp.inf).max()
    )


def _gains(value: jax.Array, worths: jax.Array, pays: jax.Array) -> jax.Array:
    """What bids gain over the last one, the truth, relative to the terms' size."""
    finite = jnp.isfinite(worths)
    worths = jnp.where(finite, worths, 0)
    gains = value * (worths - worths[-1]) - (pays - pays[-1])
    size = jnp.maximum(1, jnp.maximum(jnp.abs(worths), jnp.abs(worths[-1])))
    size = value * size + jnp.abs(pays) + jnp.abs(pays[-1])
    return jnp.where(finite, gains / jnp.where(size > 0, size, 1), -jnp.inf)
