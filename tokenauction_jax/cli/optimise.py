"""The `tokenauction optimise` command."""

import pathlib
import sys

from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Optimise
from tokenauction_jax.cli.displays import optimise as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.optimisation import launch, reading, results
from tokenauction_jax.optimisation.folder import Folder


def run(command: Optimise) -> None:
    """Runs the command."""
    hints.warn_about_idle_accelerators()
    chosen = reading.read(command.file)
    out = command.out or pathlib.Path(chosen.name)
    console = Console()
    go_on = f"tokenauction optimise {command.file} --out {out} --resume"
    try:
        with display.OptimisationProgress(Console(stderr=True)) as progress:
            if command.resume:
                found = launch.resume(out, given=command.file, listen=progress.show)
            else:
                with hints.if_exists("--resume goes on in it, --out names another"):
                    found = launch.run(command.file, out, listen=progress.show)
    except KeyboardInterrupt:
        if Folder(out).exists:
            hints.say(f"interrupted; to go on: {go_on}")
        raise
    from tokenauction_jax.reports import pages

    display.show_results(console, found)
    page = pages.write_report(results.load(out), out / "report")
    console.print(f"Tables are in {out / 'tables'}; figures: {page}", soft_wrap=True)
    if found.as_known is False:
        hints.say("the answer is not what is known")
        sys.exit(1)
