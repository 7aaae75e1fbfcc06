"""The folder of a study: a manifest, and one Parquet part for each finished chunk.

A part appears whole or not at all, and is never changed. What a reader or a resumed run
knows is the manifest and the parts, merged in their order.
"""

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax.environment import environment
from tokenauction_jax.scenarios.store import SAMPLER, StoreError
from tokenauction_jax.statistics.moments import PairMoments, Statistics
from tokenauction_jax.studies import config, part_format
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

    def check_new(self) -> None:
        """Raises `StoreError` if the folder is there already."""
        if self.path.exists():
            raise StoreError(
                f"{self.path} exists: go on with it by `tokenauction study resume "
                f"{self.path}`, or give another --out"
            )

    def create(self, study: Study, text: str, plan: Plan) -> None:
        """Makes the folder with the study's file, `text`, and its manifest.

        Raises:
          StoreError: If it exists already or cannot be made.
        """
        self.check_new()
        manifest = {
            "study": study.name,
            "digest": study.digest(),
            "config": study.canonical().splitlines(),
            "plan": dataclasses.asdict(plan),
            "sampler": SAMPLER,
            **environment(),
        }
        try:
            (self.path / "parts").mkdir(parents=True)
            (self.path / "auctions").mkdir()
            write_whole(self.path / "study.toml", text.encode())
            content = json.dumps(manifest, indent=2) + "\n"
            write_whole(self.manifest_path, content.encode())
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from None

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
          StoreError: If the folder is no study's.
        """
        try:
            return json.loads(self.manifest_path.read_text())
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is no study's folder: it has no manifest.json"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {self.manifest_path}: {error}") from None

    def read_study(self) -> Study:
        """The study that the folder's parts are of.

        Raises:
          StoreError: If its file was changed since, with the difference.
        """
        manifest = self.manifest()
        study = config.read_study(self.path / "study.toml", manifest["study"])
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
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"{self.path} is being run by another process"
                ) from None
            yield

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every finished file by its name, as ``sha256sum -c`` takes them.

        A chunk is finished once it is listed here.
        """
        try:
            listed = (self.path / _CHECKSUMS).read_text()
        except FileNotFoundError:
            return {}
        return {line[66:]: line[:64] for line in listed.splitlines()}

    def num_parts(self) -> int:
        """How many chunks are finished."""
        return sum(name.startswith("parts/") for name in self.checksums())

    def write_part(
        self,
        chunk: int,
        digest: str,
        statistics: Statistics,
        auctions: pa.Table | None,
    ) -> None:
        """Adds a finished chunk: its statistics, and auctions that are kept whole.

        Raises:
          StoreError: If it cannot be written, for instance for want of space.
        """
        sums = self.checksums()
        about = {"digest": digest, "chunk": str(chunk)}
        try:
            for kind, data in _files(statistics, auctions, about):
                name = _part(kind, chunk)
                (self.path / name).parent.mkdir(exist_ok=True)
                write_whole(self.path / name, data)
                sums[name] = hashlib.sha256(data).hexdigest()
            lines = "".join(f"{total}  {name}\n" for name, total in sums.items())
            write_whole(self.path / _CHECKSUMS, lines.encode())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space and resume; " if full else ""
            raise StoreError(
                f"cannot write {self.path / _part('parts', chunk)}: {error.strerror}; "
                f"{remedy}the {chunk} chunks before it are kept"
            ) from None

    def read_part(self, chunk: int, digest: str) -> Statistics:
        """The statistics of a chunk, without its pairs.

        Raises:
          StoreError: If the part is damaged, or of another study.
        """
        return part_format.from_table(self._read(_part("parts", chunk), digest).read())

    def read_pairs(
        self, digest: str, choose: Callable[[pq.ParquetFile], PairMoments]
    ) -> PairMoments:
        """Joint moments of pairs of cells in all finished chunks.

        Args:
          digest: Of the study.
          choose: Reads the wanted ones from the file of a chunk.

        Raises:
          StoreError: If a file is missing, damaged, or of another study.
        """
        names = [_part("pairs", chunk) for chunk in range(self.num_parts())]
        chunks = (choose(self._read(name, digest)) for name in names)
        return functools.reduce(PairMoments.merge, chunks)

    def read_auctions(self) -> pa.Table | None:
        """The auctions that were kept whole, None if there are none."""
        names = [name for name in self.checksums() if name.startswith("auctions/")]
        tables = [self._read(name).read() for name in sorted(names)]
        return pa.concat_tables(tables) if tables else None

    def _read(self, name: str, digest: str | None = None) -> pq.ParquetFile:
        """A finished file, of the study with a digest if one is given."""
        path = self.path / name
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != self.checksums().get(name):
                raise ValueError("its checksum is not that of what was written")
            file = pq.ParquetFile(pa.BufferReader(data))
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(
                f"{path} is damaged: {reason}. Restore it from a copy, or delete its "
                f"line and all below it from {self.path / _CHECKSUMS}, and resume"
            ) from None
        about = file.schema_arrow.metadata or {}
        if digest is not None and about.get(b"digest") != digest.encode():
            raise StoreError(f"{path} is of another study")
        return file

    def statistics(self, digest: str) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        total = None
        for chunk in range(self.num_parts()):
            part = self.read_part(chunk, digest)
            total = part.totals() if total is None else total.merge(part)
        return total

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a line on one session of running."""
        with open(self.path / "sessions.jsonl", "a") as file:
            file.write(json.dumps(entry) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """What `log` was given."""
        path = self.path / "sessions.jsonl"
        return (
            [json.loads(x) for x in path.read_text().splitlines()]
            if path.exists()
            else []
        )


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


def write_whole(path: pathlib.Path, content: Any) -> None:
    """Writes a file that exists whole or not at all, whatever happens meanwhile."""
    scratch = path.with_name(f".{path.name}.writing")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
