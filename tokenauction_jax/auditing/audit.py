"""The audit: which incentive properties a rule has, and where it fails."""

import dataclasses
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import Instance, random_instances
from tokenauction_jax.auditing.report import Audit, Counterexample, Finding, is_drawn
from tokenauction_jax.environment import environment
from tokenauction_jax.mechanism import base, stable

_PREFERENCES = (
    properties.MONOTONE,
    properties.CONSISTENT,
    properties.STABLE,
)
# Symmetries fail anywhere or nowhere, and draws have no slope.
_UNCLIMBED = (properties.WELL_FORMED, properties.ORDER, properties.SCALE)
# A counterexample keeps this share of the worst violation while it shrinks.
_KEPT = 0.1
_FALSE_ALARM = 1e-9
_LONGEST_NOTE = 300


def audit(
    aggregation: base.Aggregation,
    *payments: base.Payment,
    num_instances: int = 1000,
    num_agents: int = 3,
    vocab_size: int = 6,
    seed: int = 0,
    tolerance: float = 1e-3,
    valuations: Sequence[base.Valuation] = properties.VALUATIONS,
    sampler: properties.Sampler | None = None,
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
      tolerance: The largest violation in money, relative to its terms, that counts as
        rounding (Myerson payments by quadrature err by up to 1e-3 at kinks). Violations
        in probability are allowed 1e-5.
      valuations: Under which truthfulness and individual rationality are checked.
      sampler: Called as `stable_sample` is; by default that, if the rule claims to be
        monotone, and none otherwise.
      on_progress: Called with a line about each stage that begins.

    Returns:
      An `Audit`.

    Raises:
      ValueError: If a size is too small or something is no rule at all.
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
            if not isinstance(rule, kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {rule!r}")
    start = time.perf_counter()
    if sampler is None and aggregation.monotone:
        sampler = stable.stable_sample
    hunt = _Hunt(
        random_instances(seed, num_instances, num_agents, vocab_size),
        tolerance=tolerance,
        report=on_progress or (lambda line: None),
    )
    rules = properties.bundle(aggregation, sampler=sampler)
    findings = hunt.findings(rules, None)
    runs = findings[0].verdict != "fails" or findings[0].instances > 0
    undefined, comparable = hunt.outcomes(rules) if runs else (0, float("nan"))
    for payment in payments if runs else ():
        rules = properties.bundle(aggregation, payment, valuations)
        findings += hunt.findings(rules, describe(payment))
    return Audit(
        aggregation=describe(aggregation),
        payments=tuple(map(describe, payments)),
        num_agents=num_agents,
        vocab_size=vocab_size,
        num_instances=num_instances,
        undefined=undefined,
        comparable=comparable,
        tolerance=tolerance,
        seed=seed,
        seconds=time.perf_counter() - start,
        environment=environment() | {"dtype": str(jnp.zeros(()).dtype)},
        findings=tuple(findings),
    )


def describe(rule: Any) -> str:
    """A rule in a few words, such as ``power_mean(order=0.5)`` or ``clarke``."""
    parts = []
    for field in dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ():
        value = getattr(rule, field.name)
        if isinstance(value, base.Valuation):
            parts.append(value.name)
        elif isinstance(value, float | int | jax.Array) and jnp.ndim(value) == 0:
            parts.append(f"{field.name}={float(value):g}")
    shown = [part for part in parts if part != "influence=1"]
    name = getattr(rule, "name", type(rule).__name__)
    return f"{name}({', '.join(shown)})" if shown else name


@dataclasses.dataclass(frozen=True)
class _Hunt:
    """Random instances, and the stages of the search for one bundle of rules."""

    instances: Instance
    tolerance: float
    report: Callable[[str], None]

    def findings(self, rules: properties.Rules, payment: str | None) -> list[Finding]:
        """All findings about an aggregation or a payment, even if it does not run."""
        if payment is None:
            margins_of, climbed_of = (properties.aggregation_margins,) * 2
        else:
            margins_of = properties.payment_margins
            climbed_of = properties.incentive_margins
        first = _row(self.instances, 0)
        about = payment or "aggregation"
        self.report(f"{about}: random instances")
        try:
            _check_calls(rules, first)
            margins = search.evaluate(margins_of, rules, self.instances)
        except Exception as error:  # A user's rule may raise anything.
            return [_misbehaves(first, payment, error)]
        law = margins.pop(properties.SAMPLER_LAW, None)
        self.report(f"{about}: adversarial search")
        notes = dict.fromkeys(margins, "")
        worst = {name: self._worst(margins[name]) for name in margins}
        climbed = tuple(name for name in margins if name not in _UNCLIMBED)
        try:
            for name, found in self._climb(
                margins_of, climbed_of, rules, margins, climbed
            ):
                worst[name] = max(worst[name], found, key=lambda pair: pair[0])
        except Exception as error:
            reason = f"random search only, {_one_line(error)}"
            notes |= dict.fromkeys(climbed, reason)
        limits = {name: self._limit(name, payment) for name in margins}
        failed = {name: x for name, x in worst.items() if x[0] > limits[name]}
        self.report(f"{about}: shrinking counterexamples")
        examples = _counterexamples(margins_of, rules, failed, limits)
        findings = []
        for name, margin in margins.items():
            applies = margin[~np.isnan(margin)]
            verdict = "fails" if name in failed else "holds"
            findings.append(
                Finding(
                    property=name,
                    payment=payment,
                    verdict=verdict if applies.size else "not checked",
                    instances=int(applies.size),
                    holds_on=int((applies <= limits[name]).sum()),
                    worst=max(0.0, worst[name][0]),
                    counterexample=examples.get(name),
                    note=notes[name],
                )
            )
        findings += [] if law is None else [_sampler_law(law)]
        return sorted(findings, key=lambda finding: _place(finding.property))

    def outcomes(self, rules: properties.Rules) -> tuple[int, float]:
        """How many aggregates are undefined, and the share of comparable outcomes."""
        outcomes = search.evaluate(properties.compare_outcomes, rules, self.instances)
        defined = outcomes["defined"].sum()
        share = outcomes["comparable"].sum() / max(defined, 1)
        return int(outcomes["defined"].size - defined), float(share)

    def _worst(self, margin: np.ndarray) -> tuple[float, Instance]:
        """The largest of random margins `(N,)`, and its instance."""
        margin = np.where(np.isnan(margin), -np.inf, margin)
        return float(margin.max()), _row(self.instances, int(margin.argmax()))

    def _climb(
        self,
        margins_of: search.MarginFunction,
        climbed_of: search.MarginFunction,
        rules: properties.Rules,
        margins: Mapping[str, np.ndarray],
        names: tuple[str, ...],
    ) -> list[tuple[str, tuple[float, Instance]]]:
        """What the adversary reaches from the worst random instances."""
        numbers, targets = search.starts([margins[name] for name in names])
        starts = jax.tree.map(lambda x: x[numbers], self.instances)
        # The sampler's draws have no slope.
        smooth = dataclasses.replace(rules, sampler=properties.bundle_sampler(None))
        reached = jax.device_get(
            search.climb(climbed_of, names, smooth, starts, targets)
        )
        values = search.evaluate(margins_of, rules, reached)
        found = []
        for row, target in enumerate(targets):
            value = float(values[names[target]][row])
            if not np.isnan(value):
                found.append((names[target], (value, _row(reached, row))))
        return found

    def _limit(self, name: str, payment: str | None) -> float:
        """The largest violation that counts as rounding."""
        if name in _PREFERENCES:
            return 1e-5
        return self.tolerance if payment else 1e-4


def _row(instances: Instance, number: int) -> Instance:
    return jax.tree.map(lambda x: x[number], instances)


def _place(name: str) -> int:
    """The place of a property in the documentation, and so in tables."""
    return list(properties.DEFINITIONS).index(properties.family(name))


def _check_calls(rules: properties.Rules, instance: Instance) -> None:
    """Raises `ValueError` unless every method returns what it should, by shape."""
    aggregation, payment, _, sampler = rules.unpack()
    bids, log_probs = instance.bids, instance.log_probs
    (size,), tokens, key = bids.shape, log_probs.shape[1], jax.random.key(0)

    def check(name: str, wanted: tuple[int, ...], kind: Any, *call: Any) -> None:
        found = jax.eval_shape(*call)
        if not isinstance(found, jax.ShapeDtypeStruct):
            raise ValueError(f"{name} returned {found!r}, expected one array")
        if found.shape != wanted or not jnp.issubdtype(found.dtype, kind):
            raise ValueError(
                f"{name} returned shape {found.shape} of {found.dtype}, expected "
                f"{wanted} of {kind.__name__}"
            )

    if payment is None:
        check("weights", (size,), jnp.floating, aggregation.weights, bids)
        check(
            "log_prob", (tokens,), jnp.floating, aggregation.log_prob, bids, log_probs
        )
        if sampler is not None:
            path = (aggregation, instance.agent, instance.own_bids, bids, log_probs)
            wanted = instance.own_bids.shape
            check("sampler", wanted, jnp.integer, lambda key: sampler(key, *path), key)
        return
    money = ((size,), jnp.floating)
    check("expected", *money, payment.expected, bids, log_probs)
    check("conditional", *money, payment.conditional, bids, log_probs, 0)
    check("realized", *money, payment.realized, key, bids, log_probs, 0)


def _misbehaves(first: Instance, payment: str | None, error: Exception) -> Finding:
    """The only finding about a rule that does not run."""
    return Finding(
        property=properties.WELL_FORMED,
        payment=payment,
        verdict="fails",
        worst=float("inf"),
        counterexample=Counterexample.from_instance(properties.WELL_FORMED, first),
        note=_one_line(error),
    )


def _one_line(error: Exception) -> str:
    text = textwrap.shorten(str(error), _LONGEST_NOTE, placeholder=" ...")
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _counterexamples(
    margins_of: search.MarginFunction,
    rules: properties.Rules,
    failed: Mapping[str, tuple[float, Instance]],
    limits: Mapping[str, float],
) -> dict[str, Counterexample]:
    """A small counterexample to each failed property."""
    least = {
        name: min(violation, max(_KEPT * violation, 2 * limits[name]))
        for name, (violation, _) in failed.items()
    }
    start = {name: instance for name, (_, instance) in failed.items()}
    small = search.shrink(margins_of, rules, start, least)
    aggregation, payment, valuations, sampler = rules.unpack()
    examples = {}
    for name, instance in small.items():
        example = Counterexample.from_instance(name, instance)
        if is_drawn(name) and (payment or sampler):
            violation = example.violation(
                aggregation, payment, valuations=valuations, sampler=sampler
            )
            # Half, since six digits are rounded.
            if not violation >= least[name] / 2:
                example = Counterexample.from_instance(name, instance, compact=False)
        examples[name] = example
    return examples


def _sampler_law(ranks: np.ndarray) -> Finding:
    """A Kolmogorov-Smirnov test that ranks are uniform, by the bound of DKW."""
    ranks = np.sort(ranks[~np.isnan(ranks)])
    size = ranks.size
    steps = np.arange(size + 1) / max(size, 1)
    distance = np.maximum(steps[1:] - ranks, ranks - steps[:-1]).max(initial=0)
    allowed = np.sqrt(np.log(2 / _FALSE_ALARM) / (2 * max(size, 1)))
    fails = distance > allowed
    return Finding(
        property=properties.SAMPLER_LAW,
        payment=None,
        verdict="not checked" if size == 0 else "fails" if fails else "holds",
        instances=size,
        holds_on=0 if fails else size,
        worst=float(distance) if fails else 0.0,
        note="a test of all instances together",
    )
