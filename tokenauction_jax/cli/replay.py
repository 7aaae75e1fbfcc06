"""The `tokenauction replay` command."""

import sys

from tokenauction_jax import receipts
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Replay
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays import receipt as display
from tokenauction_jax.cli.displays.console import Console


def run(command: Replay) -> None:
    """Runs the command; exit code 1 if the receipt is wrong."""
    receipt = receipts.read(command.receipt)
    with progress.Activity(Console(stderr=True)) as activity:
        activity.show("running the auction again")
        found = receipts.replay(receipt, tolerance=command.tolerance)
    if not found.agrees:
        first, *others = found.differences
        more = f"; and {len(others):,} more" if others else ""
        hints.say(f"{command.receipt} is not right: {first}{more}")
        sys.exit(1)
    display.show_agreement(Console(), receipt, found)
