"""The audit: which incentive properties a rule has, and where it fails."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax.numpy as jnp

from tokenauction_jax import records
from tokenauction_jax.auditing import sizes
from tokenauction_jax.auditing.instances import BID_RATIO, random_instances
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.properties.payment import (
    incentive_margins,
    payment_margins,
)
from tokenauction_jax.auditing.properties.replies import (
    reply_incentive_margins,
    reply_margins,
)
from tokenauction_jax.auditing.reply_hunt import ReplyHunt
from tokenauction_jax.auditing.reply_instances import random_reply_instances
from tokenauction_jax.auditing.report import Audit, ReplyAudit
from tokenauction_jax.auditing.rules import VALUATIONS, ReplyRules, Rules, Sampler
from tokenauction_jax.auditing.token_hunt import TokenHunt
from tokenauction_jax.environment import environment
from tokenauction_jax.mechanism import base, stable
from tokenauction_jax.replies import ReplyMechanism


@overload
def audit(
    rule: base.Aggregation,
    /,
    *payments: base.Payment,
    num_instances: int = ...,
    num_agents: int = ...,
    vocab_size: int = ...,
    num_candidates: int = ...,
    seed: int = ...,
    tolerance: float = ...,
    bid_ratio: float = ...,
    valuations: Sequence[base.Valuation] = ...,
    sampler: Sampler | None = ...,
    on_progress: Callable[[str], None] | None = ...,
) -> Audit: ...


@overload
def audit(
    rule: ReplyMechanism,
    /,
    *,
    num_instances: int = ...,
    num_agents: int = ...,
    vocab_size: int = ...,
    num_candidates: int = ...,
    seed: int = ...,
    tolerance: float = ...,
    bid_ratio: float = ...,
    on_progress: Callable[[str], None] | None = ...,
) -> ReplyAudit: ...


def audit(
    rule: base.Aggregation | ReplyMechanism,
    /,
    *payments: base.Payment,
    num_instances: int = 1000,
    num_agents: int = 3,
    vocab_size: int = 6,
    num_candidates: int = 6,
    seed: int = 0,
    tolerance: float = 1e-3,
    bid_ratio: float = BID_RATIO,
    valuations: Sequence[base.Valuation] = VALUATIONS,
    sampler: Sampler | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Audit | ReplyAudit:
    """Searches for violations of the incentive properties of rules.

    Each property is checked on random instances, from flat to degenerate distributions,
    with zeros, equal and zero bids. From the worst of them an adversary climbs the
    violation by gradient ascent on bids and logits, or on rewards and reports. The
    counterexamples that are found shrink to few agents, tokens or candidates, and
    digits. `docs/audit.md` defines the properties.

    A rule that misbehaves (raises, returns a wrong shape, is not normalised, charges a
    negative amount) is a finding, with the instance that shows it, not an error.

    Args:
      rule: An aggregation or a rule on replies, built in or your own.
      *payments: Payments for an aggregation; none checks it alone. A rule on replies
        has its own.
      num_instances: Random instances.
      num_agents: Agents of each, ``n >= 2``.
      vocab_size: Tokens of each auction of an aggregation, ``V >= 2``.
      num_candidates: Candidates of each auction of a rule on replies, ``M >= 2``.
      seed: Of all instances: the same seed finds the same.
      tolerance: The largest violation of a property of payments that counts as rounding
        (Myerson payments by quadrature err by up to 1e-3 at kinks). Those of an
        aggregation have limits of their own, 1e-5 or 1e-4.
      bid_ratio: The largest ratio between two bids of an instance, from 1 to 1e50;
        misreports are within a factor of 10.
      valuations: Under which truthfulness and individual rationality are checked.
      sampler: Called as `stable_sample` is; by default that, if the rule claims to be
        monotone, and none otherwise.
      on_progress: Called with a line about each stage that begins.

    Returns:
      An `Audit`, or a `ReplyAudit` of a rule on replies.

    Raises:
      ValueError: If a number is out of range, something is not a rule, or a rule on
        replies is given payments, valuations or a sampler.
    """
    of_replies = isinstance(rule, ReplyMechanism)
    count = num_candidates if of_replies else vocab_size
    counted = {"num_candidates" if of_replies else "vocab_size": count}
    numbers = seed, num_instances, num_agents
    sizes.check_numbers(*numbers, bid_ratio, tolerance, **counted)
    if of_replies and (payments or sampler or valuations is not VALUATIONS):
        raise ValueError(
            f"{records.describe(rule)} is a rule on replies, which has its own "
            "payments and sampler, and needs no valuation: give none"
        )
    for name, rules, kind in (
        ("aggregation", [] if of_replies else [rule], base.Aggregation),
        ("payment", payments, base.Payment),
        ("valuation", valuations, base.Valuation),
    ):
        for each in rules:
            records.check_rule(name, each, kind)
    start = time.perf_counter()
    search: dict[str, Any] = {
        "tolerance": tolerance,
        "bid_ratio": bid_ratio,
        "report": on_progress or (lambda line: None),
    }
    drawn = *numbers, count, bid_ratio

    def shared() -> dict[str, Any]:
        return {
            "num_agents": num_agents,
            "num_instances": num_instances,
            "tolerance": tolerance,
            "bid_ratio": bid_ratio,
            "seed": seed,
            "seconds": time.perf_counter() - start,
            "environment": environment() | {"dtype": str(jnp.zeros(()).dtype)},
        }

    if isinstance(rule, ReplyMechanism):
        findings, _ = ReplyHunt(random_reply_instances(*drawn), **search).findings(
            ReplyRules(rule), None, reply_margins, reply_incentive_margins
        )
        return ReplyAudit(
            rule=records.describe(rule),
            num_candidates=num_candidates,
            findings=tuple(findings),
            **shared(),
        )
    hunt = TokenHunt(random_instances(*drawn), **search)
    found = _token_audit(hunt, rule, payments, valuations, sampler)
    return Audit(vocab_size=vocab_size, **found, **shared())


def _token_audit(
    hunt: TokenHunt,
    aggregation: base.Aggregation,
    payments: Sequence[base.Payment],
    valuations: Sequence[base.Valuation],
    sampler: Sampler | None,
) -> dict[str, Any]:
    """The fields of an `Audit` that are found out."""
    if sampler is None and aggregation.monotone:
        sampler = stable.stable_sample
    rules = Rules(aggregation, sampler=sampler)
    findings, worst = hunt.findings(rules, None, aggregation_margins)
    hunt = dataclasses.replace(hunt, known=worst)
    runs = findings[0].verdict != "fails" or findings[0].instances > 0
    undefined, comparable = hunt.outcomes(rules) if runs else (0, float("nan"))
    for payment in payments if runs else ():
        findings += hunt.findings(
            Rules(aggregation, payment, valuations),
            records.describe(payment),
            payment_margins,
            incentive_margins,
        )[0]
    return {
        "aggregation": records.describe(aggregation),
        "payments": tuple(map(records.describe, payments)),
        "undefined": undefined,
        "comparable": comparable,
        "findings": tuple(findings),
    }
