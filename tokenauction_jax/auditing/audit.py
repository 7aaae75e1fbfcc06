"""The audit: which incentive properties a rule has, and where it fails."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.auditing.hunt import Hunt
from tokenauction_jax.auditing.instances import BID_RATIO, random_instances
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.properties.payment import (
    incentive_margins,
    payment_margins,
)
from tokenauction_jax.auditing.report import Audit
from tokenauction_jax.auditing.rules import VALUATIONS, Rules, Sampler
from tokenauction_jax.environment import environment
from tokenauction_jax.mechanism import base, stable

# With misreports and other units, all bids stay in the range of bids.
_LARGEST_RATIO = 1e50


def audit(
    aggregation: base.Aggregation,
    *payments: base.Payment,
    num_instances: int = 1000,
    num_agents: int = 3,
    vocab_size: int = 6,
    seed: int = 0,
    tolerance: float = 1e-3,
    bid_ratio: float = BID_RATIO,
    valuations: Sequence[base.Valuation] = VALUATIONS,
    sampler: Sampler | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Audit:
    """Searches for violations of the incentive properties of rules.

    Each property is checked on random instances, from flat to degenerate distributions,
    with zeros, equal and zero bids. From the worst of them an adversary climbs the
    violation by gradient ascent on bids and logits. The counterexamples that are found
    shrink to few agents, tokens and digits. `docs/audit.md` defines the properties.

    A rule that misbehaves (raises, returns a wrong shape, is not normalised, charges a
    negative amount) is a finding, with the instance that shows it, not an error.

    Args:
      aggregation: The rule, built in or your own.
      *payments: Payments for it; none checks the aggregation alone.
      num_instances: Random instances.
      num_agents: Agents of each, ``n >= 2``.
      vocab_size: Tokens of each, ``V >= 2``.
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
      An `Audit`.

    Raises:
      ValueError: If a size is too small or something is not a rule.
    """
    for name, size, least in (
        ("num_instances", num_instances, 1),
        ("num_agents", num_agents, 2),
        ("vocab_size", vocab_size, 2),
    ):
        if not isinstance(size, int | np.integer) or size < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {size!r}")
    for name, rules, kind in (
        ("aggregation", [aggregation], base.Aggregation),
        ("payment", payments, base.Payment),
        ("valuation", valuations, base.Valuation),
    ):
        for rule in rules:
            base.check_rule(name, rule, kind)
    if not 1 <= bid_ratio <= _LARGEST_RATIO:
        raise ValueError(
            f"bid_ratio must be from 1 to {_LARGEST_RATIO:g}, got {bid_ratio!r}"
        )
    start = time.perf_counter()
    if sampler is None and aggregation.monotone:
        sampler = stable.stable_sample
    hunt = Hunt(
        random_instances(seed, num_instances, num_agents, vocab_size, bid_ratio),
        tolerance=tolerance,
        bid_ratio=bid_ratio,
        report=on_progress or (lambda line: None),
    )
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
    return Audit(
        aggregation=records.describe(aggregation),
        payments=tuple(map(records.describe, payments)),
        num_agents=num_agents,
        vocab_size=vocab_size,
        num_instances=num_instances,
        undefined=undefined,
        comparable=comparable,
        tolerance=tolerance,
        bid_ratio=bid_ratio,
        seed=seed,
        seconds=time.perf_counter() - start,
        environment=environment() | {"dtype": str(jnp.zeros(()).dtype)},
        findings=tuple(findings),
    )
