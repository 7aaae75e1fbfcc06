"""The `tokenauction suite` command."""

from tokenauction_jax import suite
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import ListSuite, RunSuite, Suite
from tokenauction_jax.cli.displays import suite as display
from tokenauction_jax.cli.displays.console import Console


def run(suite_command: Suite) -> None:
    """Runs a subcommand of `tokenauction suite`."""
    command, console = suite_command.command, Console()
    if isinstance(command, ListSuite):
        display.show_yardsticks(console)
        return
    _run(command, console)


def _run(command: RunSuite, console: Console) -> None:
    hints.warn_about_idle_accelerators()
    names = command.mechanisms or suite.BUILT_IN
    with display.SuiteProgress(Console(stderr=True)) as progress:
        try:
            card = suite.run(
                names, command.out, quick=command.quick, listen=progress.show
            )
        except KeyboardInterrupt:
            hints.say("interrupted; the same command goes on")
            raise
    display.show_scorecard(console, card, names)
    console.print(f"Written to {command.out / 'scorecard.md'}", soft_wrap=True)
