"""The audit: which incentive properties a rule has, and where it fails."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax.numpy as jnp

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
# Programs have a part for each pair of agents; instances are drawn all at once.
_MOST_AGENTS, _MOST_PROBABILITIES = 64, 2**26


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
      ValueError: If a number is out of range or something is not a rule.
    """
    _check_sizes(num_instances, num_agents, vocab_size, seed)
    for name, rules, kind in (
        ("aggregation", [aggregation], base.Aggregation),
        ("payment", payments, base.Payment),
        ("valuation", valuations, base.Valuation),
    ):
        for rule in rules:
            base.check_rule(name, rule, kind)
    for name, number, least, most in (
        ("bid_ratio", bid_ratio, 1, _LARGEST_RATIO),
        ("tolerance", tolerance, 0, 1),
    ):
        if not least <= number <= most:
            raise ValueError(f"{name} must be from {least} to {most:g}, got {number!r}")
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


def _check_sizes(
    num_instances: int, num_agents: int, vocab_size: int, seed: int
) -> None:
    for name, size, least, most in (
        ("num_instances", num_instances, 1, _MOST_PROBABILITIES),
        ("num_agents", num_agents, 2, _MOST_AGENTS),
        ("vocab_size", vocab_size, 2, _MOST_PROBABILITIES),
        ("seed", seed, 0, 2**32 - 1),
    ):
        records.check_integer(name, size, least, most)
    if num_instances * num_agents * vocab_size > _MOST_PROBABILITIES:
        raise ValueError(
            f"{num_instances} instances of {num_agents} agents and {vocab_size} tokens "
            f"are more than {_MOST_PROBABILITIES} probabilities: ask for fewer"
        )
