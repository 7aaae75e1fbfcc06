"""The `tokenauction models` command."""

from tokenauction_jax import agents
from tokenauction_jax.cli.arguments import CheckModel, Models
from tokenauction_jax.cli.displays import models as display
from tokenauction_jax.cli.displays.console import Console


def run(command: Models) -> None:
    """Runs the command."""
    console, chosen = Console(), command.command
    if isinstance(chosen, CheckModel):
        display.show_check(console, agents.check_checkpoint(chosen.model))
    else:
        display.show_models(console, agents.survey_checkpoints())
