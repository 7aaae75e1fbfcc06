"""The `tokenauction audit` command."""

from tokenauction_jax import auditing, files
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Audit
from tokenauction_jax.cli.displays import audit as display
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.scenarios import names


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
