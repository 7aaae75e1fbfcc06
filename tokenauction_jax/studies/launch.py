"""From a study to its results, in one call; and on after a kill."""

import contextlib
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
from tokenauction_jax.studies.processes import Processes
from tokenauction_jax.studies.results import Results
from tokenauction_jax.studies.session import Progress
from tokenauction_jax.studies.shards import Shard, check_shares

# Given the study and its plan, makes what is told of the progress.
Listener = Callable[[Study, Plan], Callable[[Progress], None]]
_Given = str | pathlib.Path | Study | Mapping[str, Any]


def run(
    study: str | pathlib.Path | Study | Mapping[str, Any],
    out: str | pathlib.Path | None = None,
    *,
    blocks_per_chunk: int | None = None,
    shard: str | None = None,
    processes: Processes | None = None,
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
      shard: Which share of the chunks to run, such as ``"3/16"``, into a folder of
        its own; `merge` makes one of all shards.
      processes: All that run the study together in this folder, if there are others;
        each of them calls this function before it uses JAX.
      listen: Called once with the study and its plan; what it returns is called after
        every block.

    Returns:
      The results, whose tables are in the folder, too; those of a shard are of its own
      auctions. After a `KeyboardInterrupt` the folder has those of the finished chunks.

    Raises:
      StudyError: Naming everything that is wrong in the study, or a process that did
        not join.
      StoreError: If the folder has a study or other files, or cannot be written; if
        another process ended before its chunks were done.

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
    part = None if shard is None else Shard.parse(shard)
    if out is None:
        if part or processes:
            raise StudyError("what is shared needs a folder: say which")
        return _run_in_memory(study, blocks_per_chunk, listen)
    folder = Folder(pathlib.Path(out))
    if processes is None:
        return _begin(folder, study, blocks_per_chunk, part, None, listen)
    if part:
        raise StudyError("a shard runs in one process: leave out one of the two")
    folder.check_new()
    with processes.join(folder.path):
        if processes.index == 0:
            return _begin(folder, study, blocks_per_chunk, None, processes, listen)
        processes.wait_for_study(folder)
        own = Folder(folder.path, lists=False)
        return _continue(own, study, processes, [], None)


def resume(
    path: str | pathlib.Path,
    *,
    study: str | pathlib.Path | Study | Mapping[str, Any] | None = None,
    processes: Processes | None = None,
    listen: Listener | None = None,
) -> Results:
    """Goes on with an interrupted study; its tables become an uninterrupted run's.

    Args:
      path: The folder.
      study: The study, to make sure that it is the one that the folder is of; needed if
        it was built in Python.
      processes: As for `run`, and not necessarily as many as have run it before.
      listen: As for `run`.

    Raises:
      StudyError: If the folder's study file cannot be read any more; if a process did
        not join.
      StoreError: If the configuration or the environment changed, with the difference;
        if a part is damaged; if another process runs the study, or ended before its
        chunks were done.
    """
    folder = Folder(pathlib.Path(path))
    if processes is None:
        return _continue(folder, study, None, None, listen)
    # All see the same chunks left: until they are together, nobody adds to them.
    finished = folder.manifest and folder.finished()
    with processes.join(folder.path):
        own = Folder(folder.path, lists=processes.index == 0)
        return _continue(own, study, processes, finished, listen)


def _run_in_memory(
    study: _Given, blocks_per_chunk: int | None, listen: Listener | None
) -> Results:
    chosen, memory = reading.check_study(study), Memory()
    cells, plan = _planned(chosen, blocks_per_chunk)
    on_progress = None if listen is None else listen(chosen, plan)
    engine.run(chosen, memory, cells, plan, on_progress)
    return results.collect(memory, Manifest.of(chosen, plan))


def _planned(
    study: Study, blocks_per_chunk: int | None
) -> tuple[Sequence[Population], Plan]:
    if blocks_per_chunk is not None and blocks_per_chunk < 1:
        raise StudyError(f"blocks_per_chunk must be at least 1, got {blocks_per_chunk}")
    cells = study.populations
    return cells, make_plan(study, cells, blocks_per_chunk)


def _begin(
    folder: Folder,
    study: _Given,
    blocks_per_chunk: int | None,
    shard: Shard | None,
    processes: Processes | None,
    listen: Listener | None,
) -> Results:
    """Runs a study, or a share of it, into a new folder."""
    chosen = reading.check_study(study)
    folder.check_new()
    share = processes.share if processes else shard
    if share:
        _check_shared(chosen)
    cells, plan = _planned(chosen, blocks_per_chunk)
    if share:
        check_shares(plan.num_chunks, share.count)
    file = study if isinstance(study, str | pathlib.Path) else None
    with folder.lock():
        folder.create(chosen, plan, file, shard)
        return _go_on(chosen, folder, cells, processes, [], listen)


def _continue(
    folder: Folder,
    study: _Given | None,
    processes: Processes | None,
    finished: Sequence[int] | None,
    listen: Listener | None,
) -> Results:
    """Goes on with a study in its folder.

    Args:
      folder: Which.
      study: As for `resume`.
      processes: Of which this is one, if there are others.
      finished: The chunks that need not run, None for all that are finished.
      listen: As for `run`.
    """
    manifest = folder.manifest
    if study is None:
        chosen = folder.read_study()
    else:
        chosen = reading.check_study(study, name=manifest.outline.name)
        manifest.check_config(chosen.canonical(), folder.path)
    manifest.check_environment(folder.path)
    if processes:
        _check_shared(chosen)
    cells = chosen.populations
    manifest.check_plan(chosen, make_plan(chosen, cells), folder.path)
    owns = processes is None or processes.index == 0
    with folder.lock() if owns else contextlib.nullcontext():
        return _go_on(chosen, folder, cells, processes, finished, listen)


def _check_shared(study: Study) -> None:
    """Raises `StudyError` unless it is known in advance what a study runs."""
    if study.stop is not None:
        raise StudyError(
            "a study with a [stop] section runs whole, in one process, because all "
            "chunks so far decide whether there is another: leave out [stop]"
        )


def _go_on(
    study: Study,
    folder: Folder,
    cells: Sequence[Population],
    processes: Processes | None,
    finished: Sequence[int] | None,
    listen: Listener | None,
) -> Results:
    manifest, owns = folder.manifest, processes is None or processes.index == 0
    on_progress = listen(study, manifest.plan) if listen and owns else None
    if owns:
        # What processes that were killed could not list.
        folder.gather()
    done = set(folder.finished() if finished is None else finished)
    left = [chunk for chunk in manifest.chunks if chunk not in done]
    share = processes.share.of(left) if processes else left
    try:
        engine.run(study, folder, cells, manifest.plan, on_progress, chunks=share)
        if processes:
            processes.finish(folder, left)
    except KeyboardInterrupt:
        if owns and folder.num_parts():
            results.load(folder.path).write_tables()
        raise
    found = results.load(folder.path)
    if owns:
        found.write_tables()
    return found
