"""The incentive properties that a rule may have, as margins on one instance.

A margin is positive where the property is violated and says by how much, negative where
it holds with something to spare, and NaN where the instance says nothing about it.
Margins are differentiable in bids and log-probabilities, so that an adversary can climb
them. Below, ``q(s)`` is the aggregate at an own bid of ``s``, ``r = q(0)``, ``w`` the
agent's true value, ``zeta(s)`` its expected payment and ``v`` a valuation.

Source: Duetting et al. (arXiv 2310.10826), section 3, for the first four.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokenauction_jax import records
from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.incentives import (
    comparable_fraction,
    preference_violation,
)
from tokenauction_jax.mechanism.valuations import (
    forward_kl,
    reverse_kl,
    total_variation,
)

Margins = dict[str, jax.Array]
Sampler = Callable[..., jax.Array]

WELL_FORMED = "well formed"
MONOTONE = "monotone aggregation"
CONSISTENT = "consistent aggregation"
STABLE = "stable sampling"
SAMPLER_LAW = "sampler follows the aggregate"
PAYMENT_MONOTONE = "payment monotonicity"
RATIONAL = "individual rationality: "
TRUTHFUL = "truthfulness: "
NON_NEGATIVE = "non-negative payments"
SURPLUS = "budget surplus"
ORDER = "agent order does not matter"
SCALE = "scaling all bids does not matter"

DEFINITIONS = {
    WELL_FORMED: "Weights and probabilities are numbers >= 0 that sum to 1, or all "
    "probabilities are 0 (an undefined auction); payments are finite numbers. "
    "Violation: by how much a sum misses 1.",
    MONOTONE: "For bids s < s' of one agent it robustly prefers q(s') to q(s): no "
    "token's probability moves away from p_i or past it. Violation: the largest such "
    "move, a probability.",
    CONSISTENT: "If an agent strictly robustly prefers q(s') to q(s) at one profile of "
    "the others' bids, it (weakly) does at every other. Violation: the smaller of how "
    "much it prefers it at the one and how much it fails to at the other.",
    STABLE: "With the randomness held fixed, raising a bid changes the token at most "
    "once, from outside T+ = {t: p_i(t) > r(t)} into it. Such a sampler exists only if "
    "probabilities rise in T+ and fall outside. Violation: the largest probability "
    "that moves the wrong way, or 1 where the sampler itself fails.",
    SAMPLER_LAW: "The tokens that the sampler draws at a bid have the distribution "
    "q(s): a Kolmogorov-Smirnov test over all instances at a false-alarm rate of 1e-9.",
    PAYMENT_MONOTONE: "An agent pays at least as much at s' as at s if and only if it "
    "robustly prefers q(s') to q(s). Two bids with one outcome are left out. "
    "Violation: by how much the outcome that costs no less fails to be preferred.",
    RATIONAL: "An agent that bids its true value w is no worse off than had it stayed "
    "out: w v(q) - zeta >= w v(r). Instances with p_i = r are left out. Violation: the "
    "loss, relative to the size of the terms.",
    TRUTHFUL: "No bid s is better than the true value: w v(q(s)) - zeta(s) is at most "
    "its value at s = w. Violation: the gain, relative to the size of the terms.",
    NON_NEGATIVE: "No agent is paid: in expectation, given the token, or as drawn. "
    "Violation: the largest such amount, relative to the sum of bids.",
    SURPLUS: "The payments sum to at least 0: in expectation, given the token, or as "
    "drawn. Violation: the deficit, relative to the sum of bids.",
    ORDER: "Permuting the agents permutes weights and payments and leaves q alone. "
    "Violation: the largest difference, payments relative to the sum of bids.",
    SCALE: "Multiplying all bids by a number leaves weights and q alone and multiplies "
    "payments by it: money has no unit. Violation: as for the order of agents.",
}

VALUATIONS = (total_variation(), forward_kl(), reverse_kl())

# A robust preference below this is rounding, not a premise.
_ROUNDING = 1e-6
# Outcomes closer than this in total variation tie with the preferred distribution.
_TIE = 1e-4
_NOT_APPLICABLE = jnp.nan


class _Opaque:
    """A pytree without leaves around any object: jit knows it by its identity."""

    def __init__(self, content: Any):
        self.content = content


jax.tree_util.register_pytree_node(
    _Opaque, lambda opaque: ((), opaque), lambda opaque, _: opaque
)


@records.record
class Rules:
    """What is questioned; made by `bundle`, which lets jit take a user's objects."""

    aggregation: Any
    payment: Any
    valuations: Any
    sampler: Any

    def unpack(
        self,
    ) -> tuple[
        base.Aggregation, base.Payment, tuple[base.Valuation, ...], Sampler | None
    ]:
        """The objects that `bundle` was given."""

        def content(rule: Any) -> Any:
            return rule.content if isinstance(rule, _Opaque) else rule

        valuations = tuple(map(content, self.valuations))
        rules = content(self.aggregation), content(self.payment)
        return *rules, valuations, content(self.sampler)


def bundle(
    aggregation: base.Aggregation,
    payment: base.Payment | None = None,
    valuations: Sequence[base.Valuation] = VALUATIONS,
    sampler: Sampler | None = None,
) -> Rules:
    """Rules whose numbers are leaves, if they are pytrees, as one pytree."""

    def wrapped(rule: Any) -> Any:
        return _Opaque(rule) if jax.tree_util.all_leaves([rule]) else rule

    return Rules(
        aggregation=wrapped(aggregation),
        payment=wrapped(payment),
        valuations=tuple(map(wrapped, valuations)),
        sampler=bundle_sampler(sampler),
    )


def bundle_sampler(sampler: Sampler | None) -> Any:
    """A sampler as a pytree without leaves."""
    return _Opaque(sampler)


def family(name: str) -> str:
    """The key in `DEFINITIONS` of a property, which may end in a valuation's name."""
    return next((key for key in (RATIONAL, TRUTHFUL) if name.startswith(key)), name)


def aggregation_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what concerns the aggregation alone, and the sampler if there is one.

    `SAMPLER_LAW` maps to a number that is uniform in (0, 1) if the sampler is right.
    """
    aggregation, _, _, sampler = rules.unpack()
    bids, log_probs, agent = instance.bids, instance.log_probs, instance.agent
    own_bids, p = _own_bids(instance), jnp.exp(log_probs[agent])
    log_path = _aggregates(aggregation, instance, own_bids, bids)
    log_elsewhere = _aggregates(
        aggregation, instance, own_bids[1:], instance.rival_bids
    )
    path, elsewhere = jnp.exp(log_path), jnp.exp(log_elsewhere)
    alive = (path > 0).any(axis=-1)
    gains = p > path[0]
    margins = {
        MONOTONE: _worst_step(_moves(path, p), alive),
        CONSISTENT: _inconsistency(path[1:], elsewhere, p),
        STABLE: _worst_step(_wrong_way(path, gains), alive),
        **_aggregation_symmetries(aggregation, instance),
    }
    if sampler is not None:
        key_sample, key_rank = jax.random.split(jax.random.key(instance.seed))
        tokens = sampler(key_sample, aggregation, agent, own_bids[1:], bids, log_probs)
        fails = _changes_wrongly(tokens, path[0], p) & alive[0]
        margins[STABLE] = jnp.where(fails, 1, margins[STABLE])
        margins[SAMPLER_LAW] = _rank(key_rank, path[-1], tokens[-1])
    weights = aggregation.weights(bids)
    sums = jnp.where(alive, jnp.abs(distributions.sum_last(path) - 1), 0).max()
    wrong = jnp.maximum(jnp.maximum(sums, jnp.abs(weights.sum() - 1)), -weights.min())
    is_nan = jnp.isnan(log_path).any() | jnp.isnan(weights).any()
    margins = _where_applicable(alive[1:].all(), margins)
    return {WELL_FORMED: jnp.where(is_nan, jnp.inf, wrong), **margins}


def payment_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what concerns a payment, those of `incentive_margins` included."""
    aggregation, payment, valuations, _ = rules.unpack()
    bids, log_probs = instance.bids, instance.log_probs
    order, scale = instance.order, instance.scale
    key_token, key_payment = jax.random.split(jax.random.key(instance.seed))
    log_q = aggregation.log_prob(bids, log_probs)
    token = jax.random.categorical(key_token, log_q)
    # One call of each method on stacked auctions, to compile each only once.
    own_rows = _own_bid_rows(instance)
    rows = jnp.concatenate([own_rows, bids[order][None], bids[None] * scale])
    tables = jnp.stack([log_probs, log_probs[order]])
    which = jnp.zeros(rows.shape[0], int).at[-2].set(1)
    expected = jax.vmap(payment.expected)(rows, tables[which])
    given, given_shuffled = jax.vmap(payment.conditional, (0, 0, None))(
        jnp.stack([bids, bids[order]]), tables, token
    )
    drawn = payment.realized(key_payment, bids, log_probs, token)
    path, shuffled, scaled = expected[:-2], expected[-2], expected[-1] / scale
    margins = _incentives(aggregation, valuations, instance, path)
    truth, charged = path[-1], jnp.stack([path[-1], given, drawn])
    total = bids.sum()
    differences = jnp.maximum(
        jnp.abs(shuffled - truth[order]), jnp.abs(given_shuffled - given[order])
    )
    margins |= {
        NON_NEGATIVE: -charged.min() / total,
        SURPLUS: -charged.sum(axis=-1).min() / total,
        ORDER: differences.max() / total,
        SCALE: jnp.abs(scaled - truth).max() / total,
    }
    defined = _is_payable(payment, instance, log_q)
    finite = jnp.isfinite(charged).all() & jnp.isfinite(expected).all()
    broken = jnp.where(finite, 0.0, jnp.inf)
    return _where_applicable(defined, {WELL_FORMED: broken, **margins})


def incentive_margins(rules: Rules, instance: Instance) -> Margins:
    """Margins of what an agent can gain, from expected payments alone."""
    aggregation, payment, valuations, _ = rules.unpack()
    log_probs = instance.log_probs
    pays = jax.vmap(payment.expected, (0, None))(_own_bid_rows(instance), log_probs)
    margins = _incentives(aggregation, valuations, instance, pays)
    log_q = aggregation.log_prob(instance.bids, log_probs)
    return _where_applicable(_is_payable(payment, instance, log_q), margins)


def compare_outcomes(rules: Rules, instance: Instance) -> dict[str, jax.Array]:
    """Whether the agent can compare the outcomes of the two profiles of bids."""
    aggregation = rules.unpack()[0]
    log_qs = jax.vmap(aggregation.log_prob, (0, None))(
        jnp.stack([instance.bids, instance.rival_bids]), instance.log_probs
    )
    defined = (log_qs > -jnp.inf).any(axis=-1).all()
    share = comparable_fraction(log_qs, instance.log_probs[instance.agent])
    return {"defined": defined, "comparable": defined & (share == 1)}


def _incentives(
    aggregation: base.Aggregation,
    valuations: Sequence[base.Valuation],
    instance: Instance,
    expected: jax.Array,
) -> Margins:
    """From expected payments `(k, n)` of `_own_bid_rows`; the last row is the truth."""
    bids, agent = instance.bids, instance.agent
    log_p, value = instance.log_probs[agent], bids[agent]
    own_bids = jnp.append(_own_bids(instance), value)
    log_path = _aggregates(aggregation, instance, own_bids, bids)
    alive = (log_path > -jnp.inf).any(axis=-1)
    # Who stays out pays nothing.
    pays = jnp.append(0.0, expected[:, agent])
    path = jnp.exp(log_path)
    margins = {
        PAYMENT_MONOTONE: _payment_inconsistency(
            path[1:-1], pays[1:-1], jnp.exp(log_p)
        ),
        NON_NEGATIVE: -expected[-1].min() / bids.sum(),
        SURPLUS: -expected[-1].sum() / bids.sum(),
    }
    tie = distributions.total_variation_distance(log_p, log_path[0]) < _TIE
    for valuation in valuations:
        worths = jax.vmap(valuation.value, (0, None))(log_path, log_p)
        gains = jnp.where(alive, _gains(value, worths, pays), -jnp.inf)
        stakes = alive[0] & jnp.isfinite(worths[-1])
        margins[RATIONAL + valuation.name] = jnp.where(
            stakes & ~tie, gains[0], _NOT_APPLICABLE
        )
        margins[TRUTHFUL + valuation.name] = jnp.where(
            stakes, gains[1:-1].max(), _NOT_APPLICABLE
        )
    return margins


def _is_payable(
    payment: base.Payment, instance: Instance, log_q: jax.Array
) -> jax.Array:
    """Whether the auction is defined, its payments are, and the agent bids."""
    defined = (log_q > -jnp.inf).any() & (instance.bids[instance.agent] > 0)
    if isinstance(payment, base.SupportsDefined):
        defined &= payment.defined(instance.bids, instance.log_probs)
    return defined


def _own_bid_rows(instance: Instance) -> jax.Array:
    """Bids `(k, n)`: the agent's own rising along the path, and last the truth."""
    own_bids = jnp.append(_own_bids(instance)[1:], instance.bids[instance.agent])
    rows = jnp.broadcast_to(instance.bids[None], (own_bids.size, instance.bids.size))
    return rows.at[:, instance.agent].set(own_bids)


def _own_bids(instance: Instance) -> jax.Array:
    """0, for the aggregate without the agent, and then its bids, rising."""
    bids = jnp.append(instance.own_bids, instance.bids[instance.agent])
    return jnp.append(0.0, jnp.sort(bids)).astype(bids.dtype)


def _aggregates(
    aggregation: base.Aggregation,
    instance: Instance,
    own_bids: jax.Array,
    bids: jax.Array,
) -> jax.Array:
    """``log q`` `(k, V)` along own bids `(k,)`, the others' taken from `bids`."""

    def log_q(own_bid: jax.Array) -> jax.Array:
        moved = bids.at[instance.agent].set(own_bid)
        return aggregation.log_prob(moved, instance.log_probs)

    return jax.vmap(log_q)(own_bids)


def _moves(path: jax.Array, p: jax.Array) -> jax.Array:
    """How far each step of `path` `(k, V)` is from a robust preference, `(k-1,)`."""
    deviation = path - p[None]
    return preference_violation(deviation[:-1], deviation[1:]).max(axis=-1)


def _wrong_way(path: jax.Array, gains: jax.Array) -> jax.Array:
    """What a gaining token loses, or another gains, in each step, `(k-1,)`."""
    rises = path[1:] - path[:-1]
    return jnp.where(gains[None], -rises, rises).max(axis=-1)


def _worst_step(steps: jax.Array, alive: jax.Array) -> jax.Array:
    """The largest of the steps `(k-1,)` between two defined aggregates."""
    return jnp.where(alive[:-1] & alive[1:], steps, -jnp.inf).max()


def _inconsistency(here: jax.Array, there: jax.Array, p: jax.Array) -> jax.Array:
    """The worst pair of neighbouring bids, in either direction, at two profiles."""
    # Axes: profile, direction (bids rising, falling), step.
    moves = jnp.stack(
        [jnp.stack([_moves(x, p), _moves(x[::-1], p)[::-1]]) for x in (here, there)]
    )
    strictly = moves[:, ::-1]
    violated = jnp.minimum(strictly, moves[::-1])
    return jnp.where(moves <= _ROUNDING, violated, -moves).max()


def _payment_inconsistency(path: jax.Array, pays: jax.Array, p: jax.Array) -> jax.Array:
    """The worst pair of neighbouring bids, in either direction."""
    up, down = _moves(path, p), _moves(path[::-1], p)[::-1]
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


def _aggregation_symmetries(
    aggregation: base.Aggregation, instance: Instance
) -> Margins:
    bids, log_probs, order = instance.bids, instance.log_probs, instance.order

    def outcome(bids: jax.Array, log_probs: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = jnp.exp(aggregation.log_prob(bids, log_probs))
        return q, aggregation.weights(bids)

    q, weights = outcome(bids, log_probs)
    shuffled_q, shuffled_weights = outcome(bids[order], log_probs[order])
    scaled_q, scaled_weights = outcome(bids * instance.scale, log_probs)
    return {
        ORDER: jnp.maximum(
            jnp.abs(shuffled_q - q).max(),
            jnp.abs(shuffled_weights - weights[order]).max(),
        ),
        SCALE: jnp.maximum(
            jnp.abs(scaled_q - q).max(), jnp.abs(scaled_weights - weights).max()
        ),
    }


def _changes_wrongly(tokens: jax.Array, r: jax.Array, p: jax.Array) -> jax.Array:
    """Whether tokens `(k,)` at rising bids are not those of a stable sampler."""
    before, after = tokens[:-1], tokens[1:]
    changed = before != after
    # A tie of p and r up to rounding may count as in T+ or not.
    allowed = (p - r < _ROUNDING)[before] & (p - r > -_ROUNDING)[after]
    return (changed.sum() > 1) | (changed & ~allowed).any()


def _rank(key: jax.Array, q: jax.Array, token: jax.Array) -> jax.Array:
    """A number that is uniform if the token was drawn from `q` `(V,)`."""
    below = jnp.where(jnp.arange(q.size) < token, q, 0).sum()
    return below + jax.random.uniform(key) * q[token]


def _where_applicable(applies: jax.Array, margins: Margins) -> Margins:
    return {
        name: jnp.where(applies, margin, _NOT_APPLICABLE)
        for name, margin in margins.items()
    }
