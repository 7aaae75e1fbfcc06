"""The search for violations of rules on replies."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing import draws, properties
from tokenauction_jax.auditing.calls import check_call
from tokenauction_jax.auditing.hunt import Hunt
from tokenauction_jax.auditing.properties import replies
from tokenauction_jax.auditing.reply_instances import ReplyInstance
from tokenauction_jax.auditing.report import Finding, ReplyCounterexample
from tokenauction_jax.auditing.rules import ReplyRules


@dataclasses.dataclass(frozen=True)
class ReplyHunt(Hunt[ReplyInstance]):
    """A search for what is wrong with a rule on replies."""

    subject: ClassVar[str] = "rule"
    definitions: ClassVar[Mapping[str, str]] = replies.DEFINITIONS
    unclimbed: ClassVar[tuple[str, ...]] = (
        properties.WELL_FORMED,
        properties.ORDER,
        replies.SILENT,
        replies.ALONE,
        replies.SCALE,
        replies.MEANS,
    )

    def check(self, rules: ReplyRules, instance: ReplyInstance) -> None:
        """Of all four methods."""
        rule, auction = rules.rule, instance.auction()
        agents, candidates = instance.rewards.shape
        key = jax.random.key(0)
        law, money = ((candidates,), jnp.floating), ((agents,), jnp.floating)
        check_call("log_prob", *law, rule.log_prob, *auction)
        check_call("sample", (), jnp.integer, rule.sample, key, *auction)
        check_call("expected", *money, rule.expected, *auction)
        check_call("realized", *money, rule.realized, *auction, 0)

    def of_draws(
        self, rules: ReplyRules, payment: str | None, margins: dict[str, np.ndarray]
    ) -> list[Finding]:
        """A test of what `sample` draws."""
        del rules, payment
        return [draws.reply_law(margins.pop(replies.SAMPLE_LAW))]

    def limit(self, name: str, payment: str | None) -> float:
        """1e-4 of sums of chances, else the tolerance."""
        del payment
        return 1e-4 if name == properties.WELL_FORMED else self.tolerance

    def example(
        self, name: str, instance: ReplyInstance, rules: Any, least: float
    ) -> ReplyCounterexample:
        """Compact, unless the rule minds agents or candidates that do not matter."""
        example = ReplyCounterexample.from_instance(name, instance)
        # Half, since six digits are rounded.
        if rules is not None and not example.violation(rules.rule) >= least / 2:
            return ReplyCounterexample.from_instance(name, instance, compact=False)
        return example
