"""The `tokenauction simulate` command."""

from tokenauction_jax import files
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Simulate
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays import simulate as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.overrides import changed
from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.scenario import read_scenario
from tokenauction_jax.studies import sweep


def run(command: Simulate) -> None:
    """Runs the command."""
    scenario = changed(read_scenario(command.scenario), command)
    if command.out is not None:
        with hints.if_exists("give another --out"):
            files.check_new(command.out)
    hints.warn_about_idle_accelerators()
    console, stderr = Console(), Console(stderr=True)
    with progress.Activity(stderr) as activity:
        activity.show("loading the model")
        cast = population.load_cast(scenario)
    with progress.listener(stderr) as listen:
        shares = sweep.SHARES if command.sweep else None
        runs, results = sweep.run_sweep(scenario, cast, shares, listen)
    if command.out is not None:
        # First of all: no failure to show results may lose them.
        sweep.write(command.out, scenario, cast.commits, runs, results)
    display.show_results(console, scenario, runs)
    if command.out is not None:
        console.print(f"Written to {command.out}")
    hints.end_if_undefined(results)
