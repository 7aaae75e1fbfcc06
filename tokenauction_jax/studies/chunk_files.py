"""The files of finished chunks: listed with checksums, and each says what it is of."""

import contextlib
import errno
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files
from tokenauction_jax.files import CHECKSUMS, StoreError
from tokenauction_jax.studies import part_format
from tokenauction_jax.studies.manifest import Manifest

# Of a chunk; the part, which makes the others count, comes last.
KINDS = ("pairs", "auctions", "parts")
# Where chunks that are finished before others in front of them have their lists.
AHEAD = "ahead"
_T = TypeVar("_T")


class ChunkFiles:
    """The files of the chunks of a study that are finished.

    Those of the first ones are in one list. A chunk that is finished before others in
    front of it, in a shard or by one of several processes, has a list of its own until
    it is next in line.

    Args:
      path: The folder.
      manifest: Of the study.
      lists: Whether this process owns the one list.
    """

    def __init__(self, path: pathlib.Path, manifest: Manifest, *, lists: bool = True):
        self._path, self._manifest, self._lists = path, manifest, lists

    @functools.cached_property
    def _listed(self) -> dict[str, str]:
        """SHA-256 of every listed file by its name, from when it is first asked for.

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
                    self._read(listed, "parts", 0, lambda *_: None)
                raise files.damaged_list(self._path / CHECKSUMS, line)
        return listed

    def _names(self, chunk: int) -> list[str]:
        kept = self._manifest.plan.kept_auctions(chunk)
        return [_name(kind, chunk) for kind in KINDS if kept or kind != "auctions"]

    @functools.cached_property
    def _ahead(self) -> dict[int, dict[str, str]]:
        """Likewise of each chunk that is finished, but not in line yet."""
        found, place = {}, self._path / AHEAD
        names = {file.name for file in place.iterdir()} if place.is_dir() else set()
        for chunk in range(self._in_line, self._manifest.plan.num_chunks):
            if (name := _ahead_name(chunk)) in names:
                try:
                    found[chunk] = files.read_checksums(place, name)
                except StoreError:
                    found[chunk] = {}
                if list(found[chunk]) != self._names(chunk):
                    raise StoreError(f"{place / name} is damaged: delete it and resume")
        return found

    @property
    def _in_line(self) -> int:
        """How many chunks are in the one list: their parts are."""
        return sum(name.startswith("parts/") for name in self._listed)

    def finished(self) -> list[int]:
        """The chunks that are finished, in their order.

        Raises:
          StoreError: If a list is damaged.
        """
        return [*range(self._in_line), *sorted(self._ahead)]

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
        sums = {}
        try:
            for kind, data in content:
                name = _name(kind, chunk)
                (self._path / name).parent.mkdir(exist_ok=True)
                files.write(self._path / name, data)
                sums[name] = files.checksum(data)
            ahead = self._ahead | {chunk: sums}
            if self._lists and chunk == self._in_line:
                self._line_up(ahead)
            else:
                place = self._path / AHEAD
                place.mkdir(exist_ok=True)
                files.write_checksums(place, sums, _ahead_name(chunk))
                self._ahead = ahead
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space and resume; " if full else ""
            raise StoreError(
                f"cannot write {self._path / _name('parts', chunk)}: "
                f"{files.reason(error)}; {remedy}the {len(self.finished())} chunks "
                "before it are kept"
            ) from None

    def gather(self) -> None:
        """Lists what is next in line of what other processes finished until now.

        Raises:
          StoreError: If the list cannot be written.
        """
        self.__dict__.pop("_ahead", None)
        try:
            self._line_up(self._ahead)
        except OSError as error:
            place = self._path / CHECKSUMS
            raise StoreError(f"cannot write {place}: {files.reason(error)}") from None

    def _line_up(self, ahead: Mapping[int, dict[str, str]]) -> None:
        """Lists those of the chunks ahead that are next in line."""
        sums, chunk = dict(self._listed), self._in_line
        while chunk in ahead:
            sums |= ahead[chunk]
            chunk += 1
        if len(sums) > len(self._listed):
            files.write_checksums(self._path, sums)
            self._listed = sums
        self._ahead = {key: value for key, value in ahead.items() if key >= chunk}
        for lined in ahead.keys() - self._ahead.keys():
            (self._path / AHEAD / _ahead_name(lined)).unlink(missing_ok=True)
        if chunk == self._manifest.plan.num_chunks:
            with contextlib.suppress(OSError):
                (self._path / AHEAD).rmdir()

    def copies(
        self, chunk: int, about: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Buffer]]:
        """The files of a finished chunk by their names, as another folder has them.

        Args:
          chunk: Which.
          about: What they say there that they are of.

        Raises:
          StoreError: If one is missing, damaged, or of another study or chunk.
        """

        def content(file: pq.ParquetFile, data: pa.Buffer) -> pa.Buffer:
            same = about == self.about(chunk)
            return data if same else part_format.restamped(file, about)

        sums = self._sums(chunk)
        for name in self._names(chunk):
            yield name, self._read(sums, name.partition("/")[0], chunk, content)

    def read(self, kind: str, chunk: int, decode: Callable[[pq.ParquetFile], _T]) -> _T:
        """What a finished file holds, once it is known to be what it should be.

        Args:
          kind: Of the file.
          chunk: Whose.
          decode: What to make of it; raises `ValueError` if it is not of this chunk.

        Raises:
          StoreError: If it is missing, damaged, or of another study or chunk.
        """
        sums = self._sums(chunk)
        return self._read(sums, kind, chunk, lambda file, data: decode(file))

    def _sums(self, chunk: int) -> Mapping[str, str]:
        """SHA-256 of the files of a finished chunk, and maybe of others, by names."""
        return self._listed if chunk < self._in_line else self._ahead[chunk]

    def _read(
        self,
        sums: Mapping[str, str],
        kind: str,
        chunk: int,
        decode: Callable[[pq.ParquetFile, pa.Buffer], _T],
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
                return decode(file, data)
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


def _ahead_name(chunk: int) -> str:
    return f"part-{chunk:06d}.sums"


def _buffer(path: pathlib.Path) -> pa.Buffer:
    """The bytes of a plain file in memory of Arrow's own.

    Its threads may let go of them while the interpreter ends, and a thread that asks it
    for an object's memory then aborts the process.
    """
    files.check_plain(path)
    with pa.OSFile(str(path)) as file:
        return file.read_buffer()
