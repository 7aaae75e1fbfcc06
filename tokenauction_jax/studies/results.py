"""What a study found: tables of estimates with intervals, from its folder."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tokenauction_jax import files, measures, outside
from tokenauction_jax.files import StoreError
from tokenauction_jax.statistics import (
    NUM_BATCHES,
    Intervals,
    Moments,
    PairMoments,
    Statistics,
)
from tokenauction_jax.statistics.sketch import Sketch
from tokenauction_jax.studies import contrasts, frames, samples
from tokenauction_jax.studies.config import Outline
from tokenauction_jax.studies.manifest import Manifest
from tokenauction_jax.studies.memory import Memory
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import (
    Plan,
    headline,
    precise_enough,
    study_intervals,
)

if TYPE_CHECKING:
    import polars
    import xarray

_TABLES = ("summary", "differences", "effects", "variance_ratios")


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The estimates of a study, finished or not.

    Intervals are 95 %: of a fixed number of auctions or, if the study may stop early,
    valid at whatever number it stopped (`sequential`).

    Attributes:
      study: What it is.
      plan: How it is cut, and whom it is about.
      statistics: Of all finished chunks.
      manifest: Versions, devices, digest.
      payments: Moments `(C, 2 n)` of realised payments, then of conditional ones, in
        parts of the auctions: chunks, and batches of the first one.
      folder: Where it is, on disk or in memory.
    """

    study: Outline
    plan: Plan
    statistics: Statistics
    manifest: Mapping[str, Any]
    payments: Sequence[Moments]
    folder: Folder | Memory

    def __repr__(self) -> str:
        asked = self.study.num_auctions
        state = "finished" if self.finished else f"of {asked:,}"
        return (
            f"<Results of {self.study.name!r}: cells: {len(self.cells):,}, "
            f"auctions in each: {self.num_auctions:,}, {state}>"
        )

    @property
    def num_auctions(self) -> int:
        """Auctions that ran in each cell."""
        return self.statistics.num_auctions

    @property
    def finished(self) -> bool:
        """Whether all auctions ran, or enough for the precision that `stop` asks."""
        return self.num_auctions == self.study.num_auctions or self.stopped_early

    @property
    def sequential(self) -> bool:
        """Whether intervals hold at every stopping time."""
        return self.study.stop is not None

    @property
    def stopped_early(self) -> bool:
        """Whether the study was as precise as wanted before its last auction."""
        return precise_enough(self.study, self.plan, self.statistics)

    @property
    def missed_precision(self) -> str:
        """What `stop` asks for, if all auctions ran without reaching it, else empty."""
        stop = self.study.stop
        all_ran = self.num_auctions == self.study.num_auctions
        if stop is None or not all_ran or self.stopped_early:
            return ""
        key = self.columns[headline(self.study, self.columns)].key
        return f"{key} to {stop.half_width:g} in every cell and difference"

    @property
    def undefined_cells(self) -> list[int]:
        """Indices of the cells of which every auction became undefined."""
        lost = self.statistics.undefined == self.num_auctions
        return np.nonzero(lost)[0].tolist()

    @property
    def factors(self) -> dict[str, list[str]]:
        """The labels of each factor's levels, its baseline first."""
        return {
            factor: list(dict.fromkeys(levels[factor] for levels in self.cells))
            for factor in self.cells[0]
        }

    @property
    def cells(self) -> Sequence[Mapping[str, str]]:
        """The labels of each cell's levels, in the order of the cells' indices."""
        return self.study.levels

    @property
    def units(self) -> dict[str, str]:
        """The unit of each measure."""
        return dict(measures.UNITS)

    @property
    def agent_names(self) -> list[str]:
        """Names of the agents of the cell that has most."""
        return list(max(self.plan.agents, key=len))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, backend, devices, sampler: the manifest without the study."""
        left_out = ("base", "config", "outline", "plan")
        return {k: v for k, v in self.manifest.items() if k not in left_out}

    @property
    def columns(self) -> list[measures.Column]:
        """The measures, as they are numbered in `statistics`."""
        return self.plan.columns

    @property
    def intervals(self) -> Intervals:
        """How wide the intervals are."""
        return study_intervals(self.study, self.plan)

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Every measure of every cell: mean, interval, spread, counts, quantiles."""
        return frames.summary(*self._about, self.statistics)

    @functools.cached_property
    def differences(self) -> pd.DataFrame:
        """Paired differences between cells that differ in one factor from its base."""
        return self._compared(contrasts.differences(self.cells), 0)

    @functools.cached_property
    def effects(self) -> pd.DataFrame:
        """Main effects: paired differences averaged over the other factors."""
        first = len(contrasts.differences(self.cells))
        return self._compared(contrasts.effects(self.cells), first)

    @functools.cached_property
    def variance_ratios(self) -> pd.DataFrame:
        """Variance of realised over that of conditional payments, by the jackknife."""
        return frames.variance_ratios(*self._about, self.payments)

    @functools.cached_property
    def auctions(self) -> pd.DataFrame:
        """The auctions that were kept whole, with texts and all measures."""
        table = self.folder.read_auctions()
        if table is None:
            return pd.DataFrame(columns=samples.column_names(self.plan))
        return table.to_pandas()

    @property
    def performance(self) -> pd.DataFrame:
        """One row for each session of running: rates and peak memory."""
        sessions = self.folder.sessions()
        return pd.DataFrame([{"session": i} | s for i, s in enumerate(sessions)])

    def difference(self, cell: int, other: int) -> pd.DataFrame:
        """Paired differences of any two cells, each with its interval.

        Of cells that are not in `differences` higher moments are not kept: `effective`
        is NaN, nothing is widened by it, and intervals are `doubtful`.

        Args:
          cell: Index of the cell.
          other: Of the one that is subtracted.
        """
        kept = [comparison.pairs for comparison in self.study.comparisons]
        if ((cell, other),) in kept:
            place = kept.index(((cell, other),))
            moments = self.statistics.comparisons.take(place)
        else:
            moments = self.folder.read_difference(cell, other)
        return frames.difference(self.plan, self.intervals, (cell, other), moments)

    def covariance(
        self, measure: str, valuation: str = "", agent: int | None = None
    ) -> np.ndarray:
        """Covariances `(C, C)` of a measure between the cells, text by text.

        Raises:
          ValueError: If the study has no such measure.
        """
        return self._square(self._pairs(measure, valuation, agent)[1].covariance)

    def covariance_interval(
        self, measure: str, valuation: str = "", agent: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends `(C, C)` of the intervals of `covariance`.

        Raises:
          ValueError: If the study has no such measure.
        """
        place, joint = self._pairs(measure, valuation, agent)
        effective = self.statistics.cells.effective[:, place]
        both = effective[np.stack(np.triu_indices(len(self.cells)))]
        low, high = self.intervals.of_covariance(joint, both)
        return self._square(low), self._square(high)

    def _pairs(
        self, measure: str, valuation: str, agent: int | None
    ) -> tuple[int, PairMoments]:
        """The number of a measure, and its joint moments in all pairs of cells."""
        column = measures.Column(measure, valuation, agent)
        if column not in self.columns:
            keys = outside.listed(column.key for column in self.columns)
            known = f"there are {keys}"
            raise ValueError(f"no measure {outside.quoted(column.key)}: {known}")
        place = self.columns.index(column)
        return place, self.folder.read_measure(place)

    def _square(self, pairs: np.ndarray) -> np.ndarray:
        """Numbers of pairs of cells as a symmetric matrix."""
        upper = np.triu_indices(len(self.cells))
        found = np.zeros((len(self.cells), len(self.cells)))
        found[upper] = found[upper[::-1]] = pairs
        return found

    def to_pandas(self) -> pd.DataFrame:
        """The `summary`, one row for each number."""
        return self.summary.copy()

    def to_polars(self) -> "polars.DataFrame":
        """The `summary` for Polars, which must be installed."""
        import polars

        return polars.from_pandas(self.summary)

    def to_xarray(self) -> "xarray.Dataset":
        """One variable for each measure.

        Dimensions are the factors, then `valuation` and `agent` where a measure has
        them, then `statistic`: mean, low, high, std, and what is counted in `summary`.
        """
        others = (name for names in self.plan.agents for name in names)
        agents = list(dict.fromkeys([*self.agent_names, *others]))
        about = {"study": self.study.name, "num_auctions": self.num_auctions}
        return frames.dataset(
            self.summary, self.factors, self.study.valuations, agents, about
        )

    def write_tables(self) -> None:
        """Writes the final tables as CSV into the folder's `tables`.

        Raises:
          StoreError: If they cannot be written.
        """
        if isinstance(self.folder, Memory):
            raise StoreError("a study in memory has no folder to write tables to")
        place = self.folder.path / "tables"
        try:
            place.mkdir(exist_ok=True)
            for name in _TABLES:
                files.write(place / f"{name}.csv", outside.csv(getattr(self, name)))
        except OSError as error:
            raise StoreError(f"cannot write {place}: {files.reason(error)}") from None

    @property
    def _about(self) -> tuple[Plan, Sequence[Mapping[str, str]], Intervals]:
        return self.plan, self.cells, self.intervals

    def _compared(
        self, comparisons: Sequence[contrasts.Comparison], first: int
    ) -> pd.DataFrame:
        """A table of comparisons, whose moments are from the `first` on."""
        chosen = slice(first, first + len(comparisons))
        moments = self.statistics.comparisons.take(chosen)
        return frames.compared(*self._about, comparisons, moments)


def load(path: str | pathlib.Path) -> Results:
    """The results of a study's folder, finished or not.

    Args:
      path: The folder that `tokenauction study run` made.

    Raises:
      StoreError: If it is not such a folder, if no chunk is finished, or if a part is
        damaged.
    """
    folder = Folder(pathlib.Path(path))
    return collect(folder, folder.manifest)


def collect(folder: Folder | Memory, manifest: Manifest) -> Results:
    """The results of all finished parts.

    Raises:
      StoreError: If there is none, or one is damaged.
    """
    study, plan = manifest.outline, manifest.plan
    total, payments, sketches = None, [], []
    for chunk in folder.finished():
        part = folder.read_part(chunk)
        total = part.totals() if total is None else total.merge(part)
        sketches.append(part.sketch)
        sizes = [sketch.counts.size for sketch in sketches]
        if sum(sizes[1:]) >= sizes[0]:
            # A merge takes the time and memory of all: let as much wait as is merged.
            sketches = [Sketch.merge(sketches)]
        if part.batches is None:
            payments.append(part.cells.take((slice(None), plan.payments)))
        else:
            of_batches = part.batches.moments
            payments += [of_batches.take(batch) for batch in range(NUM_BATCHES)]
    if total is None:
        raise StoreError("no chunk of the study is finished yet: resume it")
    total = dataclasses.replace(total, sketch=Sketch.merge(sketches))
    return Results(study, plan, total, manifest.content(), payments, folder)
