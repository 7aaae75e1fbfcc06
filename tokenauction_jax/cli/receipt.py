"""The `tokenauction receipt` command."""

import pathlib

from tokenauction_jax import files, receipts
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Receipt
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays import receipt as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.overrides import OF_SCENARIOS, changed, refuse
from tokenauction_jax.receipts.receipt import check_suffix
from tokenauction_jax.scenarios.scenario import read_scenario
from tokenauction_jax.studies import sweep

_OF_RUNS = ("rule", "share")


def run(command: Receipt) -> None:
    """Runs the command."""
    if command.out is not None:
        check_suffix(command.out)
        with hints.if_exists("give another --out"):
            files.check_new(command.out)
    console = Console()
    with progress.Activity(Console(stderr=True)) as activity:
        activity.show("running the auction")
        receipt = _receipt(command)
    if command.out is not None:
        receipt.write(command.out)
    display.show_receipt(console, receipt)
    if command.out is not None:
        console.print(f"Written to {command.out}", soft_wrap=True)


def _receipt(command: Receipt) -> receipts.Receipt:
    path, auction = pathlib.Path(command.source), command.auction or 0
    if path.suffix == ".json":
        refuse(command, "a receipt", ("auction", "cell", *_OF_RUNS, *OF_SCENARIOS))
        return receipts.read(path)
    if path.is_dir() and not sweep.is_folder(path):
        refuse(command, "a study", (*_OF_RUNS, *OF_SCENARIOS))
        return receipts.of_cell(path, cell=command.cell or 0, auction=auction)
    refuse(command, "a scenario", ("cell",))
    if path.is_dir():
        refuse(command, "a simulation that ran", OF_SCENARIOS)
        scenario = sweep.read_scenario(path)
    else:
        scenario = changed(read_scenario(command.source), command)
    return receipts.of_scenario(
        scenario, auction=auction, rule=command.rule, share=command.share
    )
