"""What the command line says instead of a scenario."""

import dataclasses

from tokenauction_jax.cli.arguments import Explore, Receipt, ScenarioCommand
from tokenauction_jax.outside import OutsideError
from tokenauction_jax.scenarios.scenario import (
    Scenario,
    ScenarioError,
    validate_scenario,
)

# Options that say what a scenario says.
OF_SCENARIOS = ("model", "bids", "num_tokens", "seed")


def changed(scenario: Scenario, command: ScenarioCommand) -> Scenario:
    """The scenario with what the command line says instead, validated again."""
    content = dataclasses.asdict(scenario)
    for name in ("model", "num_auctions", "num_tokens", "seed"):
        if (value := getattr(command, name, None)) is not None:
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


def refuse(command: Explore | Receipt, source: str, options: tuple[str, ...]) -> None:
    """Raises `OutsideError` if an option is given that the source has no use for."""
    for name in options:
        if getattr(command, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise OutsideError(f"{command.source} is {source}: leave out {option}")
