"""The `tokenauction simulate` command."""

import dataclasses

from tokenauction_jax import files
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Simulate
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays import simulate as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.scenario import (
    Scenario,
    ScenarioError,
    read_scenario,
    validate_scenario,
)
from tokenauction_jax.studies import sweep

# Weights of the first agent.
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)


def run(command: Simulate) -> None:
    """Runs the command."""
    scenario = _override(read_scenario(command.scenario), command)
    if command.out is not None:
        with hints.if_exists("give another --out"):
            files.check_new(command.out)
    hints.warn_about_idle_accelerators()
    console, stderr = Console(), Console(stderr=True)
    with progress.Activity(stderr) as activity:
        activity.show("loading the model")
        cast = population.load_cast(scenario)
    with progress.listener(stderr) as listen:
        shares = SWEEP if command.sweep else None
        runs, results = sweep.run_sweep(scenario, cast, shares, listen)
    if command.out is not None:
        # First of all: no failure to show results may lose them.
        sweep.write(command.out, scenario, cast.commits, runs, results)
    display.show_results(console, scenario, runs)
    if command.out is not None:
        console.print(f"Written to {command.out}")
    hints.end_if_undefined(results)


def _override(scenario: Scenario, command: Simulate) -> Scenario:
    """The scenario with what the command line says instead, validated again."""
    content = dataclasses.asdict(scenario)
    for name in ("model", "num_auctions", "num_tokens", "seed"):
        if (value := getattr(command, name)) is not None:
            content[name] = value
    if command.model is not None:
        for agent in content["agents"]:
            agent["model"] = agent["adapter"] = None
    if command.bids is not None:
        if len(command.bids) != len(scenario.agents):
            names = ", ".join(agent.name for agent in scenario.agents)
            raise ScenarioError(
                f"--bids has {len(command.bids)} numbers, expected "
                f"{len(scenario.agents)}: one each for {names}"
            )
        for agent, bid in zip(content["agents"], command.bids, strict=True):
            agent["bid"] = bid
    return validate_scenario(content)
