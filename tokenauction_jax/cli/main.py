"""The `tokenauction` command: its subcommands, and how errors end it."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import tyro

from tokenauction_jax.cli import (
    audit,
    hints,
    models,
    optimise,
    simulate,
    study,
    train,
)
from tokenauction_jax.outside import OutsideError

_COMMANDS = {
    "simulate": (simulate.Simulate, simulate.run),
    "study": (study.StudyCommand, study.run),
    "optimise": (optimise.Optimise, optimise.run),
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
    command = _parse(arguments)
    try:
        for kind, run in _COMMANDS.values():
            if isinstance(command, kind):
                run(command)
    except OutsideError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _parse(arguments: Sequence[str] | None) -> Any:
    """The command that the arguments ask for, or the end of the run.

    What is wrong with them is told in a box by the parser, and here in one line.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.extras.subcommand_cli_from_dict(
                {name: kind for name, (kind, _) in _COMMANDS.items()},
                prog="tokenauction",
                description="Token auctions between language models.",
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code:
            _fail(re.sub("[\u2500-\u257f]+", "", told.getvalue()))
        raise


def _fail(line: str) -> NoReturn:
    hints.say(line)
    sys.exit(2)
