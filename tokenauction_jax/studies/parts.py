"""The folder of a study: a manifest, and one Parquet part for each finished chunk.

A part appears whole or not at all, and is never changed. What a reader or a resumed run
knows is the manifest and the parts, merged in their order.
"""

import contextlib
import dataclasses
import difflib
import errno
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files
from tokenauction_jax.environment import environment
from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.mechanism.sampling import SAMPLER
from tokenauction_jax.statistics.moments import PairMoments, Statistics
from tokenauction_jax.studies import part_format, reading
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.plan import Plan

_CHECKSUMS = "SHA256SUMS"
# What two runs must agree in for their numbers to be the same bits.
_SAME = ("tokenauction_jax", "versions", "backend", "x64", "random_bits")


class Folder:
    """A study's folder on disk."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @property
    def manifest_path(self) -> pathlib.Path:
        """Where the manifest is."""
        return self.path / "manifest.json"

    @functools.cached_property
    def digest(self) -> str:
        """Of the study that the parts are of."""
        return self.manifest()["digest"]

    def check_new(self) -> None:
        """Raises `ExistsError` if the folder is there already."""
        if self.path.exists():
            raise ExistsError(
                f"{self.path} exists: resume the study in it, or choose another folder"
            )

    def create(
        self, study: Study, plan: Plan, file: str | pathlib.Path | None = None
    ) -> None:
        """Makes the folder with the study's manifest, and its file if it has one.

        Args:
          study: What will run.
          plan: How it is cut.
          file: What it was read from.

        Raises:
          StoreError: If the folder exists already or cannot be made.
        """
        self.check_new()
        content = new_manifest(study, plan)
        if file is not None:
            content["base"] = str(reading.study_folder(file))
        try:
            (self.path / "parts").mkdir(parents=True)
            (self.path / "auctions").mkdir()
            if file is not None:
                files.write(self.path / "study.toml", reading.study_text(file))
            files.write_json(self.manifest_path, content)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from None

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
          StoreError: If the folder is not a study's.
        """
        try:
            return json.loads(self.manifest_path.read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is not the folder of a study: it has no manifest.json"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {self.manifest_path}: {error}") from None

    def read_study(self) -> Study:
        """The study that the folder's parts are of.

        Raises:
          StoreError: If its file was changed since, with the difference, or if it was
            built in Python.
        """
        manifest = self.manifest()
        if "base" not in manifest:
            raise StoreError(
                f"{self.path} is of a study that was built in Python: resume it there, "
                "giving the study"
            )
        base = pathlib.Path(manifest["base"])
        file = self.path / "study.toml"
        study = reading.read_study(file, manifest["outline"]["name"], base)
        self.check_unchanged(study, manifest)
        return study

    def check_unchanged(self, study: Study, manifest: Mapping[str, Any]) -> None:
        """Raises `StoreError` with a diff unless `study` is what the parts are of."""
        if study.digest() == manifest["digest"]:
            return
        now = study.canonical().splitlines()
        diff = [
            line
            for line in difflib.unified_diff(manifest["config"], now, n=0, lineterm="")
            if not line.startswith(("---", "+++", "@@"))
        ]
        raise StoreError(
            f"{self.path} was run with another configuration ({', '.join(diff)}): "
            "undo the change, or run it into another folder"
        )

    def check_environment(self, manifest: Mapping[str, Any]) -> None:
        """Raises `StoreError` if a chunk run now could differ in its bits."""
        now = environment()
        changed = [
            f"{name} was {manifest[name]}, is {now[name]}"
            for name in _SAME
            if manifest[name] != now[name]
        ]
        if changed:
            raise StoreError(
                f"{self.path} was run elsewhere ({'; '.join(changed)}): numbers would "
                "not be those of one run; use the same versions, or another folder"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder: a second run of it would overwrite the first one's parts.

        Raises:
          StoreError: If another process holds it.
        """
        try:
            # The system frees it however the process ends; the file says nothing.
            held = filelock.FileLock(self.path / ".lock", timeout=0).acquire()
        except filelock.Timeout:
            raise StoreError(f"{self.path} is being run by another process") from None
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from None
        with held:
            yield

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every finished file by its name, as ``sha256sum -c`` takes them.

        A chunk is finished once it is listed here.
        """
        try:
            listed = (self.path / _CHECKSUMS).read_text("utf-8")
        except FileNotFoundError:
            return {}
        return {line[66:]: line[:64] for line in listed.splitlines()}

    def num_parts(self) -> int:
        """How many chunks are finished."""
        return sum(name.startswith("parts/") for name in self.checksums())

    def write_part(
        self, chunk: int, statistics: Statistics, auctions: pa.Table | None
    ) -> None:
        """Adds a finished chunk: its statistics, and auctions that are kept whole.

        Raises:
          StoreError: If it cannot be written, for instance for want of space.
        """
        sums = self.checksums()
        about = {"digest": self.digest, "chunk": str(chunk)}
        try:
            for kind, data in _files(statistics, auctions, about):
                name = _part(kind, chunk)
                (self.path / name).parent.mkdir(exist_ok=True)
                files.write(self.path / name, data)
                sums[name] = hashlib.sha256(data).hexdigest()
            lines = "".join(f"{total}  {name}\n" for name, total in sums.items())
            files.write(self.path / _CHECKSUMS, lines)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space and resume; " if full else ""
            raise StoreError(
                f"cannot write {self.path / _part('parts', chunk)}: {error.strerror}; "
                f"{remedy}the {chunk} chunks before it are kept"
            ) from None

    def read_part(self, chunk: int) -> Statistics:
        """The statistics of a chunk, without its pairs.

        Raises:
          StoreError: If the part is damaged, or of another study.
        """
        return part_format.from_table(self._read_own(_part("parts", chunk)).read())

    def read_pair(self, cell: int, other: int) -> PairMoments:
        """Joint moments `(M,)` of all measures in two cells, over all chunks.

        Raises:
          StoreError: If a file is missing, damaged, or of another study.
        """
        return _merged(part_format.read_pair(x, cell, other) for x in self._pairs())

    def read_measure(self, measure: int) -> PairMoments:
        """Joint moments `(P,)` of a measure in all pairs of cells, over all chunks.

        Raises:
          StoreError: If a file is missing, damaged, or of another study.
        """
        return _merged(part_format.read_measure(x, measure) for x in self._pairs())

    def _pairs(self) -> Iterator[pq.ParquetFile]:
        return (self._read_own(_part("pairs", k)) for k in range(self.num_parts()))

    def read_auctions(self) -> pa.Table | None:
        """The auctions that were kept whole, None if there are none."""
        names = [name for name in self.checksums() if name.startswith("auctions/")]
        tables = [self._read(name).read() for name in sorted(names)]
        return pa.concat_tables(tables) if tables else None

    def _read(self, name: str) -> pq.ParquetFile:
        path = self.path / name
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != self.checksums().get(name):
                raise ValueError("its checksum is not that of what was written")
            return pq.ParquetFile(pa.BufferReader(data))
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(
                f"{path} is damaged: {reason}. Restore it from a copy, or delete its "
                f"line and all below it from {self.path / _CHECKSUMS}, and resume"
            ) from None

    def _read_own(self, name: str) -> pq.ParquetFile:
        """A finished file that says which study it is of."""
        file = self._read(name)
        about = file.schema_arrow.metadata or {}
        if about.get(b"digest") != self.digest.encode():
            raise StoreError(f"{self.path / name} is of another study")
        return file

    def statistics(self) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        return _total(self.read_part(chunk) for chunk in range(self.num_parts()))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a line on one session of running."""
        with open(self.path / "sessions.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """What `log` was given."""
        path = self.path / "sessions.jsonl"
        return (
            [json.loads(x) for x in path.read_text("utf-8").splitlines()]
            if path.exists()
            else []
        )


class Memory:
    """The parts of a study that leaves no files."""

    path = None

    def __init__(self) -> None:
        self._parts: list[Statistics] = []
        self._auctions: list[pa.Table] = []
        self._sessions: list[dict[str, Any]] = []

    def num_parts(self) -> int:
        """How many chunks are finished."""
        return len(self._parts)

    def statistics(self) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        return _total(self._parts)

    def write_part(
        self, chunk: int, statistics: Statistics, auctions: pa.Table | None
    ) -> None:
        """Adds a finished chunk: its statistics, and auctions that are kept whole."""
        del chunk
        self._parts.append(statistics)
        self._auctions += [] if auctions is None else [auctions]

    def read_part(self, chunk: int) -> Statistics:
        """The statistics of a chunk."""
        return self._parts[chunk]

    def read_pair(self, cell: int, other: int) -> PairMoments:
        """Joint moments `(M,)` of all measures in two cells, over all chunks."""
        return _merged(x.pairs.of_pair(cell, other) for x in self._parts if x.pairs)

    def read_measure(self, measure: int) -> PairMoments:
        """Joint moments `(P,)` of a measure in all pairs of cells, over all chunks."""
        return _merged(x.pairs.of_measure(measure) for x in self._parts if x.pairs)

    def read_auctions(self) -> pa.Table | None:
        """The auctions that were kept whole, None if there are none."""
        return pa.concat_tables(self._auctions) if self._auctions else None

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds what one session of running did."""
        self._sessions.append(dict(entry))

    def sessions(self) -> list[dict[str, Any]]:
        """What `log` was given."""
        return self._sessions


def new_manifest(study: Study, plan: Plan) -> dict[str, Any]:
    """What a study is and how it is cut, and what numbers depend on besides."""
    config = study.canonical()
    return {
        "outline": dataclasses.asdict(study.outline()),
        "digest": hashlib.sha256(config.encode()).hexdigest(),
        "config": config.splitlines(),
        "plan": dataclasses.asdict(plan),
        "sampler": SAMPLER,
        **environment(),
    }


def _files(
    statistics: Statistics, auctions: pa.Table | None, about: Mapping[str, str]
) -> Iterator[tuple[str, pa.Buffer]]:
    """The files of a chunk; the part, which makes the others count, comes last."""
    yield "pairs", part_format.pairs_to_parquet(statistics, about)
    if auctions is not None:
        yield "auctions", part_format.to_parquet([auctions], about)
    yield "parts", part_format.to_parquet([part_format.to_table(statistics)], about)


def _part(kind: str, chunk: int) -> str:
    return f"{kind}/part-{chunk:06d}.parquet"


def _total(parts: Iterable[Statistics]) -> Statistics | None:
    """Parts as a running total, merged in their order."""
    total = None
    for part in parts:
        total = part.totals() if total is None else total.merge(part)
    return total


def _merged(parts: Iterable[PairMoments]) -> PairMoments:
    return functools.reduce(PairMoments.merge, parts)
