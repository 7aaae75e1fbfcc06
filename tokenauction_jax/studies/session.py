"""Gathers the blocks of a running study into the statistics of its chunks."""

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pydantic

from tokenauction_jax import measures
from tokenauction_jax.environment import peak_memory
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.statistics import Statistics
from tokenauction_jax.studies import contrasts, samples
from tokenauction_jax.studies.plan import Plan

# Seconds over which the rate is taken.
_RECENT = 15.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is, for displays.

    Attributes:
      done: `(C,)`, auctions of each cell, those of earlier sessions included.
      total: Auctions per cell, at most, of what is run here.
      rate: Auctions per second over all cells, of late.
      statistics: Of all finished chunks, None before the first.
    """

    done: np.ndarray
    total: int
    rate: float
    statistics: Statistics | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One session of running, as the folder's log has it."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    started: str
    auctions: int
    seconds: float
    auctions_per_second: float
    tokens_per_second: float
    overhead_share: float
    peak_memory_mib: float | None
    device: str

    @classmethod
    def parsed(cls, line: bytes) -> list[dict[str, Any]]:
        """The entry on a line of the log, none if a kill or damage cut it short."""
        try:
            found = pydantic.TypeAdapter(cls).validate_json(line, strict=True)
        except pydantic.ValidationError:
            return []
        return [dataclasses.asdict(found)]


class Session:
    """Gathers blocks into the statistics of chunks, and keeps count."""

    def __init__(
        self,
        cells: Sequence[Population],
        plan: Plan,
        compared: Sequence[contrasts.Comparison],
        on_progress: Callable[[Progress], None] | None,
    ):
        self._cells, self._plan = cells, plan
        self._columns = plan.columns
        self._places = [
            [self._columns.index(column) for column in plan.columns_of(cell)]
            for cell in range(len(cells))
        ]
        self._pairs = [comparison.pairs for comparison in compared]
        self._on_progress = on_progress
        self._clock, self._began = time.perf_counter(), time.time()
        self._statistics: Statistics | None = None
        self._done, self._total = np.zeros(len(cells), int), 0
        self._ran = self._tokens = 0
        self._recent = collections.deque([(self._clock, 0)])
        self._overhead = 0.0

    @contextlib.contextmanager
    def overhead(self) -> Iterator[None]:
        """Counts the processor's time that is not spent on auctions.

        Not the elapsed one: auctions run meanwhile, on the same cores.
        """
        start = time.thread_time()
        yield
        self._overhead += time.thread_time() - start

    def begin(
        self,
        statistics: Statistics | None,
        finished: Sequence[int],
        chunks: Sequence[int],
    ) -> None:
        """Reports the chunks that are finished, before others run."""
        done, more = (
            sum(len(self._plan.auctions(chunk)) for chunk in some)
            for some in (finished, chunks)
        )
        self._done[:] = done
        self._total = done + more
        self.show(statistics)

    def show(self, statistics: Statistics | None) -> None:
        """Reports the statistics of all finished chunks."""
        self._statistics = statistics
        self._report()

    def finish(
        self, chunk: int, waiting: Sequence[Sequence[Future[list[measures.Texts]]]]
    ) -> tuple[Statistics, pa.Table | None]:
        """The statistics of a chunk, and those of its auctions that are kept whole."""
        auctions, blocks = self._plan.auctions(chunk), self._plan.blocks(chunk)
        shape = (len(self._cells), len(auctions))
        every = np.full((*shape, len(self._columns)), np.nan, jnp.result_type(float))
        valid = np.zeros(shape, bool)
        keep = self._plan.kept_auctions(chunk)
        kept = []
        for i, (cell, own) in enumerate(zip(self._cells, waiting, strict=True)):
            done = []
            texts = itertools.chain.from_iterable(future.result() for future in own)
            for block, found in zip(blocks, texts, strict=True):
                done.append(found)
                first = block * self._plan.block
                ran = min(self._plan.block, auctions.stop - first)
                self._done[i] += ran
                self._ran += ran
                self._report()
            with self.overhead():
                whole = _whole(done, len(auctions), cell.setting.has_texts, len(keep))
                self._tokens += int(whole.length.sum())
                written = samples.decode(cell, whole)
                columns = self._places[i]
                found = samples.all_measures(cell, whole, written)
                if len(columns) == len(self._columns):
                    every[i] = found
                else:
                    every[i][:, columns] = found
                valid[i] = whole.valid
                if keep:
                    about = (self._columns, every[i])
                    kept.append(samples.table(i, cell, keep, whole, written, *about))
        with self.overhead():
            absent = np.ones((shape[0], len(self._columns)), bool)
            for i, places in enumerate(self._places):
                absent[i, places] = False
            batched = self._plan.batched(chunk)
            part = Statistics.of(every, valid, absent, self._pairs, batched)
            return part, pa.concat_tables(kept) if kept else None

    def summary(self) -> dict[str, Any]:
        """What this session did, for the folder's log."""
        seconds = time.perf_counter() - self._clock
        peak = peak_memory()
        entry = Entry(
            started=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self._began)),
            auctions=self._ran,
            seconds=round(seconds, 3),
            auctions_per_second=round(self._ran / seconds, 1),
            tokens_per_second=round(self._tokens / seconds, 1),
            overhead_share=round(self._overhead / seconds, 4),
            peak_memory_mib=None if peak is None else round(peak / 2**20, 1),
            device=f"{len(jax.local_devices())} x {jax.devices()[0].device_kind}",
        )
        return dataclasses.asdict(entry)

    def _report(self) -> None:
        now = time.perf_counter()
        self._recent.append((now, self._ran))
        # Compiling slows the start down, and says nothing about the time left.
        while now - self._recent[0][0] > _RECENT and len(self._recent) > 2:
            self._recent.popleft()
        start, ran = self._recent[0]
        rate = (self._ran - ran) / max(now - start, 1e-9)
        if self._on_progress is not None:
            about = (self._done.copy(), self._total)
            self._on_progress(Progress(*about, rate, self._statistics))


def _whole(
    blocks: Sequence[measures.Texts], size: int, has_texts: bool, keep: int
) -> measures.Texts:
    """The blocks of a chunk in one: the first `size` auctions.

    Of tokens and attribution only as many as will be looked at.
    """

    def join(name: str, rows: int) -> np.ndarray:
        needed = math.ceil(rows / len(blocks[0].valid))
        parts = [getattr(block, name) for block in blocks[:needed] or blocks[:1]]
        return np.concatenate(parts)[:rows]

    return measures.Texts(
        measures=join("measures", size),
        valid=join("valid", size),
        length=join("length", size),
        tokens=join("tokens", size if has_texts else keep),
        attribution=join("attribution", keep),
    )
