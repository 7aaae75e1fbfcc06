"""The `tokenauction` command: its subcommands, and how errors end it."""

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro

from tokenauction_jax import agents
from tokenauction_jax.agents import finetune
from tokenauction_jax.cli import audit, models, simulate, study, train
from tokenauction_jax.files import StoreError
from tokenauction_jax.scenarios.names import RuleError
from tokenauction_jax.scenarios.scenario import ScenarioError
from tokenauction_jax.studies.config import StudyError

_COMMANDS = {
    "simulate": (simulate.Simulate, simulate.run),
    "study": (study.StudyCommand, study.run),
    "audit": (audit.Audit, audit.run),
    "train": (train.Train, train.run),
    "models": (models.Models, models.run),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends with exit code 2 and one line on bad input."""
    for stream in (sys.stdout, sys.stderr):
        # Not every system's encoding has all characters, and no run should end on one.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in _COMMANDS.items()},
        prog="tokenauction",
        description="Token auctions between language models.",
        args=arguments,
    )
    try:
        for kind, run in _COMMANDS.values():
            if isinstance(command, kind):
                run(command)
    except (
        ScenarioError,
        StudyError,
        StoreError,
        RuleError,
        agents.CheckpointError,
        finetune.DataError,
        finetune.TrainingError,
    ) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(line: str) -> NoReturn:
    print(f"tokenauction: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(2)
