"""What the command line says instead of a scenario."""

import dataclasses

from tokenauction_jax.cli.arguments import ScenarioCommand
from tokenauction_jax.scenarios.scenario import (
    Scenario,
    ScenarioError,
    validate_scenario,
)


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
