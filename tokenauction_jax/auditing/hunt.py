"""The stages of the search for one bundle of rules, and what it finds."""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping

import jax
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.calls import check_calls
from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties.aggregation import compare_outcomes
from tokenauction_jax.auditing.properties.sampler import deviation_by_chance
from tokenauction_jax.auditing.report import Counterexample, Finding, is_drawn
from tokenauction_jax.auditing.rules import Rules

_PREFERENCES = (properties.MONOTONE, properties.CONSISTENT, properties.STABLE)
# Symmetries fail anywhere or nowhere, and draws have no slope.
_UNCLIMBED = (properties.WELL_FORMED, properties.ORDER, properties.SCALE)
# A counterexample keeps this share of the worst violation while it shrinks.
_KEPT = 0.1
_LONGEST_NOTE = 300


@dataclasses.dataclass(frozen=True)
class Hunt:
    """A search from some random instances.

    Attributes:
      instances: Stacked.
      tolerance: The largest violation of a property of payments that is rounding.
      report: Called with a line about each stage that begins.
    """

    instances: Instance
    tolerance: float = 1e-3
    report: Callable[[str], None] = lambda line: None

    def findings(
        self,
        rules: Rules,
        payment: str | None,
        margins_of: search.MarginFunction,
        climbed_of: search.MarginFunction | None = None,
    ) -> list[Finding]:
        """All findings about an aggregation or a payment, even if it does not run.

        Args:
          rules: What is questioned.
          payment: Its payment in words, or None to question the aggregation.
          margins_of: The properties.
          climbed_of: Those of them that an adversary climbs; by default all.
        """
        first = _row(self.instances, 0)
        about = payment or "aggregation"
        self.report(f"{about}: random instances")
        try:
            check_calls(rules, first)
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
                margins_of, climbed_of or margins_of, rules, margins, climbed
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
        return sorted(findings, key=lambda finding: properties.place(finding.property))

    def outcomes(self, rules: Rules) -> tuple[int, float]:
        """How many aggregates are undefined, and the share of comparable outcomes."""
        outcomes = search.evaluate(compare_outcomes, rules, self.instances)
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
        rules: Rules,
        margins: Mapping[str, np.ndarray],
        names: tuple[str, ...],
    ) -> list[tuple[str, tuple[float, Instance]]]:
        """What the adversary reaches from the worst random instances."""
        numbers, targets = search.starts([margins[name] for name in names])
        starts = jax.tree.map(lambda x: x[numbers], self.instances)
        # The sampler's draws have no slope.
        smooth = dataclasses.replace(rules, sampler=None)
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
    rules: Rules,
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
    examples = {}
    for name, instance in small.items():
        example = Counterexample.from_instance(name, instance)
        if is_drawn(name) and (rules.payment or rules.sampler):
            violation = example.violation(
                rules.aggregation,
                rules.payment,
                valuations=rules.valuations,
                sampler=rules.sampler,
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
    fails = distance > deviation_by_chance(max(size, 1))
    return Finding(
        property=properties.SAMPLER_LAW,
        payment=None,
        verdict="not checked" if size == 0 else "fails" if fails else "holds",
        instances=size,
        holds_on=0 if fails else size,
        worst=float(distance) if fails else 0.0,
        note="a test of all instances together",
    )
