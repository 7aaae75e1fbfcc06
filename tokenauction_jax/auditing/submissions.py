"""What an agent gains by submitting another distribution than its true one.

The model takes distributions as they are submitted; bids and rewards are what rules
make agents tell the truth about. Here the bid is the true value, and the distribution
is not the true one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.auditing import sizes
from tokenauction_jax.auditing.instances import BID_RATIO, Instance, random_instances
from tokenauction_jax.auditing.properties.payment import gains_over_truth
from tokenauction_jax.auditing.properties.replies import utility_gains
from tokenauction_jax.auditing.reply_instances import ReplyInstance
from tokenauction_jax.auditing.rules import VALUATIONS, ReplyRules, Rules
from tokenauction_jax.auditing.search import evaluate
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.replies import ReplyMechanism

# Of the powers ``p^a`` and the shifts ``p (p / r)^c``.
_POWERS, _SHIFTS = (0.25, 0.5, 2.0, 4.0), (0.5, 1.0, 2.0)
# Nobody but the agent may have its favourite token; that is worth no more than this.
_LEAST_LOG = -20.0
# What the favourite token leaves for the others, so that rewards are finite.
_LEFT = 1e-3
# Tokens of a candidate reply.
_LENGTH = 4

MISREPORTS = (
    *(f"p^{a:g}" for a in _POWERS),
    *(f"p (p/r)^{c:g}" for c in _SHIFTS),
    "favourite",
)


@dataclasses.dataclass(frozen=True)
class Submissions:
    """What misreported distributions gain under one rule.

    Attributes:
      rule: The rule, as text.
      payment: The payment, as text; None of a rule on replies.
      valuation: By which outcomes are valued, at the true distribution; None of a rule
        on replies, whose agents value candidates by their true rewards.
      instances: Random auctions in which the truth has a finite worth.
      gaining: In how many of them some misreport gains more than rounding.
      mean: The gain of the best misreport, 0 if none gains, relative to the size of the
        terms, over all instances.
      largest: The largest such gain.
      misreport: The one of `MISREPORTS` that has the largest.
      means: The mean of what each gains, at least 0, by its name.
    """

    rule: str
    payment: str | None
    valuation: str | None
    instances: int
    gaining: int
    mean: float
    largest: float
    misreport: str
    means: dict[str, float]


def distribution_misreports(
    rule: base.Mechanism | ReplyMechanism,
    *,
    num_instances: int = 1000,
    num_agents: int = 3,
    vocab_size: int = 6,
    num_candidates: int = 6,
    seed: int = 0,
    tolerance: float = 1e-3,
    bid_ratio: float = BID_RATIO,
    valuations: Sequence[base.Valuation] = VALUATIONS,
) -> tuple[Submissions, ...]:
    """Measures what an agent gains by misreporting its distribution, at its true bid.

    It sharpens or flattens it, ``p^a``, or shifts it away from the others' mixture
    ``r``, to ``p (p / r)^c``, both renormalised, or puts all but a thousandth on its
    favourite token. Its utility is ``w v(q(p'), p) - zeta(p')`` with the true ``p`` in
    the valuation. Under a rule on replies its rewards ``b (log p' - log p_ref)`` are of
    ``p'`` and their worth to it of ``p``; candidates of 4 tokens are drawn from the
    reference, one more agent, which does not bid.

    Args:
      rule: An aggregation with its payment, or a rule on replies.
      num_instances: Random auctions, as of `audit`.
      num_agents: Agents that bid.
      vocab_size: Tokens.
      num_candidates: Candidates of a rule on replies.
      seed: Of all auctions.
      tolerance: The largest gain, relative to the terms, that counts as rounding.
      bid_ratio: The largest ratio between two bids.
      valuations: Of an aggregation; there is one answer for each.

    Returns:
      One `Submissions` for each valuation, or one for a rule on replies.

    Raises:
      ValueError: If a number is out of range, or the rule is none.

    >>> from tokenauction_jax.replies import best_of
    >>> (found,) = distribution_misreports(best_of(), num_instances=20)
    >>> found.gaining
    0
    """
    counts = {"vocab_size": vocab_size, "num_candidates": num_candidates}
    numbers = seed, num_instances, num_agents
    sizes.check_numbers(*numbers, bid_ratio, tolerance, **counts)
    for valuation in valuations:
        records.check_rule("valuation", valuation, base.Valuation)
    if isinstance(rule, ReplyMechanism):
        auctions = random_instances(
            seed, num_instances, num_agents + 1, vocab_size, bid_ratio
        )
        cases = _with_candidates(auctions, num_candidates)
        found = evaluate(_reply_gains, ReplyRules(rule), cases)
        names = {"": None}
        told = records.describe(rule), None
    elif isinstance(rule, base.Mechanism):
        cases = random_instances(*numbers, vocab_size, bid_ratio)
        rules = Rules(rule.aggregation, rule.payment, valuations)
        found = evaluate(_token_gains, rules, cases)
        names = {valuation.name: valuation.name for valuation in valuations}
        told = records.describe(rule.aggregation), records.describe(rule.payment)
    else:
        raise ValueError(f"rule must be a Mechanism or a ReplyMechanism, got {rule!r}")
    return tuple(
        _summary(*told, valuation, found[name], tolerance)
        for name, valuation in names.items()
    )


def misreported(log_p: jax.Array, log_r: jax.Array) -> jax.Array:
    """The misreports `(K, V)` of `log_p` `(V,)` where the others want `log_r`."""
    powers = [a * log_p for a in _POWERS]
    away = jnp.where(log_p > -jnp.inf, log_p, 0) - jnp.maximum(log_r, _LEAST_LOG)
    shifts = [log_p + c * away for c in _SHIFTS]
    favourite = jnp.where(jnp.arange(log_p.size) == log_p.argmax(), 1 - _LEFT, 0)
    mixed = distributions.safe_log(favourite + _LEFT * jnp.exp(log_p))
    return distributions.normalize(jnp.stack([*powers, *shifts, mixed]))


def _token_gains(rules: Rules, instance: Instance) -> dict[str, jax.Array]:
    """By valuation, what each misreport gains relative to the terms, `(K,)`."""
    bids, log_probs, agent = instance.bids, instance.log_probs, instance.agent
    log_p = log_probs[agent]
    log_r = linear().log_prob(bids.at[agent].set(0), log_probs)
    submitted = jnp.concatenate([misreported(log_p, log_r), log_p[None]])
    tables = jax.vmap(lambda row: log_probs.at[agent].set(row))(submitted)
    log_qs = jax.vmap(rules.aggregation.log_prob, (None, 0))(bids, tables)
    pays = jax.vmap(rules.priced().expected, (None, 0))(bids, tables)[:, agent]
    defined = (log_qs > -jnp.inf).any(axis=-1)
    takes_part = defined[-1] & (bids[agent] > 0) & (log_r > -jnp.inf).any()
    gains = {}
    for valuation in rules.valuations:
        worths = jax.vmap(valuation.value, (0, None))(log_qs, log_p)
        worths = jnp.where(defined, worths, -jnp.inf)
        gained = gains_over_truth(bids[agent], worths, pays)[:-1]
        applies = takes_part & jnp.isfinite(worths[-1])
        gains[valuation.name] = jnp.where(applies, gained, jnp.nan)
    return gains


def _reply_gains(rules: ReplyRules, instance: ReplyInstance) -> dict[str, jax.Array]:
    """The same of a rule on replies, under one name; reports are the misreports."""
    return {"": utility_gains(rules, instance)[:-2]}


@jax.jit
@jax.vmap
def _candidates(
    instance: Instance, drawn: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The agent, true rewards `(n, M)` and those of its misreports `(K, M)`.

    The last agent is the reference.
    """
    num_agents, vocab_size = instance.log_probs.shape
    # Every agent can write every token: rewards are finite.
    p = (1 - _LEFT) * jnp.exp(instance.log_probs) + _LEFT / vocab_size
    log_probs, log_reference = jnp.log(p[:-1]), jnp.log(p[-1])
    bids = instance.bids[:-1]
    agent = instance.agent % (num_agents - 1)
    # Tokens (M, T), by the reference's cumulative law.
    below = (jnp.cumsum(p[-1])[None, None] < drawn[..., None]).sum(axis=-1)
    tokens = jnp.minimum(below, vocab_size - 1)

    def ratios(log_rows: jax.Array) -> jax.Array:
        return (log_rows - log_reference[None])[:, tokens].sum(axis=-1)

    rest = bids.at[agent].set(0)
    log_r = linear().log_prob(jnp.where(rest.sum() > 0, rest, 1), log_probs)
    submitted = misreported(log_probs[agent], log_r)
    return agent, bids[:, None] * ratios(log_probs), bids[agent] * ratios(submitted)


def _with_candidates(auctions: Instance, num_candidates: int) -> ReplyInstance:
    """Auctions of candidates, whose reports are misreported distributions."""
    size, num_agents = auctions.bids.shape
    seeds = np.asarray(auctions.seed).tolist()
    rng = np.random.default_rng(seeds)
    drawn = rng.random((size, num_candidates, _LENGTH), np.float32)
    agent, rewards, reports = jax.device_get(_candidates(auctions, drawn))
    return ReplyInstance(
        agent=agent,
        rewards=rewards,
        log_weights=np.zeros((size, num_candidates), np.float32),
        reports=reports,
        order=np.tile(np.arange(num_agents - 1), (size, 1)),
        scale=np.ones(size, np.float32),
        seed=auctions.seed,
    )


def _summary(
    rule: str,
    payment: str | None,
    valuation: str | None,
    gains: Any,
    tolerance: float,
) -> Submissions:
    """From gains `(N, K)`, NaN where an auction says nothing."""
    gains = np.asarray(gains, float)
    gains = np.maximum(gains[~np.isnan(gains).any(axis=1)], 0)
    if not gains.size:
        nothing = dict.fromkeys(MISREPORTS, float("nan"))
        return Submissions(
            rule, payment, valuation, 0, 0, float("nan"), float("nan"), "", nothing
        )
    best = gains.max(axis=1)
    which = int(gains[best.argmax()].argmax())
    return Submissions(
        rule=rule,
        payment=payment,
        valuation=valuation,
        instances=len(gains),
        gaining=int((best > tolerance).sum()),
        mean=float(best.mean()),
        largest=float(best.max()),
        misreport=MISREPORTS[which] if best.max() > tolerance else "",
        means=dict(zip(MISREPORTS, gains.mean(axis=0).tolist(), strict=True)),
    )
