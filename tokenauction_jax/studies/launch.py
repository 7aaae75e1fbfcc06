"""From a study file to a folder of results, in one call; and on after a kill."""

import pathlib
from collections.abc import Callable
from typing import Any

from tokenauction_jax.scenarios import population
from tokenauction_jax.studies import config, engine, results
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import Plan, make_plan
from tokenauction_jax.studies.results import Results
from tokenauction_jax.studies.session import Progress

# Given the study and its plan, makes what is told of the progress.
_Listener = Callable[[Study, Plan], Callable[[Progress], None]]


def run(
    study: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    blocks_per_chunk: int | None = None,
    listen: _Listener | None = None,
) -> Results:
    """Runs a study into a new folder.

    Args:
      study: A built-in study or a TOML file.
      out: The folder, which must not exist yet.
      blocks_per_chunk: Blocks of auctions between two parts, which is what a kill can
        lose; by default seconds of work.
      listen: Called once with the study and its plan; what it returns is called after
        every block.

    Returns:
      The results, whose tables are in the folder, too. After a `KeyboardInterrupt` the
      folder has those of the finished chunks.

    Raises:
      StudyError: Naming everything that is wrong in the study.
      StoreError: If the folder exists or cannot be written.
    """
    chosen = config.read_study(study)
    folder = Folder(pathlib.Path(out))
    folder.check_new()
    if blocks_per_chunk is not None and blocks_per_chunk < 1:
        raise config.StudyError(
            f"blocks_per_chunk must be at least 1, got {blocks_per_chunk}"
        )
    cells = population.build([cell.setting for cell in chosen.cells()])
    plan = make_plan(chosen, cells, blocks_per_chunk)
    folder.create(chosen, config.study_text(study), plan)
    return _go_on(chosen, folder, cells, plan, listen)


def resume(
    path: str | pathlib.Path,
    *,
    study: str | pathlib.Path | None = None,
    listen: _Listener | None = None,
) -> Results:
    """Goes on with an interrupted study; its tables become an uninterrupted run's.

    Args:
      path: The folder.
      study: Its TOML file, to make sure that it is the one that the folder is of.
      listen: As for `run`.

    Raises:
      StudyError: If the folder's study file cannot be read any more.
      StoreError: If the configuration or the environment changed, with the difference;
        if a part is damaged; if another process runs the study.
    """
    folder = Folder(pathlib.Path(path))
    manifest = folder.manifest()
    if study is not None:
        given = config.read_study(study, manifest["study"])
        folder.check_unchanged(given, manifest)
    chosen = folder.read_study()
    folder.check_environment(manifest)
    cells = population.build([cell.setting for cell in chosen.cells()])
    return _go_on(chosen, folder, cells, Plan.from_manifest(manifest), listen)


def _go_on(
    study: Study, folder: Folder, cells: Any, plan: Plan, listen: _Listener | None
) -> Results:
    on_progress = None if listen is None else listen(study, plan)
    with folder.lock():
        try:
            engine.run(study, folder, cells, plan, on_progress)
        except KeyboardInterrupt:
            if folder.num_parts():
                results.load(folder.path).write_tables()
            raise
        found = results.load(folder.path)
        found.write_tables()
    return found
