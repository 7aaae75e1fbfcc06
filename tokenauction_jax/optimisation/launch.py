"""From a configuration to its results, in one call; and on after a kill."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenauction_jax.optimisation import game, pacing, phases, reading, results
from tokenauction_jax.optimisation.config import (
    BestResponse,
    Equilibrium,
    Optimisation,
    OptimisationError,
    Outline,
)
from tokenauction_jax.optimisation.folder import Folder
from tokenauction_jax.optimisation.history import History
from tokenauction_jax.optimisation.results import Results
from tokenauction_jax.outside import OutsideError

# Seconds of work that a kill may lose, besides the step that it hits.
_SAVE_EVERY = 2.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is, for displays.

    Attributes:
      outline: What runs.
      stage: Which phase.
      step: How many of its steps are done.
      num_steps: How many it takes at most.
      history: All estimates so far.
    """

    outline: Outline
    stage: str
    step: int
    num_steps: int
    history: History


Listener = Callable[[Progress], None]


def run(
    given: str | pathlib.Path | Optimisation | Mapping[str, Any],
    out: str | pathlib.Path | None = None,
    *,
    listen: Listener | None = None,
) -> Results:
    """Optimises bids, into a new folder or in memory.

    Args:
      given: A built-in file (`contest`, `airline`), a TOML file, or an `Optimisation`
        (or nested dictionaries as in a file) whose agents, rule, valuation, values and
        bids may be objects.
      out: The folder, which must not have anything yet; None keeps all in memory.
      listen: Called after every step.

    Returns:
      The results, whose tables are in the folder, too.

    Raises:
      OptimisationError: Naming everything that is wrong.
      StoreError: If the folder is not empty, or cannot be written.

    >>> import tokenauction_jax as ta
    >>> found = ta.optimisation.run("contest")
    >>> found.answers["bid"].round(4).tolist(), found.converged
    ([0.4444, 0.2222], True)
    """
    chosen = reading.check(given)
    if out is None:
        history = History()
        for progress in steps(chosen, history):
            history = progress.history
            if listen is not None:
                listen(progress)
        return Results(chosen.outline(), history)
    folder = Folder(pathlib.Path(out))
    folder.check_new()
    file = given if isinstance(given, str | pathlib.Path) else None
    with folder.lock():
        folder.create(chosen, file)
        return _run(folder, chosen, listen)


def resume(
    path: str | pathlib.Path,
    *,
    given: str | pathlib.Path | Optimisation | Mapping[str, Any] | None = None,
    listen: Listener | None = None,
) -> Results:
    """Goes on where a run was interrupted; its results become an uninterrupted one's.

    Args:
      path: The folder.
      given: What it is of, to make sure; needed if that was built in Python.
      listen: As for `run`.

    Raises:
      OptimisationError: If the folder's file cannot be read any more.
      StoreError: If the configuration or the environment changed, with the difference;
        if a file is damaged; if another process runs it.
    """
    folder = Folder(pathlib.Path(path))
    manifest = folder.manifest
    if given is None:
        chosen = folder.read_config()
    else:
        chosen = reading.check(given)
        manifest.check_config(chosen.canonical(), folder.path)
    manifest.check_environment(folder.path)
    with folder.lock():
        return _run(folder, chosen, listen)


def steps(chosen: Optimisation, history: History) -> Iterator[Progress]:
    """Takes the steps that are left after a history, one by one.

    Raises:
      OptimisationError: If the library refuses what comes up, such as rewards that are
        not finite.
    """
    outline, todo = chosen.outline(), _phases(chosen)
    phase = next(todo)
    for _ in range(history.phase):
        phase = _next(todo, history)
    while phase is not None:
        state = phase.start()
        if history.state is not None:
            state = history.get_state(state)
        while history.step < phase.num_steps:
            if history.step and phase.finished(state):
                break
            try:
                state, rows = phase.step(state, history.step)
            except OutsideError:
                raise
            except ValueError as error:
                raise OptimisationError(str(error)) from None
            history = history.after_step(state, rows)
            about = (phase.stage, history.step, phase.num_steps)
            yield Progress(outline, *about, history)
        history = history.after_phase(phase.found(state))
        phase = _next(todo, history)
        yield Progress(outline, "", 0, 0, history)


def _run(folder: Folder, chosen: Optimisation, listen: Listener | None) -> Results:
    """Takes the steps that are left, keeping them every few seconds and at the end."""
    history, saved = folder.read_history(), time.monotonic()
    try:
        for progress in steps(chosen, history):
            history = progress.history
            if time.monotonic() - saved > _SAVE_EVERY:
                folder.write_history(history)
                saved = time.monotonic()
            if listen is not None:
                listen(progress)
    finally:
        folder.write_history(history)
    found = results.load(folder.path)
    found.write_tables(folder.path)
    return found


def _phases(chosen: Optimisation) -> Iterator[Any]:
    made, goal = game.build(chosen), chosen.goal
    if isinstance(goal, BestResponse):
        return phases.best_response_phases(made, goal.agent)
    if isinstance(goal, Equilibrium):
        return phases.equilibrium_phases(made, goal)
    return pacing.phases(made, goal)


def _next(todo: Any, history: History) -> phases.Phase | None:
    try:
        return todo.send(dict(history.found))
    except StopIteration:
        return None
