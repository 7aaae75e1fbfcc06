"""The folder of an optimisation: manifest, configuration, history, tables, report."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from tokenauction_jax import files
from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.optimisation import reading
from tokenauction_jax.optimisation.config import Optimisation, Outline
from tokenauction_jax.optimisation.history import History
from tokenauction_jax.studies.provenance import Provenance

_MANIFEST, _CONFIG, _HISTORY = "manifest.json", "optimisation.toml", "history.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(Provenance):
    """What is optimised, and what numbers depend on besides.

    Attributes:
      outline: What a reader must know.
    """

    outline: Outline


class Folder:
    """An optimisation's folder on disk."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What the folder is of.

        Raises:
          StoreError: If it is not an optimisation's, or its manifest is damaged.
        """
        return Manifest.read(self.path / _MANIFEST, "an optimisation")

    @property
    def exists(self) -> bool:
        """Whether an optimisation was begun in it."""
        return files.exists(self.path / _MANIFEST)

    def check_new(self) -> None:
        """Checks that an optimisation can be begun in the folder.

        Raises:
          ExistsError: If it has one.
          StoreError: If it holds anything else, or cannot be made.
        """
        if not files.exists(self.path):
            files.check_writable(
                next(filter(files.exists, self.path.absolute().parents))
            )
            return
        if self.exists:
            raise ExistsError(
                f"{self.path} exists: resume what is in it, or choose another folder"
            )
        try:
            names = {file.name for file in self.path.iterdir()}
        except OSError as error:
            reason = files.reason(error)
            raise StoreError(f"cannot write {self.path}: {reason}") from None
        files.check_writable(self.path)
        own = {_MANIFEST, _CONFIG}
        # What a kill can leave of a run whose manifest was not written yet.
        if others := names - own - {files.LOCK, *map(files.scratch_name, own)}:
            raise StoreError(
                f"{self.path} holds {min(others)}, which is not an optimisation's: "
                "choose another folder"
            )

    def create(self, chosen: Optimisation, file: str | pathlib.Path | None) -> None:
        """Makes the folder with its manifest, and the file if there is one.

        Raises:
          StoreError: If it has an optimisation already or cannot be made.
        """
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            base = None
            if file is not None:
                base = reading.folder_of(file)
                files.write(self.path / _CONFIG, reading.text_of(file))
            manifest = Manifest.here(chosen.canonical(), base, outline=chosen.outline())
            files.write_json(self.path / _MANIFEST, manifest.content())
        except OSError as error:
            reason = files.reason(error)
            raise StoreError(f"cannot write {self.path}: {reason}") from None

    def read_config(self) -> Optimisation:
        """What the folder is of.

        Raises:
          StoreError: If its file was changed since, with the difference, or if it was
            built in Python.
          OptimisationError: If its file cannot be read any more.
        """
        base = self.manifest.base
        if base is None:
            raise StoreError(
                f"{self.path} was begun in Python: resume it there, with what it is of"
            )
        name = self.manifest.outline.name
        file = self.path / _CONFIG
        chosen = reading.read(file, name, pathlib.Path(base))
        self.manifest.check_config(chosen.canonical(), self.path)
        return chosen

    def read_history(self) -> History:
        """What happened so far.

        Raises:
          StoreError: If it is damaged, or of another run.
        """
        return History.read(self.path / _HISTORY, self.manifest.stamp)

    def write_history(self, history: History) -> None:
        """Keeps what happened so far.

        Raises:
          StoreError: If it cannot be written.
        """
        history.write(self.path / _HISTORY, self.manifest.stamp)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder against other processes.

        Raises:
          StoreError: If another process holds it.
        """
        with files.lock(self.path):
            yield
