"""The `tokenauction audit` command."""

import dataclasses
import pathlib

import tyro

from tokenauction_jax import auditing, files
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.displays import audit as display
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.scenarios import names


@dataclasses.dataclass(frozen=True)
class Audit:
    """Search for violations of the incentive properties of auction rules.

    Every property is checked on random auctions, then an adversary climbs the worst of
    them, and counterexamples shrink to few agents, tokens and digits.
    """

    rules: tyro.conf.Positional[tuple[str, ...]] = (
        "linear",
        "log_linear",
        "power_mean(0.5)",
    )
    """Aggregations: linear, log_linear, power_mean(ORDER), or an object of your own as
    FILE.py:NAME or MODULE:NAME."""
    payment: tuple[str, ...] = ()
    """Payments: pay_your_bid, second_price, clarke, myerson(VALUATION), or an object of
    your own; by default all that the rule has."""
    influence: float = 1.0
    """Exponent on the bids of the built-in rules."""
    num_instances: int = 1000
    """Random auctions."""
    num_agents: int = 3
    """Agents of each auction."""
    vocab_size: int = 6
    """Tokens of each auction."""
    seed: int = 0
    """Of all auctions."""
    tolerance: float = 1e-3
    """The largest violation in money, relative to its terms, to count as rounding."""
    bid_ratio: float = 1e3
    """The largest ratio between two bids of an auction."""
    out: pathlib.Path | None = None
    """New JSON file for everything found."""


def run(command: Audit) -> None:
    """Runs the command."""
    if command.out is not None:
        with hints.if_exists("give another --out"):
            files.check_new(command.out)
    chosen = []
    for name in command.rules:
        rule = names.aggregation(name, command.influence)
        payments = command.payment or names.payments_of(rule)
        chosen.append((rule, [names.payment(each, rule) for each in payments]))
    console = Console()
    audits = []
    for rule, payments in chosen:
        with progress.Activity(Console(stderr=True)) as activity:
            try:
                found = auditing.audit(
                    rule,
                    *payments,
                    num_instances=command.num_instances,
                    num_agents=command.num_agents,
                    vocab_size=command.vocab_size,
                    seed=command.seed,
                    tolerance=command.tolerance,
                    bid_ratio=command.bid_ratio,
                    on_progress=activity.show,
                )
            except ValueError as error:
                raise names.RuleError(str(error)) from None
        audits.append(found)
        display.show_audit(console, found)
    if command.out is not None:
        files.write_json(command.out, [found.to_dict() for found in audits])
        console.print(f"Written to {command.out}")
