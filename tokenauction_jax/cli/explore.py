"""The `tokenauction explore` command."""

import pathlib

from tokenauction_jax import studies
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Explore
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.overrides import OF_SCENARIOS, changed, refuse
from tokenauction_jax.reports import explorer
from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.scenario import Scenario, read_scenario
from tokenauction_jax.studies import sweep


def run(command: Explore) -> None:
    """Runs the command."""
    with hints.if_exists("give another --out"):
        explorer.check_path(command.out)
    path = pathlib.Path(command.source)
    if path.is_dir() and not sweep.is_folder(path):
        refuse(command, "a study", ("num_auctions", *OF_SCENARIOS))
        results = studies.load(path)
        explorer.write_explorer(results, command.out)
    else:
        found = path.is_dir()
        scenario = sweep.read_scenario(path) if found else read_scenario(command.source)
        results = _sweep(changed(scenario, command), command.out)
    Console().print(f"Written to {command.out}", soft_wrap=True)
    hints.end_if_undefined(results)


def _sweep(scenario: Scenario, out: pathlib.Path) -> studies.Results:
    """Writes the page of a scenario, whose first auctions run again for their tokens.

    Returns:
      The results of its sweep.
    """
    hints.warn_about_idle_accelerators()
    stderr = Console(stderr=True)
    with progress.Activity(stderr) as activity:
        activity.show("loading the model")
        cast = population.load_cast(scenario)
    with progress.listener(stderr) as listen:
        runs, results = sweep.run_sweep(scenario, cast, sweep.SHARES, listen)
    with progress.Activity(stderr) as activity:
        activity.show("looking at single tokens")
        rollouts = sweep.rollouts(scenario, cast, runs, explorer.most_texts(len(runs)))
    explorer.write_explorer(
        results,
        out,
        title=scenario.query,
        rollouts=rollouts,
        level_labels=sweep.rule_titles(scenario),
    )
    return results
