"""The `tokenauction study` command."""

import contextlib
import pathlib
from collections.abc import Iterator

from tokenauction_jax import files
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import (
    CheckStudy,
    MergeStudy,
    NewStudy,
    ReportStudy,
    ResumeStudy,
    RunStudy,
    SharedStudy,
    StudyCommand,
)
from tokenauction_jax.cli.displays import progress
from tokenauction_jax.cli.displays import study as display
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.files import StoreError
from tokenauction_jax.studies import launch, merging, reading, results
from tokenauction_jax.studies.config import StudyError
from tokenauction_jax.studies.cost import estimate
from tokenauction_jax.studies.launch import Listener
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.processes import Processes


def run(study_command: StudyCommand) -> None:
    """Runs a subcommand of `tokenauction study`."""
    command = study_command.command
    # JAX must not be in use before several processes are together.
    if not (isinstance(command, SharedStudy) and command.is_shared):
        hints.warn_about_idle_accelerators()
    console = Console()
    if isinstance(command, NewStudy):
        _new(command, console)
    elif isinstance(command, CheckStudy):
        _check(command, console)
    elif isinstance(command, RunStudy):
        _run(command, console)
    elif isinstance(command, ResumeStudy):
        _resume(command, console)
    elif isinstance(command, MergeStudy):
        _merge(command, console)
    else:
        _report(command, console)


def _new(command: NewStudy, console: Console) -> None:
    reading.read_study(command.template)
    text = reading.study_text(command.template)
    files.check_new(command.path)
    try:
        files.write(command.path, text)
    except OSError as error:
        raise StoreError(f"cannot write {command.path}: {error.strerror}") from None
    console.print(
        f"Written to {command.path}; next: tokenauction study check {command.path}",
        soft_wrap=True,
    )


def _check(command: CheckStudy, console: Console) -> None:
    study = reading.read_study(command.study)
    cells = study.cells()
    with progress.Activity(Console(stderr=True)) as activity:
        activity.show("loading the agents")
        populations = study.populations
        plan = make_plan(study, populations)

        def on_cell(index: int) -> None:
            activity.show(f"timing cell {index + 1} of {len(cells)}")

        cost = estimate(study, populations, plan, on_cell)
    display.show_plan(console, study, cells, plan, cost)


def _run(command: RunStudy, console: Console) -> None:
    processes = _processes(command)
    if processes and command.out is None:
        raise StudyError("several processes need a folder to share: --out FOLDER")
    out = command.out or pathlib.Path(reading.read_study(command.study).name)
    remedy = f"`tokenauction study resume {out}`, or another --out"
    with hints.if_exists(remedy), _interruptible(out, console, processes) as listen:
        launch.run(
            command.study,
            out,
            blocks_per_chunk=command.blocks_per_chunk,
            shard=command.shard,
            processes=processes,
            listen=listen,
        )


def _resume(command: ResumeStudy, console: Console) -> None:
    folder, processes = command.folder, _processes(command)
    with _interruptible(folder, console, processes) as listen:
        launch.resume(folder, study=command.study, processes=processes, listen=listen)


def _processes(command: SharedStudy) -> Processes | None:
    """Those that run the study together, None if this is the only one."""
    if not command.is_shared:
        return None
    given = (command.coordinator, command.num_processes, command.process_id)
    return Processes(*given, timeout=command.join_timeout)


def _merge(command: MergeStudy, console: Console) -> None:
    with hints.if_exists("another --out"):
        found = merging.merge(command.folders, command.out)
    display.show_results(console, found)
    display.show_place(console, Folder(command.out))
    hints.end_if_undefined(found)


@contextlib.contextmanager
def _interruptible(
    folder: pathlib.Path, console: Console, processes: Processes | None
) -> Iterator[Listener]:
    """Shows the progress of a run and then what was found, even if interrupted.

    Of several processes the first one does.
    """
    interrupted = False
    with progress.listener(Console(stderr=True)) as listen:
        try:
            yield listen
        except KeyboardInterrupt:
            interrupted = True
    if processes and processes.index:
        if interrupted:
            raise KeyboardInterrupt
        return
    if interrupted:
        if not files.exists(Folder(folder).manifest_path):
            raise KeyboardInterrupt
        go_on = f"to go on: tokenauction study resume {folder}"
        hints.say(f"interrupted; {go_on}")
        if not Folder(folder).num_parts():
            raise KeyboardInterrupt
    found = results.load(folder)
    display.show_results(console, found)
    display.show_session(console, Folder(folder))
    if interrupted:
        raise KeyboardInterrupt
    hints.end_if_undefined(found)


def _report(command: ReportStudy, console: Console) -> None:
    from tokenauction_jax.reports import pages

    page = pages.write_report(
        results.load(command.folder), command.out or command.folder / "report"
    )
    console.print(f"Written to {page}", soft_wrap=True)
