"""The files of finished chunks: listed with checksums, and each says what it is of."""

import errno
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files
from tokenauction_jax.files import CHECKSUMS, StoreError
from tokenauction_jax.studies.manifest import Manifest

# Of a chunk; the part, which makes the others count, comes last.
KINDS = ("pairs", "auctions", "parts")
_T = TypeVar("_T")


class ChunkFiles:
    """The files of the chunks of a study that are finished."""

    def __init__(self, path: pathlib.Path, manifest: Manifest):
        self._path, self._manifest = path, manifest

    @functools.cached_property
    def _sums(self) -> dict[str, str]:
        """SHA-256 of every finished file by its name, from when it is first asked for.

        The list is the first names of those that the plan makes, in their order, so
        that a missing line is noticed.
        """
        listed = files.read_checksums(self._path)
        chunks = range(self._manifest.plan.num_chunks if listed else 0)
        due = itertools.chain.from_iterable(map(self._names, chunks))
        for line, name in enumerate(listed, 1):
            if name != next(due, None):
                # Unless it is the plan that is wrong.
                if _name("parts", 0) in listed:
                    self._read(listed, "parts", 0, lambda file: None)
                raise files.damaged_list(self._path / CHECKSUMS, line)
        return listed

    def _names(self, chunk: int) -> list[str]:
        kept = self._manifest.plan.kept_auctions(chunk)
        return [_name(kind, chunk) for kind in KINDS if kept or kind != "auctions"]

    def count(self) -> int:
        """How many chunks are finished: their parts are listed.

        Raises:
          StoreError: If the list is damaged.
        """
        return sum(name.startswith("parts/") for name in self._sums)

    def about(self, chunk: int) -> dict[str, str]:
        """What the files of a chunk say that they are of."""
        return self._study | {"chunk": str(chunk)}

    @functools.cached_property
    def _study(self) -> dict[str, str]:
        return {"digest": self._manifest.digest, "manifest": self._manifest.stamp}

    def write(self, chunk: int, content: Iterable[tuple[str, pa.Buffer]]) -> None:
        """Adds the files of a chunk by their kinds, and then lists them.

        Raises:
          StoreError: If they cannot be written, for instance for want of space.
        """
        sums = dict(self._sums)
        try:
            for kind, data in content:
                name = _name(kind, chunk)
                (self._path / name).parent.mkdir(exist_ok=True)
                files.write(self._path / name, data)
                sums[name] = files.checksum(data)
            files.write_checksums(self._path, sums)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space and resume; " if full else ""
            raise StoreError(
                f"cannot write {self._path / _name('parts', chunk)}: "
                f"{files.reason(error)}; {remedy}the {chunk} chunks before it are kept"
            ) from None
        self._sums = sums

    def read(self, kind: str, chunk: int, decode: Callable[[pq.ParquetFile], _T]) -> _T:
        """What a finished file holds, once it is known to be what it should be.

        Args:
          kind: Of the file.
          chunk: Whose.
          decode: What to make of it; raises `ValueError` if it is not of this chunk.

        Raises:
          StoreError: If it is missing, damaged, or of another study or chunk.
        """
        return self._read(self._sums, kind, chunk, decode)

    def _read(
        self,
        sums: Mapping[str, str],
        kind: str,
        chunk: int,
        decode: Callable[[pq.ParquetFile], _T],
    ) -> _T:
        name = _name(kind, chunk)
        try:
            data = _buffer(self._path / name)
            if files.checksum(data) != sums.get(name):
                raise ValueError("its checksum is not that of what was written")
            file = pq.ParquetFile(pa.BufferReader(data))
            differs = self._differs(file.schema_arrow.metadata or {}, chunk)
            if "digest" in differs:
                raise ValueError("it is of another study")
            if "chunk" in differs:
                raise ValueError("it is of another chunk")
            if not differs:
                return decode(file)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(
                f"{self._path / name} is damaged: {files.reason(error)}. Restore it "
                f"from a copy, or delete its line and all below it from {CHECKSUMS}, "
                "and resume"
            ) from None

        raise StoreError(
            f"the manifest of {self._path} was changed since {name} was written: undo "
            "the change"
        )

    def _differs(self, found: Mapping[bytes, bytes], chunk: int) -> set[str]:
        """In what a file does not say that it is of this study and chunk."""
        return {
            key
            for key, due in self.about(chunk).items()
            if found.get(key.encode()) != due.encode()
        }


def _name(kind: str, chunk: int) -> str:
    return f"{kind}/part-{chunk:06d}.parquet"


def _buffer(path: pathlib.Path) -> pa.Buffer:
    """The bytes of a plain file in memory of Arrow's own.

    Its threads may let go of them while the interpreter ends, and a thread that asks it
    for an object's memory then aborts the process.
    """
    files.check_plain(path)
    with pa.OSFile(str(path)) as file:
        return file.read_buffer()
