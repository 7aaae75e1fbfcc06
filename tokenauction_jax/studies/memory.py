"""The parts of a study that leaves no files."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from tokenauction_jax.statistics import Moments, PairMoments, Statistics

Mergeable = TypeVar("Mergeable", Moments, PairMoments)


class Memory:
    """The parts of a study that leaves no files."""

    path = None

    def __init__(self) -> None:
        self._parts: list[Statistics] = []
        self._auctions: list[pa.Table] = []
        self._sessions: list[dict[str, Any]] = []

    def finished(self) -> range:
        """The chunks that are finished, in their order."""
        return range(len(self._parts))

    def statistics(self) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        return total(self._parts)

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

    def read_difference(self, cell: int, other: int) -> Moments:
        """Of all measures `(M,)`, one cell minus another, over all chunks."""
        pairs = (x.pairs.of_pair(cell, other) for x in self._parts if x.pairs)
        return merged(pair.difference for pair in pairs)

    def read_measure(self, measure: int) -> PairMoments:
        """Joint moments `(P,)` of a measure in all pairs of cells, over all chunks."""
        return merged(x.pairs.of_measure(measure) for x in self._parts if x.pairs)

    def read_auctions(self) -> pa.Table | None:
        """The auctions that were kept whole, None if there are none."""
        return pa.concat_tables(self._auctions) if self._auctions else None

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds what one session of running did."""
        self._sessions.append(dict(entry))

    def sessions(self) -> list[dict[str, Any]]:
        """What `log` was given."""
        return self._sessions


def total(parts: Iterable[Statistics]) -> Statistics | None:
    """Parts as a running total, merged in their order."""
    found = None
    for part in parts:
        found = part.totals() if found is None else found.merge(part)
    return found


def merged(parts: Iterable[Mergeable]) -> Mergeable:
    """Moments of all chunks together, which are given in their order."""
    return functools.reduce(lambda total, part: total.merge(part), parts)
