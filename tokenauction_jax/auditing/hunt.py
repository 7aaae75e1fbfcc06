"""The stages of the search for one bundle of rules, and what it finds."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from tokenauction_jax.auditing import draws, properties, search
from tokenauction_jax.auditing.calls import check_calls
from tokenauction_jax.auditing.instances import BID_RATIO, Instance
from tokenauction_jax.auditing.properties.aggregation import compare_outcomes
from tokenauction_jax.auditing.report import Counterexample, Finding, is_drawn
from tokenauction_jax.auditing.rules import Rules

_PREFERENCES = (
    properties.MONOTONE,
    properties.CONSISTENT,
    properties.STABLE,
    properties.PAYMENT_MONOTONE,
)
# Equations fail anywhere or nowhere, and draws have no slope.
_UNCLIMBED = (
    properties.WELL_FORMED,
    properties.WEIGHTS,
    properties.ORDER,
    properties.SCALE,
    properties.MEANS,
)
# A counterexample keeps this share of the worst violation while it shrinks.
_KEPT = 0.1
_LONGEST_NOTE = 300


@dataclasses.dataclass(frozen=True)
class Hunt:
    """A search from some random instances.

    Attributes:
      instances: Stacked.
      tolerance: The largest violation of a property of payments that is rounding.
      bid_ratio: The largest between two bids of an instance.
      known: Stacked instances that violate something of the same aggregation, if any.
      report: Called with a line about each stage that begins.
    """

    instances: Instance
    tolerance: float = 1e-3
    bid_ratio: float = BID_RATIO
    known: Instance | None = None
    report: Callable[[str], None] = lambda line: None

    def findings(
        self,
        rules: Rules,
        payment: str | None,
        margins_of: search.MarginFunction,
        climbed_of: search.MarginFunction | None = None,
    ) -> tuple[list[Finding], Instance]:
        """All findings about an aggregation or a payment, even if it does not run.

        Args:
          rules: What is questioned.
          payment: Its payment in words, or None to question the aggregation.
          margins_of: The properties.
          climbed_of: Those of them that an adversary climbs; by default all.

        Returns:
          The findings, and stacked instances that are the worst for some property.
        """
        first = _row(self.instances, 0)
        about = payment or "aggregation"
        self.report(f"{about}: random instances")
        try:
            check_calls(rules, first)
            margins = search.evaluate(margins_of, rules, self.instances)
        except Exception as error:  # A user's rule may raise anything.
            return [_misbehaves(first, payment, error)], _stack([first])
        findings = self._of_draws(rules, payment, margins)
        self.report(f"{about}: adversarial search")
        notes = dict.fromkeys(margins, "")
        worst = {name: self._worst(margins[name]) for name in margins}
        if self.known is not None:
            self._improve(worst, margins_of, rules, self.known)
        climbed = tuple(name for name in margins if name not in _UNCLIMBED)
        try:
            reached = self._climb(climbed_of or margins_of, rules, margins, climbed)
            self._improve(worst, margins_of, rules, reached)
        except Exception as error:
            reason = f"random search only, {_one_line(error)}"
            notes |= dict.fromkeys(climbed, reason)
        # What is consistent at neither of two profiles is monotone at neither.
        found = _stack([instance for _, instance in worst.values()])
        self._improve(worst, margins_of, rules, _with_profiles_swapped(found))
        limits = {name: self._limit(name, payment) for name in margins}
        failed = _failures(worst, limits, rules)
        self.report(f"{about}: shrinking counterexamples")
        examples = _counterexamples(margins_of, rules, failed, limits)
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
        findings.sort(key=lambda finding: properties.place(finding.property))
        return findings, _stack([instance for _, instance in worst.values()])

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

    def _of_draws(
        self, rules: Rules, payment: str | None, margins: dict[str, np.ndarray]
    ) -> list[Finding]:
        """Tests of what the random instances drew, which leaves the margins."""
        findings = []
        law = margins.pop(properties.SAMPLER_LAW, None)
        if law is not None:
            findings.append(draws.sampler_law(law))
        found = margins.pop(properties.DRAWS, None)
        if found is not None:
            self.report(f"{payment}: draws")
            case = rules, self.instances, payment, self.tolerance
            findings.append(draws.payment_draws(found, *case))
        return findings

    def _improve(
        self,
        worst: dict[str, tuple[float, Instance]],
        margins_of: search.MarginFunction,
        rules: Rules,
        instances: Instance,
    ) -> None:
        """Looks for worse ones of every property among stacked instances."""
        values = search.evaluate(margins_of, rules, instances)
        for name, best in worst.items():
            margin = np.where(np.isnan(values[name]), -np.inf, values[name])
            row = int(margin.argmax())
            if margin[row] > best[0]:
                worst[name] = float(margin[row]), _row(instances, row)

    def _climb(
        self,
        climbed_of: search.MarginFunction,
        rules: Rules,
        margins: Mapping[str, np.ndarray],
        names: tuple[str, ...],
    ) -> Instance:
        """What the adversary reaches from the worst random instances, stacked."""
        numbers, targets = search.starts([margins[name] for name in names])
        starts = jax.tree.map(lambda x: x[numbers], self.instances)
        # The sampler's draws have no slope.
        smooth = dataclasses.replace(rules, sampler=None)
        largest = math.log(self.bid_ratio) / 2
        return jax.device_get(
            search.climb(climbed_of, names, smooth, starts, targets, largest)
        )

    def _limit(self, name: str, payment: str | None) -> float:
        """The largest violation that counts as rounding."""
        if name in _PREFERENCES:
            return 1e-5
        return self.tolerance if payment else 1e-4


def _row(instances: Instance, number: int) -> Instance:
    return jax.tree.map(lambda x: x[number], instances)


def _stack(instances: Sequence[Instance]) -> Instance:
    return jax.tree.map(lambda *x: np.stack(x), *instances)


def _with_profiles_swapped(instances: Instance) -> Instance:
    """Stacked instances at the other profile of the others' bids."""
    own = np.arange(instances.bids.shape[1])[None] == instances.agent[:, None]
    bids = np.where(own, instances.bids, instances.rival_bids)
    rival_bids = np.where(own, instances.rival_bids, instances.bids)
    return dataclasses.replace(instances, bids=bids, rival_bids=rival_bids)


def _failures(
    worst: Mapping[str, tuple[float, Instance]],
    limits: Mapping[str, float],
    rules: Rules,
) -> dict[str, tuple[float, Instance]]:
    """What is violated by more than rounding, and what fails whenever that does."""
    failed = {name: x for name, x in worst.items() if x[0] > limits[name]}
    for name, strict in properties.IMPLIED_BY.items():
        if name == properties.STABLE and rules.sampler is not None:
            continue  # It may be the sampler's own fault.
        if name in failed and strict in worst and worst[strict][0] > 0:
            failed[strict] = worst[strict]
    return failed


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
