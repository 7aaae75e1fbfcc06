"""The `tokenauction audit` command."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from tokenauction_jax import auditing, files, records
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Audit
from tokenauction_jax.cli.displays import audit as display
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.mechanism import Aggregation, Mechanism, Payment
from tokenauction_jax.outside import quoted
from tokenauction_jax.scenarios import names

# A rule, and the payments to question with it.
Questioned = tuple[Any, list[Payment]]

# What is audited, and under what distributions are misreported, unless rules are given.
_RULES: dict[str, tuple[str, ...]] = dict.fromkeys(names.AGGREGATIONS, ())
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "linear": ("second_price", "clarke", "pay_your_bid"),
    "log_linear": ("clarke",),
    **dict.fromkeys(names.REPLY_RULES, ()),
}


def run(command: Audit) -> None:
    """Runs the command."""
    if command.out is not None:
        with hints.if_exists("give another --out"):
            files.check_new(command.out)
    default = _DISTRIBUTIONS if command.distributions else _RULES
    asked = dict.fromkeys(command.rules, ()) or default
    chosen = [_questioned(command, *each) for each in asked.items()]
    console = Console()
    found = (_submissions if command.distributions else _audits)(
        command, console, chosen
    )
    if command.out is not None:
        files.write_json(command.out, found)
        console.print(f"Written to {command.out}")


def _audits(
    command: Audit, console: Console, chosen: Sequence[Questioned]
) -> list[dict[str, Any]]:
    """Searches for violations, and shows what each rule's audit found."""
    audits = []
    for rule, payments in chosen:
        with progress.Activity(Console(stderr=True)) as activity:
            search = functools.partial(
                auditing.audit, on_progress=activity.show, **_numbers(command)
            )
            try:
                found = search(rule, *payments)
            except ValueError as error:
                raise names.RuleError(str(error)) from None
        audits.append(found.to_dict())
        display.show_audit(console, found)
    return audits


def _submissions(
    command: Audit, console: Console, chosen: Sequence[Questioned]
) -> list[dict[str, Any]]:
    """Measures misreported distributions, and shows one table of all rules."""
    rows = []
    with progress.Activity(Console(stderr=True)) as activity:
        for rule, payments in chosen:
            rules = [Mechanism(rule, payment) for payment in payments] or [rule]
            for each in rules:
                activity.show(f"{records.describe(rule)}: other distributions")
                try:
                    rows += auditing.distribution_misreports(each, **_numbers(command))
                except ValueError as error:
                    raise names.RuleError(str(error)) from None
                except Exception as error:  # A user's rule may raise anything.
                    told = f"{records.describe(rule)}: {type(error).__name__}: {error}"
                    raise names.RuleError(told) from None
    display.show_submissions(console, rows)
    return [dataclasses.asdict(row) for row in rows]


def _numbers(command: Audit) -> dict[str, Any]:
    """What both take of the command's numbers."""
    return {
        "num_instances": command.num_instances,
        "num_agents": command.num_agents,
        "vocab_size": command.vocab_size,
        "num_candidates": command.num_candidates,
        "seed": command.seed,
        "tolerance": command.tolerance,
        "bid_ratio": command.bid_ratio,
    }


def _questioned(command: Audit, name: str, payments: tuple[str, ...]) -> Questioned:
    """The rule called `name`, and the payments to question with it."""
    rule = names.rule(name, command.influence)
    payments = command.payment or payments
    if isinstance(rule, Aggregation):
        chosen = payments or names.payments_of(rule)
        return rule, [names.payment(each, rule) for each in chosen]
    if payments:
        raise names.RuleError(
            f"{quoted(name)} is a rule on replies, which has its own payments: leave "
            "out --payment"
        )
    return rule, []
