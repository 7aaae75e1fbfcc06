"""Properties of a rule on replies, as margins on one auction's candidates.

Throughout, ``p(s)`` are the chances of the candidates if the agent reports ``s``,
``pay(s)`` its mean payment, and ``u(s) = sum_j p_j(s) r(y_j) - pay(s)`` its utility at
its true rewards ``r``. The candidates are given.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.properties import (
    NON_NEGATIVE,
    ORDER,
    SURPLUS,
    WELL_FORMED,
    claims,
    path,
)
from tokenauction_jax.auditing.properties.claims import Claim, Margins
from tokenauction_jax.auditing.reply_instances import ReplyInstance
from tokenauction_jax.auditing.rules import ReplyRules

TRUTHFUL = "truthfulness"
RATIONAL = "individual rationality"
SILENT = "a report of 0 pays nothing"
ALONE = "one candidate costs nothing"
SCALE = "scaling rewards does not matter"
MEANS = "realized averages to expected"
SAMPLE_LAW = "sample follows the law"

DEFINITIONS: Mapping[str, str] = {
    WELL_FORMED: "Chances of the candidates are numbers >= 0 that sum to 1, what is "
    "drawn has a chance, and payments are finite. Violation: by how much a sum misses "
    "1.",
    SAMPLE_LAW: "The candidates that sample draws have the chances of log_prob: a test "
    "over all instances, with a false-alarm rate of 1e-9, of their ranks by chance, by "
    "the agent's rewards and by number.",
    RATIONAL: "An agent that reports its true rewards is no worse off than under the "
    "law without it: sum_j p_j(r) r(y_j) - pay(r) >= sum_j p_j(0) r(y_j). Violation: "
    "the loss, relative to the size of the terms.",
    TRUTHFUL: "Given the candidates, no report s, of any shape, is better than the "
    "true rewards: u(s) <= u(r). Violation: the gain, relative to the size of the "
    "terms.",
    NON_NEGATIVE: "No agent is paid in expectation; once a candidate is drawn it may "
    "be. Violation: the largest such amount, relative to the agent's largest reward.",
    SURPLUS: "The mean payments sum to at least 0. Violation: the deficit, relative to "
    "all that is paid either way.",
    SILENT: "An agent that reports 0 for all candidates pays 0, in expectation and "
    "whatever is drawn. Violation: the payment, relative to 1 % of all rewards.",
    ALONE: "Where there is one candidate nobody pays. Violation: as for a report of 0.",
    ORDER: "Permuting the agents permutes payments and leaves the law alone. Instances "
    "within rounding of a tie are left out. Violation: the largest difference, "
    "payments relative to themselves.",
    SCALE: "Multiplying all rewards by a number leaves the law alone and multiplies "
    "payments by it. Only of rules without a number of their own, which could be "
    "money. Violation: as for the order of agents.",
    MEANS: "The mean of realized over the candidates, by their chances, is expected. "
    "Violation: the largest difference, relative to what is paid either way.",
}

# Of an agent's largest reward, and of the sum of all agents': what is small.
_OF_REWARD, _OF_TOTAL = 1e-2, 1e-3
# Outcomes that move by more than this under a disturbance of rewards are at a tie.
_STEADY, _DISTURBANCE = 1e-2, 1e-5
# Draws in each instance.
_DRAWS = 128


def reply_margins(rules: ReplyRules, instance: ReplyInstance) -> Margins:
    """All margins; `SAMPLE_LAW` maps to what `_ranks` says of each draw, `(K, 3)`."""
    rule, agent, order = rules.rule, instance.agent, instance.order
    rewards, log_weights = instance.auction()
    scale = instance.scale if rules.has_no_unit else jnp.ones_like(instance.scale)
    sizes, total = _sizes(rewards)
    wobble = jnp.cos(1 + 7 * jnp.arange(rewards.size)).reshape(rewards.shape)
    wobble = _DISTURBANCE * total * wobble
    others = [rewards[order], rewards * scale, rewards + wobble, rewards - wobble]
    profiles = jnp.concatenate([_profiles(instance), jnp.stack(others)])
    log_ps, pays = _outcomes(rules, profiles, log_weights)
    # Without the agent, with the truth, permuted, scaled and twice disturbed.
    ps, paid = path.probabilities(log_ps[-6:]), pays[-6:]
    unit = jnp.maximum(total, 1e-30)
    possible_alone, possible = log_ps[-6:-4] > -jnp.inf
    truth = jnp.where(possible, ps[1], 0)

    by_reply = jax.vmap(rule.realized, (None, None, 0))
    replies = jnp.arange(log_weights.size)
    given = by_reply(rewards, log_weights, replies)
    silent = by_reply(rewards.at[agent].set(0), log_weights, replies)
    # If a candidate is not drawn, its payments may be anything.
    given = jnp.where(possible[:, None], given, 0)
    silent = jnp.where(possible_alone, silent[:, agent], 0)
    only = rewards[:, log_weights.argmax()][:, None]
    alone = rule.expected(only, jnp.zeros_like(log_weights[:1]))

    key_sample, key_rank = jax.random.split(jax.random.key(instance.seed))
    drawn = jax.vmap(rule.sample, (0, None, None))(
        jax.random.split(key_sample, _DRAWS), rewards, log_weights
    )
    listed = (drawn >= 0) & (drawn < replies.size)
    drawn = jnp.where(listed, drawn, 0)
    impossible = ~listed | ~possible[drawn]

    size = jnp.abs(paid) + _OF_TOTAL * unit
    moved = jnp.abs(ps[4:] - ps[1][None]).max(), jnp.abs(paid[4:] - paid[1][None]).max()
    steady = jnp.maximum(moved[0], moved[1] / unit) < _STEADY
    same = [
        Claim(ORDER, "chances in another order", "==", ps[2], ps[1]),
        _charge(ORDER, paid[2], paid[1][order], (size[1] + _OF_REWARD * sizes)[order]),
        Claim(SCALE, "chances with scaled rewards", "==", ps[3], ps[1]),
        _charge(SCALE, paid[3] / scale, paid[1], size[1] + _OF_REWARD * sizes),
    ]
    symmetric = claims.where_applicable(steady, claims.worst(same))
    if not rules.has_no_unit:
        symmetric[SCALE] = jnp.full_like(symmetric[SCALE], jnp.nan)
    small = _OF_REWARD * unit
    mean = truth @ given
    both = truth @ jnp.abs(given) + size[1]
    sums = path.probabilities(log_ps).sum(axis=-1)
    told = [
        Claim(WELL_FORMED, "the sum of chances", "==", _known(sums), 1.0),
        Claim(WELL_FORMED, "infinite payments", "==", _infinite(pays), 0.0),
        Claim(WELL_FORMED, "infinite payments", "==", _infinite(given), 0.0),
        Claim(WELL_FORMED, "draws without a chance", "==", _bad(impossible), 0.0),
        Claim(SILENT, "expected", "==", paid[0][agent], 0.0, small),
        Claim(SILENT, "realized", "==", silent, 0.0, small),
        Claim(ALONE, "expected", "==", alone, 0.0, small),
        _charge(MEANS, mean, paid[1], both),
    ]
    ranks = _ranks(key_rank, truth, rewards[agent], drawn)
    found = _incentives(instance, log_ps[:-4], pays[:-4])
    return claims.worst(told) | symmetric | found | {SAMPLE_LAW: ranks}


def reply_incentive_margins(rules: ReplyRules, instance: ReplyInstance) -> Margins:
    """Margins of what an agent can gain and who is paid, from laws and means alone."""
    profiles = _profiles(instance)
    return _incentives(instance, *_outcomes(rules, profiles, instance.log_weights))


def utility_gains(rules: ReplyRules, instance: ReplyInstance) -> jax.Array:
    """What each other report gains, then none, then the truth itself, `(k + 2,)`.

    Relative to the size of the terms.
    """
    profiles = _profiles(instance)
    return _gains(instance, *_outcomes(rules, profiles, instance.log_weights))


def _outcomes(
    rules: ReplyRules, profiles: jax.Array, log_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-chances `(k, M)` and mean payments `(k, n)` of rewards `(k, n, M)`."""
    of_each = (0, None)
    log_ps = jax.vmap(rules.rule.log_prob, of_each)(profiles, log_weights)
    return log_ps, jax.vmap(rules.rule.expected, of_each)(profiles, log_weights)


def _profiles(instance: ReplyInstance) -> jax.Array:
    """Rewards `(k + 2, n, M)`: with each other report, with none, and the truth."""
    rewards, agent = jnp.asarray(instance.rewards), instance.agent
    truth = rewards[agent][None]
    reports = jnp.concatenate([instance.reports, 0 * truth, truth])
    return jax.vmap(lambda report: rewards.at[agent].set(report))(reports)


def _incentives(instance: ReplyInstance, log_ps: jax.Array, pays: jax.Array) -> Margins:
    """From the outcomes of `_profiles`."""
    gains = _gains(instance, log_ps, pays)
    sizes, total = _sizes(instance.rewards)
    paid, floor = pays[-1], jnp.maximum(_OF_TOTAL * total, 1e-30)
    either_way = jnp.abs(paid).sum() + floor
    nobody_is_paid = [
        Claim(NON_NEGATIVE, "expected", ">=", paid, 0.0, size=sizes + floor),
        Claim(SURPLUS, "their sum", ">=", paid.sum(), 0.0, size=either_way),
    ]
    incentives = {RATIONAL: gains[-2], TRUTHFUL: gains[:-2].max()}
    return incentives | claims.worst(nobody_is_paid)


def _gains(instance: ReplyInstance, log_ps: jax.Array, pays: jax.Array) -> jax.Array:
    """See `utility_gains`; from the outcomes of `_profiles`."""
    agent = instance.agent
    sizes, total = _sizes(instance.rewards)
    worths = path.probabilities(log_ps) @ instance.rewards[agent]
    # Who stays out pays nothing.
    own = pays[:, agent].at[-2].set(0)
    utilities = worths - own
    terms = sizes[agent] + jnp.abs(own) + jnp.abs(own[-1]) + _OF_TOTAL * total
    return (utilities - utilities[-1]) / jnp.where(terms > 0, terms, 1)


def _sizes(rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each agent's largest reward, `(n,)`, and their sum: the money at stake."""
    sizes = jnp.abs(rewards).max(axis=1)
    return sizes, sizes.sum()


def _charge(name: str, found: jax.Array, wanted: jax.Array, size: jax.Array) -> Claim:
    return Claim(name, "payments", "==", found, wanted, size=size)


def _known(sums: jax.Array) -> jax.Array:
    """Sums, of which NaN misses by infinity."""
    return jnp.where(jnp.isnan(sums), -jnp.inf, sums)


def _infinite(pays: jax.Array) -> jax.Array:
    return _bad(~jnp.isfinite(pays))


def _bad(wrong: jax.Array) -> jax.Array:
    return jnp.where(wrong, jnp.inf, 0.0)


def _ranks(key: jax.Array, p: jax.Array, own: jax.Array, drawn: jax.Array) -> jax.Array:
    """Numbers `(K, 3)`, each uniform in (0, 1) if candidates `(K,)` are drawn from `p`.

    They are ranked by their chances, by the agent's rewards `own`, and by number: a
    law that is too flat is told by the first, and one that leans to an agent by the
    second.
    """
    numbers = jnp.arange(p.size)
    ranks = []
    for scores in (p, own, numbers):
        place = jnp.argsort(jnp.argsort(scores, stable=True), stable=True)
        below = jnp.where(place[None] < place[:, None], p[None], 0).sum(axis=1)
        ranks.append(below[drawn])
    ranks = jnp.stack(ranks, axis=-1)
    return ranks + (jax.random.uniform(key, drawn.shape) * p[drawn])[:, None]
