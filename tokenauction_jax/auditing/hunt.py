"""The stages of the search for one bundle of rules, and what it finds."""

import abc
import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic

import jax
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import BID_RATIO
from tokenauction_jax.auditing.report import (
    Counterexample,
    Finding,
    ReplyCounterexample,
)
from tokenauction_jax.auditing.search import C

# A counterexample keeps this share of the worst violation while it shrinks.
_KEPT = 0.1
_LONGEST_NOTE = 300


@dataclasses.dataclass(frozen=True)
class Hunt(abc.ABC, Generic[C]):
    """A search from some random instances, of token auctions or of replies.

    Attributes:
      instances: Stacked.
      tolerance: The largest violation of a property of payments that is rounding.
      bid_ratio: The largest between two bids of an instance.
      known: Stacked instances that violate something of the same rule, if any.
      report: Called with a line about each stage that begins.
    """

    instances: C
    tolerance: float = 1e-3
    bid_ratio: float = BID_RATIO
    known: C | None = None
    report: Callable[[str], None] = lambda line: None

    # What is questioned without a payment of its own, in one word.
    subject: ClassVar[str]
    definitions: ClassVar[Mapping[str, str]]
    # Properties that an adversary cannot climb.
    unclimbed: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def check(self, rules: Any, instance: C) -> None:
        """Raises unless every method returns what it should, by shape."""

    @abc.abstractmethod
    def of_draws(
        self, rules: Any, payment: str | None, margins: dict[str, np.ndarray]
    ) -> list[Finding]:
        """Tests of what the random instances drew, which leaves the margins."""

    @abc.abstractmethod
    def limit(self, name: str, payment: str | None) -> float:
        """The largest violation of a property that counts as rounding."""

    @abc.abstractmethod
    def example(
        self, name: str, instance: C, rules: Any, least: float
    ) -> Counterexample | ReplyCounterexample:
        """An instance as plain numbers that still violate it by about `least`."""

    def smooth(self, rules: Any) -> Any:
        """The rules without what has no slope."""
        return rules

    def neighbours(self, instances: C) -> C | None:
        """Stacked instances to look at beside the worst ones, if any."""
        del instances

    def implied(self, rules: Any) -> Mapping[str, str]:
        """What fails whenever another property does."""
        del rules
        return properties.IMPLIED_BY

    def findings(
        self,
        rules: Any,
        payment: str | None,
        margins_of: search.MarginFunction,
        climbed_of: search.MarginFunction | None = None,
    ) -> tuple[list[Finding], C]:
        """All findings about a rule or a payment, even if it does not run.

        Args:
          rules: What is questioned.
          payment: Its payment in words, or None to question the rule itself.
          margins_of: The properties.
          climbed_of: Those of them that an adversary climbs; by default all.

        Returns:
          The findings, and stacked instances that are the worst for some property.
        """
        first = _row(self.instances, 0)
        about = payment or self.subject
        self.report(f"{about}: random instances")
        try:
            self.check(rules, first)
            margins = search.evaluate(margins_of, rules, self.instances)
        except Exception as error:  # A user's rule may raise anything.
            return [self._misbehaves(first, payment, error)], _stack([first])
        findings = self.of_draws(rules, payment, margins)
        self.report(f"{about}: adversarial search")
        notes = dict.fromkeys(margins, "")
        worst = {name: self._worst(margins[name]) for name in margins}
        if self.known is not None:
            _improve(worst, margins_of, rules, self.known)
        climbed = tuple(name for name in margins if name not in self.unclimbed)
        try:
            reached = self._climb(climbed_of or margins_of, rules, margins, climbed)
            _improve(worst, margins_of, rules, reached)
        except Exception as error:
            reason = f"random search only, {_one_line(error)}"
            notes |= dict.fromkeys(climbed, reason)
        found = self.neighbours(_stack([instance for _, instance in worst.values()]))
        if found is not None:
            _improve(worst, margins_of, rules, found)
        limits = {name: self.limit(name, payment) for name in margins}
        failed = self._failures(worst, limits, rules)
        self.report(f"{about}: shrinking counterexamples")
        examples = self._counterexamples(margins_of, rules, failed, limits)
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
        places = list(self.definitions)
        findings.sort(key=lambda x: places.index(properties.family(x.property)))
        return findings, _stack([instance for _, instance in worst.values()])

    def _worst(self, margin: np.ndarray) -> tuple[float, C]:
        """The largest of random margins `(N,)`, and its instance."""
        margin = np.where(np.isnan(margin), -np.inf, margin)
        return float(margin.max()), _row(self.instances, int(margin.argmax()))

    def _climb(
        self,
        climbed_of: search.MarginFunction,
        rules: Any,
        margins: Mapping[str, np.ndarray],
        names: tuple[str, ...],
    ) -> C:
        """What the adversary reaches from the worst random instances, stacked."""
        numbers, targets = search.starts([margins[name] for name in names])
        starts = jax.tree.map(lambda x: x[numbers], self.instances)
        largest = math.log(self.bid_ratio) / 2
        smooth = self.smooth(rules)
        return jax.device_get(
            search.climb(climbed_of, names, smooth, starts, targets, largest)
        )

    def _failures(
        self,
        worst: Mapping[str, tuple[float, C]],
        limits: Mapping[str, float],
        rules: Any,
    ) -> dict[str, tuple[float, C]]:
        """What is violated by more than rounding, and what fails whenever that does."""
        failed = {name: x for name, x in worst.items() if x[0] > limits[name]}
        for name, strict in self.implied(rules).items():
            if name in failed and strict in worst and worst[strict][0] > 0:
                failed[strict] = worst[strict]
        return failed

    def _misbehaves(self, first: C, payment: str | None, error: Exception) -> Finding:
        """The only finding about a rule that does not run."""
        return Finding(
            property=properties.WELL_FORMED,
            payment=payment,
            verdict="fails",
            worst=float("inf"),
            counterexample=self.example(properties.WELL_FORMED, first, None, 0.0),
            note=_one_line(error),
        )

    def _counterexamples(
        self,
        margins_of: search.MarginFunction,
        rules: Any,
        failed: Mapping[str, tuple[float, C]],
        limits: Mapping[str, float],
    ) -> dict[str, Counterexample | ReplyCounterexample]:
        """A small counterexample to each failed property."""
        least = {
            name: min(violation, max(_KEPT * violation, 2 * limits[name]))
            for name, (violation, _) in failed.items()
        }
        start = {name: instance for name, (_, instance) in failed.items()}
        small = search.shrink(margins_of, rules, start, least)
        return {
            name: self.example(name, instance, rules, least[name])
            for name, instance in small.items()
        }


def _improve(
    worst: dict[str, tuple[float, C]],
    margins_of: search.MarginFunction,
    rules: Any,
    instances: C,
) -> None:
    """Looks for worse ones of every property among stacked instances."""
    values = search.evaluate(margins_of, rules, instances)
    for name, best in worst.items():
        margin = np.where(np.isnan(values[name]), -np.inf, values[name])
        row = int(margin.argmax())
        if margin[row] > best[0]:
            worst[name] = float(margin[row]), _row(instances, row)


def _row(instances: C, number: int) -> C:
    return jax.tree.map(lambda x: x[number], instances)


def _stack(instances: Sequence[C]) -> C:
    return jax.tree.map(lambda *x: np.stack(x), *instances)


def _one_line(error: Exception) -> str:
    text = textwrap.shorten(str(error), _LONGEST_NOTE, placeholder=" ...")
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
