"""The search for violations of token auctions."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tokenauction_jax.auditing import draws, properties, search
from tokenauction_jax.auditing.calls import check_calls
from tokenauction_jax.auditing.hunt import Hunt
from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties.aggregation import compare_outcomes
from tokenauction_jax.auditing.report import Counterexample, Finding, is_drawn
from tokenauction_jax.auditing.rules import Rules

_PREFERENCES = (
    properties.MONOTONE,
    properties.CONSISTENT,
    properties.STABLE,
    properties.PAYMENT_MONOTONE,
)


@dataclasses.dataclass(frozen=True)
class TokenHunt(Hunt[Instance]):
    """A search for what is wrong with an aggregation or a payment."""

    subject: ClassVar[str] = "aggregation"
    definitions: ClassVar[Mapping[str, str]] = properties.DEFINITIONS
    # Equations fail anywhere or nowhere, and draws have no slope.
    unclimbed: ClassVar[tuple[str, ...]] = (
        properties.WELL_FORMED,
        properties.WEIGHTS,
        properties.ORDER,
        properties.SCALE,
        properties.MEANS,
    )

    def check(self, rules: Rules, instance: Instance) -> None:
        """Of the payment, if there is one; else of the aggregation and the sampler."""
        check_calls(rules, instance)

    def outcomes(self, rules: Rules) -> tuple[int, float]:
        """How many aggregates are undefined, and the share of comparable outcomes."""
        outcomes = search.evaluate(compare_outcomes, rules, self.instances)
        defined = outcomes["defined"].sum()
        share = outcomes["comparable"].sum() / max(defined, 1)
        return int(outcomes["defined"].size - defined), float(share)

    def of_draws(
        self, rules: Rules, payment: str | None, margins: dict[str, np.ndarray]
    ) -> list[Finding]:
        """Tests of a sampler, and of realized payments."""
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

    def limit(self, name: str, payment: str | None) -> float:
        """1e-5 of preferences, 1e-4 of aggregations, the tolerance of payments."""
        if name in _PREFERENCES:
            return 1e-5
        return self.tolerance if payment else 1e-4

    def smooth(self, rules: Rules) -> Rules:
        """Without the sampler, whose draws have no slope."""
        return dataclasses.replace(rules, sampler=None)

    def neighbours(self, instances: Instance) -> Instance:
        """At the other profile of the others' bids.

        What is consistent at neither of two profiles is monotone at neither.
        """
        own = np.arange(instances.bids.shape[1])[None] == instances.agent[:, None]
        bids = np.where(own, instances.bids, instances.rival_bids)
        rival_bids = np.where(own, instances.rival_bids, instances.bids)
        return dataclasses.replace(instances, bids=bids, rival_bids=rival_bids)

    def implied(self, rules: Rules) -> Mapping[str, str]:
        """That there is no stable sampler may be the sampler's own fault."""
        left_out = properties.STABLE if rules.sampler is not None else None
        return {
            name: strict
            for name, strict in properties.IMPLIED_BY.items()
            if name != left_out
        }

    def example(
        self, name: str, instance: Instance, rules: Rules | None, least: float
    ) -> Counterexample:
        """Compact, unless the draws of a seed then hide the violation."""
        example = Counterexample.from_instance(name, instance)
        if rules and is_drawn(name) and (rules.payment or rules.sampler):
            violation = example.violation(
                rules.aggregation,
                rules.payment,
                valuations=rules.valuations,
                sampler=rules.sampler,
            )
            # Half, since six digits are rounded.
            if not violation >= least / 2:
                return Counterexample.from_instance(name, instance, compact=False)
        return example
