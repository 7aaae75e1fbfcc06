"""The `tokenauction` command: its subcommands, and how errors end it."""

import contextlib
import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import tyro

from tokenauction_jax.cli import arguments
from tokenauction_jax.outside import OutsideError, one_line

# Each is run by the module of its name, which is imported then.
_COMMANDS = {
    "simulate": arguments.Simulate,
    "explore": arguments.Explore,
    "receipt": arguments.Receipt,
    "replay": arguments.Replay,
    "study": arguments.StudyCommand,
    "optimise": arguments.Optimise,
    "audit": arguments.Audit,
    "suite": arguments.Suite,
    "train": arguments.Train,
    "models": arguments.Models,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends with exit code 2 and one line on bad input."""
    for stream in (sys.stdout, sys.stderr):
        # Not every system's encoding has all characters, and no run should end on one.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = _parse(arguments)
    try:
        _run(command)
    except OutsideError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _run(command: Any) -> None:
    (name,) = (name for name, kind in _COMMANDS.items() if isinstance(command, kind))
    chosen = getattr(command, "command", command)
    if isinstance(chosen, arguments.SharedStudy) and chosen.is_shared:
        # Read when JAX is imported: who is missing is told in one line, and not by the
        # log of what brings the processes together as well.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _imported_for_good():
        from tokenauction_jax.cli import programs

        module = importlib.import_module(f"tokenauction_jax.cli.{name}")
    if not chosen.no_cache:
        programs.keep()
    module.run(command)


@contextlib.contextmanager
def _imported_for_good() -> Iterator[None]:
    """Imports without garbage collection, which then leaves alone what they made.

    It would walk through the 200,000 objects of modules again and again: for 1 second
    of a command that takes 10.
    """
    is_new, collects = "jax" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
    # What a process that has run for a while has may be garbage.
    if is_new:
        gc.freeze()


def _parse(arguments: Sequence[str] | None) -> Any:
    """The command that the arguments ask for, or the end of the run.

    What is wrong with them is told in a box by the parser, and here in one line.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="tokenauction",
                description="Token auctions between language models.",
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code:
            _fail(_unboxed(told.getvalue()))
        raise


def _unboxed(told: str) -> str:
    """What is in a box, without its title, which says less, and its lines.

    They are dashes, with the title above them, where output can be no more than ASCII.
    """
    body = re.sub("\\A(\u256d.*|.*\n -{9,})", "", told)
    return re.sub("[\u2500-\u257f]+|-{9,}", "", body)


def _fail(line: str) -> NoReturn:
    print(f"tokenauction: {one_line(line)}", file=sys.stderr)
    sys.exit(2)
