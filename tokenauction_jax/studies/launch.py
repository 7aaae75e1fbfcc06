"""From a study to its results, in one call; and on after a kill."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.studies import engine, reading, results
from tokenauction_jax.studies.config import Study, StudyError
from tokenauction_jax.studies.manifest import Manifest
from tokenauction_jax.studies.memory import Memory
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import Plan, make_plan
from tokenauction_jax.studies.results import Results
from tokenauction_jax.studies.session import Progress

# Given the study and its plan, makes what is told of the progress.
Listener = Callable[[Study, Plan], Callable[[Progress], None]]


def run(
    study: str | pathlib.Path | Study | Mapping[str, Any],
    out: str | pathlib.Path | None = None,
    *,
    blocks_per_chunk: int | None = None,
    listen: Listener | None = None,
) -> Results:
    """Runs a study, into a new folder or in memory.

    Args:
      study: A built-in study, a TOML file, or a `Study` (or nested dictionaries as in a
        file) whose agents, rules, valuation, values and bids may be objects.
      out: The folder, which must not have a study yet; None keeps everything in
        memory.
      blocks_per_chunk: Blocks of auctions between two parts, which is what a kill can
        lose; by default seconds of work.
      listen: Called once with the study and its plan; what it returns is called after
        every block.

    Returns:
      The results, whose tables are in the folder, too. After a `KeyboardInterrupt` the
      folder has those of the finished chunks.

    Raises:
      StudyError: Naming everything that is wrong in the study.
      StoreError: If the folder has a study or other files, or cannot be written.

    >>> import jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> study = ta.studies.Study(agents=pool, values=[2.0, 1.0], num_tokens=4,
    ...                          num_auctions=100, factors={"rule": ["linear",
    ...                          ta.Mechanism(ta.linear(), ta.pay_your_bid())]})
    >>> results = ta.studies.run(study)
    >>> revenue = results.summary.query("measure == 'revenue'")
    >>> revenue["mean"].round(2).tolist()
    [2.59, 12.0]
    """
    chosen = reading.check_study(study)
    folder = Memory() if out is None else Folder(pathlib.Path(out))
    if isinstance(folder, Folder):
        folder.check_new()
    if blocks_per_chunk is not None and blocks_per_chunk < 1:
        raise StudyError(f"blocks_per_chunk must be at least 1, got {blocks_per_chunk}")
    cells = chosen.populations
    plan = make_plan(chosen, cells, blocks_per_chunk)
    if isinstance(folder, Memory):
        on_progress = None if listen is None else listen(chosen, plan)
        engine.run(chosen, folder, cells, plan, on_progress)
        return results.collect(folder, Manifest.of(chosen, plan))
    file = study if isinstance(study, str | pathlib.Path) else None
    with folder.lock():
        folder.create(chosen, plan, file)
        return _go_on(chosen, folder, cells, plan, listen)


def resume(
    path: str | pathlib.Path,
    *,
    study: str | pathlib.Path | Study | Mapping[str, Any] | None = None,
    listen: Listener | None = None,
) -> Results:
    """Goes on with an interrupted study; its tables become an uninterrupted run's.

    Args:
      path: The folder.
      study: The study, to make sure that it is the one that the folder is of; needed if
        it was built in Python.
      listen: As for `run`.

    Raises:
      StudyError: If the folder's study file cannot be read any more.
      StoreError: If the configuration or the environment changed, with the difference;
        if a part is damaged; if another process runs the study.
    """
    folder = Folder(pathlib.Path(path))
    manifest = folder.manifest
    if study is None:
        chosen = folder.read_study()
    else:
        chosen = reading.check_study(study, name=manifest.outline.name)
        manifest.check_config(chosen.canonical(), folder.path)
    manifest.check_environment(folder.path)
    cells = chosen.populations
    manifest.check_plan(chosen, make_plan(chosen, cells), folder.path)
    with folder.lock():
        return _go_on(chosen, folder, cells, manifest.plan, listen)


def _go_on(
    study: Study,
    folder: Folder,
    cells: Sequence[Population],
    plan: Plan,
    listen: Listener | None,
) -> Results:
    on_progress = None if listen is None else listen(study, plan)
    try:
        engine.run(study, folder, cells, plan, on_progress)
    except KeyboardInterrupt:
        if folder.num_parts():
            results.load(folder.path).write_tables()
        raise
    found = results.load(folder.path)
    found.write_tables()
    return found
