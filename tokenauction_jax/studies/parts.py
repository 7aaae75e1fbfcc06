"""The folder of a study: a manifest, and one Parquet part for each finished chunk.

A part appears whole or not at all, and is never changed. What a reader or a resumed run
knows is the manifest and the parts, merged in their order. Whatever else a folder
holds, because of damage, an edit or a kill, is told and never read.
"""

import contextlib
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files
from tokenauction_jax.files import CHECKSUMS, ExistsError, StoreError
from tokenauction_jax.statistics import Moments, PairMoments, Statistics
from tokenauction_jax.studies import part_format, reading, samples
from tokenauction_jax.studies.chunk_files import AHEAD, KINDS, ChunkFiles
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.manifest import Manifest
from tokenauction_jax.studies.memory import Mergeable, merged, total
from tokenauction_jax.studies.plan import Plan
from tokenauction_jax.studies.session import Entry
from tokenauction_jax.studies.shards import Shard

_MANIFEST, _STUDY = "manifest.json", "study.toml"
_SESSIONS = "sessions.jsonl"


class Folder:
    """A study's folder on disk.

    Args:
      path: Where it is.
      lists: Whether this process owns the list of finished chunks, if it writes any.
    """

    def __init__(self, path: pathlib.Path, *, lists: bool = True):
        self.path, self._lists = path, lists

    @property
    def manifest_path(self) -> pathlib.Path:
        """Where the manifest is."""
        return self.path / _MANIFEST

    @property
    def study_path(self) -> pathlib.Path:
        """Where the study's file is kept, if it has one."""
        return self.path / _STUDY

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What the parts are of.

        Raises:
          StoreError: If the folder is not a study's, or its manifest is damaged.
        """
        return Manifest.read(self.manifest_path, "a study")

    def check_new(self) -> None:
        """Checks that a study can be begun in the folder.

        It may be there already if it holds nothing but what a kill can leave of a study
        whose manifest was not written yet.

        Raises:
          ExistsError: If it has a study.
          StoreError: If it holds anything else, or cannot be made.
        """
        if not files.exists(self.path):
            files.check_writable(
                next(filter(files.exists, self.path.absolute().parents))
            )
            return
        if files.exists(self.manifest_path):
            raise ExistsError(
                f"{self.path} exists: resume the study in it, or choose another folder"
            )
        try:
            names = {file.name for file in self.path.iterdir()}
        except OSError as error:
            raise StoreError(
                f"cannot write {self.path}: {files.reason(error)}"
            ) from None
        files.check_writable(self.path)
        if CHECKSUMS in names or any(map(self._holds, (*KINDS, AHEAD))):
            raise StoreError(
                f"{self.path} has parts of a study, but no {_MANIFEST}: restore that "
                "from a copy, or choose another folder"
            )
        own = {_MANIFEST, _STUDY}
        own |= {*map(files.scratch_name, own), *KINDS, AHEAD}
        if others := {x for x in names - own if not x.startswith(files.LOCK)}:
            raise StoreError(
                f"{self.path} holds {min(others)}, which is not a study's: choose "
                "another folder"
            )

    def create(
        self,
        study: Study,
        plan: Plan,
        file: str | pathlib.Path | None = None,
        shard: Shard | None = None,
    ) -> None:
        """Makes the folder with the study's manifest, and its file if it has one.

        The manifest comes last: it makes the folder a study's.

        Args:
          study: What will run.
          plan: How it is cut.
          file: What it was read from.
          shard: Which of its chunks will be here, None for all.

        Raises:
          StoreError: If the folder has a study already or cannot be made.
        """
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if file is not None:
                self._keep_study(reading.study_text(file))
            base = None if file is None else reading.study_folder(file)
            content = Manifest.of(study, plan, base, shard).content()
            files.write_json(self.manifest_path, content)
        except OSError as error:
            reason = files.reason(error)
            raise StoreError(f"cannot write {self.path}: {reason}") from None

    def _holds(self, kind: str) -> bool:
        """Whether there are files of a kind, listed or not."""
        place = self.path / kind
        return any(place.iterdir()) if place.is_dir() else files.exists(place)

    def _keep_study(self, text: str) -> None:
        path = self.study_path
        if files.exists(path) and files.read(path) != text.encode():
            raise StoreError(f"{path} is another study: choose another folder")
        files.write(path, text)

    def read_study(self) -> Study:
        """The study that the folder's parts are of.

        Raises:
          StoreError: If its file was changed since, with the difference, or if it was
            built in Python.
          StudyError: If its file cannot be read any more.
        """
        base = self.manifest.base
        if base is None:
            raise StoreError(
                f"{self.path} is of a study that was built in Python: resume it there, "
                "giving the study"
            )
        name = self.manifest.outline.name
        study = reading.read_study(self.study_path, name, pathlib.Path(base))
        self.manifest.check_config(study.canonical(), self.path)
        return study

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder: a second run of it would overwrite the first one's parts.

        It is made if it is not there.

        Raises:
          StoreError: If another process holds it.
        """
        with files.lock(self.path):
            # What another process finished until now.
            self.__dict__.pop("_chunks", None)
            yield

    @functools.cached_property
    def _chunks(self) -> ChunkFiles:
        """The finished chunks, as of when they are first asked for."""
        return ChunkFiles(self.path, self.manifest, lists=self._lists)

    def finished(self) -> list[int]:
        """The chunks that are finished, in their order.

        Raises:
          StoreError: If the list of finished files is damaged.
        """
        return self._chunks.finished() if files.exists(self.manifest_path) else []

    def num_parts(self) -> int:
        """How many chunks are finished."""
        return len(self.finished())

    def gather(self) -> None:
        """Lists the chunks that other processes finished until now.

        Raises:
          StoreError: If the list is damaged or cannot be written.
        """
        self._chunks.gather()

    def copies(self, chunk: int, whole: "Folder") -> Iterator[tuple[str, pa.Buffer]]:
        """The files of a finished chunk of a shard, as the folder of all has them.

        Raises:
          StoreError: If one is missing, damaged, or of another study or chunk.
        """
        return self._chunks.copies(chunk, whole._chunks.about(chunk))

    def write_part(
        self, chunk: int, statistics: Statistics, auctions: pa.Table | None
    ) -> None:
        """Adds a finished chunk: its statistics, and auctions that are kept whole.

        Raises:
          StoreError: If it cannot be written, for instance for want of space.
        """
        about = self._chunks.about(chunk)
        self._chunks.write(chunk, _files(statistics, auctions, about))

    def read_part(self, chunk: int) -> Statistics:
        """The statistics of a chunk, without its pairs.

        Raises:
          StoreError: If the part is damaged, or of another study or chunk.
        """
        shape = self._shape(chunk)
        return self._chunks.read(
            "parts", chunk, lambda file: part_format.from_table(file.read(), shape)
        )

    def read_difference(self, cell: int, other: int) -> Moments:
        """Of all measures `(M,)`, one cell minus another, over all chunks.

        Raises:
          StoreError: If a file is missing, damaged, or of another study or chunk.
        """
        return self._read_pairs(
            lambda file, shape: (
                part_format.read_pair(file, shape, cell, other).difference
            )
        )

    def read_measure(self, measure: int) -> PairMoments:
        """Joint moments `(P,)` of a measure in all pairs of cells, over all chunks.

        Raises:
          StoreError: If a file is missing, damaged, or of another study or chunk.
        """
        return self._read_pairs(
            lambda file, shape: part_format.read_measure(file, shape, measure)
        )

    def _read_pairs(
        self, decode: Callable[[pq.ParquetFile, part_format.Shape], Mergeable]
    ) -> Mergeable:
        def read(chunk: int) -> Mergeable:
            shape = self._shape(chunk)
            return self._chunks.read("pairs", chunk, lambda file: decode(file, shape))

        return merged(map(read, self.finished()))

    def read_auctions(self) -> pa.Table | None:
        """The auctions that were kept whole, None if there are none.

        Raises:
          StoreError: If a file is missing, damaged, or of another study or chunk.
        """

        def read(chunk: int) -> pa.Table:
            def decode(file: pq.ParquetFile) -> pa.Table:
                table = file.read()
                samples.check(table, plan, chunk)
                return table

            return self._chunks.read("auctions", chunk, decode)

        plan = self.manifest.plan
        tables = [read(chunk) for chunk in self.finished() if plan.kept_auctions(chunk)]
        return pa.concat_tables(tables) if tables else None

    def _shape(self, chunk: int) -> part_format.Shape:
        plan = self.manifest.plan
        return part_format.Shape(
            auctions=len(plan.auctions(chunk)),
            cells=len(plan.agents),
            measures=len(plan.columns),
            comparisons=len(self.manifest.outline.comparisons),
            batched=tuple(plan.batched(chunk)),
        )

    def statistics(self) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        return total(map(self.read_part, self.finished()))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a line on one session of running.

        Raises:
          OSError: If it cannot be written.
        """
        path = self.path / _SESSIONS
        before = files.read(path) if files.exists(path) else b""
        # A line that was cut short stays one of its own.
        end = b"" if before.endswith(b"\n") or not before else b"\n"
        # Added to, as other processes may log at the same time.
        with path.open("ab") as file:
            file.write(end + json.dumps(entry).encode() + b"\n")

    def sessions(self) -> list[dict[str, Any]]:
        """What `log` was given; lines that cannot be read are left out.

        Raises:
          StoreError: If there is something else in the log's place.
        """
        path = self.path / _SESSIONS
        try:
            lines = files.read(path).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {path}: {files.reason(error)}") from None
        return list(itertools.chain.from_iterable(map(Entry.parsed, lines)))


def _files(
    statistics: Statistics, auctions: pa.Table | None, about: Mapping[str, str]
) -> Iterator[tuple[str, pa.Buffer]]:
    """The files of a chunk, in the order of `KINDS`."""
    yield "pairs", part_format.pairs_to_parquet(statistics, about)
    if auctions is not None:
        yield "auctions", part_format.to_parquet([auctions], about)
    yield "parts", part_format.to_parquet([part_format.to_table(statistics)], about)
