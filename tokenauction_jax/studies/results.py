"""What a study found: tables of estimates with intervals, from its folder."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tokenauction_jax import files, measures
from tokenauction_jax.files import StoreError
from tokenauction_jax.statistics import Intervals
from tokenauction_jax.statistics.moments import Moments, Sketch, Statistics
from tokenauction_jax.studies import contrasts
from tokenauction_jax.studies.config import Outline
from tokenauction_jax.studies.parts import Folder, Memory
from tokenauction_jax.studies.plan import (
    Plan,
    cell_ends,
    precise_enough,
    study_intervals,
)

if TYPE_CHECKING:
    import polars
    import xarray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STATISTICS = ("mean", "low", "high", "std", "n", "infinite", "undefined")
_TABLES = ("summary", "differences", "effects", "variance_ratios")
# Parts whose sketches are in memory before they are merged.
_MERGED_AT_ONCE = 16
_PAYMENTS = ("payment", "expected_payment")


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
      payments: `K` chunks' moments of realised and conditional payments, `(C, 2, n)`.
      folder: Where it is, on disk or in memory.
    """

    study: Outline
    plan: Plan
    statistics: Statistics
    manifest: Mapping[str, Any]
    payments: Sequence[Moments]
    folder: Folder | Memory

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
        statistics = self.statistics
        low, high = cell_ends(self.intervals, self.columns, statistics.cells)
        rows = []
        for i, cell in enumerate(self.cells):
            names = self.plan.agents[i]
            for m, column in enumerate(self.columns):
                if not self._has(i, column):
                    continue
                moments = statistics.cells
                row = {"cell": i, **cell, **_place(column, names)}
                row |= {
                    "mean": moments.mean[i, m] if moments.n[i, m] else np.nan,
                    "low": low[i, m],
                    "high": high[i, m],
                    "std": moments.std[i, m],
                    "n": moments.n[i, m],
                    "infinite": statistics.infinite[i, m],
                    "undefined": statistics.undefined[i],
                }
                buckets = statistics.sketch.series(i * len(self.columns) + m)
                for level in QUANTILES:
                    found = self.intervals.of_quantile(level, *buckets)
                    name = f"q{100 * level:02.0f}"
                    labels = (name, f"{name}_low", f"{name}_high")
                    row |= dict(zip(labels, found, strict=True))
                rows.append(row)
        return pd.DataFrame(rows)

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
        rows = []
        ratios = _variance_ratios(self.payments, self.intervals)
        for i, cell in enumerate(self.cells):
            for agent, name in enumerate(self.plan.agents[i]):
                ratio, low, high = ratios[:, i, agent]
                rows.append(
                    {"cell": i, **cell, "agent": name}
                    | {"ratio": ratio, "low": low, "high": high}
                    | {"n": self.num_auctions - self.statistics.undefined[i]}
                )
        return pd.DataFrame(rows)

    @functools.cached_property
    def auctions(self) -> pd.DataFrame:
        """The auctions that were kept whole, with texts and all measures."""
        table = self.folder.read_auctions()
        return pd.DataFrame() if table is None else table.to_pandas()

    @property
    def performance(self) -> pd.DataFrame:
        """One row for each session of running: rates and peak memory."""
        sessions = self.folder.sessions()
        return pd.DataFrame([{"session": i} | s for i, s in enumerate(sessions)])

    def difference(self, cell: int, other: int) -> pd.DataFrame:
        """Paired differences of any two cells, each with its interval.

        Args:
          cell: Index of the cell.
          other: Of the one that is subtracted.
        """
        pairs, rows = self.statistics.pairs, []
        names = self.plan.agents[cell]
        for m, column in enumerate(self.columns):
            if not (self._has(cell, column) and self._has(other, column)):
                continue
            n = pairs.n[m, cell, other]
            mean = pairs.mean[m, cell, other] - pairs.mean[m, other, cell]
            m2 = pairs.m2[m, cell, other] + pairs.m2[m, other, cell]
            m2 = np.maximum(m2 - 2 * pairs.cross[m, cell, other], 0)
            std = np.sqrt(m2 / np.maximum(n - 1, 1))
            low, high = self.intervals.of_mean(mean, std, n)
            rows.append(
                {"cell": cell, "baseline_cell": other, **_place(column, names)}
                | {"mean": mean, "low": low, "high": high, "n": int(n)}
            )
        return pd.DataFrame(rows)

    def covariance(
        self, measure: str, valuation: str = "", agent: int | None = None
    ) -> np.ndarray:
        """Covariances `(C, C)` of a measure between the cells, text by text.

        Raises:
          ValueError: If the study has no such measure.
        """
        column = measures.Column(measure, valuation, agent)
        if column not in self.columns:
            keys = ", ".join(column.key for column in self.columns)
            raise ValueError(f"no measure {column.key!r}: there are {keys}")
        return self.statistics.pairs.covariance()[self.columns.index(column)]

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
        them, then `statistic`: mean, low, high, std, n, infinite and undefined.
        """
        import xarray

        axes = {name: _as_numbers(labels) for name, labels in self.factors.items()}
        shape = tuple(len(labels) for labels in axes.values())
        variables = {}
        for name, group in self.summary.groupby("measure", sort=False):
            inner: dict[str, Sequence[Any]] = {}
            records = group.to_dict("records")
            if records[0]["valuation"]:
                inner["valuation"] = list(measures.VALUATIONS)
            if records[0]["agent"]:
                inner["agent"] = self.agent_names
            full = (len(self.cells), *map(len, inner.values()), len(_STATISTICS))
            values = np.full(full, np.nan)
            for row in records:
                index = [list(inner[key]).index(row[key]) for key in inner]
                values[(row["cell"], *index)] = [row[s] for s in _STATISTICS]
            dims = (*axes, *inner, "statistic")
            variables[str(name)] = (
                dims,
                values.reshape(*shape, *full[1:]),
                {"units": measures.UNITS[str(name)]},
            )
        coordinates = {
            **axes,
            "valuation": list(measures.VALUATIONS),
            "agent": self.agent_names,
            "statistic": list(_STATISTICS),
        }
        about = {"study": self.study.name, "num_auctions": self.num_auctions}
        return xarray.Dataset(variables, coordinates, about)

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
                content = getattr(self, name).to_csv(index=False, lineterminator="\n")
                files.write(place / f"{name}.csv", content)
        except OSError as error:
            raise StoreError(f"cannot write {place}: {error.strerror}") from None

    def _has(self, cell: int, column: measures.Column) -> bool:
        """Whether a cell has a measure."""
        return column in self.plan.columns_of(cell)

    def _compared(
        self, compared: Sequence[contrasts.Comparison], first: int
    ) -> pd.DataFrame:
        moments, rows = self.statistics.comparisons, []
        low, high = self.intervals.of_mean(moments.mean, moments.std, moments.n)
        for i, comparison in enumerate(compared, first):
            about: dict[str, Any] = {
                "factor": comparison.factor,
                "level": comparison.level,
                "baseline": comparison.baseline,
            }
            cell, base = comparison.pairs[0]
            if len(comparison.pairs) == 1:
                about |= {"cell": cell, "baseline_cell": base}
                about |= self.cells[cell]
            for m, column in enumerate(self.columns):
                pairs = comparison.pairs
                if all(self._has(c, column) for pair in pairs for c in pair):
                    names = self.plan.agents[cell]
                    rows.append(
                        about
                        | _place(column, names)
                        | {
                            "mean": moments.mean[i, m] if moments.n[i, m] else np.nan,
                            "low": low[i, m],
                            "high": high[i, m],
                            "n": moments.n[i, m],
                        }
                    )
        return pd.DataFrame(rows)


def load(path: str | pathlib.Path) -> Results:
    """The results of a study's folder, finished or not.

    Args:
      path: The folder that `tokenauction study run` made.

    Raises:
      StoreError: If it is not such a folder, if no chunk is finished, or if a part is
        damaged.
    """
    folder = Folder(pathlib.Path(path))
    return collect(folder, folder.manifest())


def collect(folder: Folder | Memory, manifest: Mapping[str, Any]) -> Results:
    """The results of all finished parts.

    Raises:
      StoreError: If there is none, one is damaged, or the manifest is of a version of
        the package that wrote another one.
    """
    try:
        study = Outline.from_manifest(manifest["outline"])
        plan = Plan.from_manifest(manifest)
    except (KeyError, TypeError):
        version = manifest.get("tokenauction_jax", "another version")
        raise StoreError(
            f"the manifest is not one of this version: it was written by {version}"
        ) from None
    total, payments, sketches = None, [], []
    places = [
        [i for i, column in enumerate(plan.columns) if column.measure == payment]
        for payment in _PAYMENTS
    ]
    for chunk in range(folder.num_parts()):
        part = folder.read_part(chunk)
        total = part if total is None else total.merge(part)
        sketches.append(part.sketch)
        if len(sketches) == _MERGED_AT_ONCE:
            sketches = [Sketch.merge(sketches)]
        cells = part.cells
        payments.append(
            Moments(*(getattr(cells, x)[:, places] for x in ("n", "mean", "m2")))
        )
    if total is None:
        raise StoreError("no chunk of the study is finished yet: resume it")
    total = dataclasses.replace(total, sketch=Sketch.merge(sketches))
    return Results(study, plan, total, manifest, payments, folder)


def _place(column: measures.Column, names: Sequence[str]) -> dict[str, str]:
    agent = "" if column.agent is None else names[column.agent]
    return {"measure": column.measure, "valuation": column.valuation, "agent": agent}


def _as_numbers(labels: Sequence[str]) -> list[Any]:
    """Labels as numbers if all of them are."""
    try:
        return [float(label) for label in labels]
    except ValueError:
        return list(labels)


def _variance_ratios(chunks: Sequence[Moments], intervals: Intervals) -> np.ndarray:
    """Ratios of variances and both ends of their intervals `(3, C, n)`.

    The jackknife leaves out one chunk at a time, on the log of the ratio.
    """
    total = functools.reduce(Moments.merge, chunks)
    n = np.stack([chunk.n for chunk in chunks])
    gaps = np.stack([chunk.mean for chunk in chunks]) - total.mean
    m2 = np.stack([chunk.m2 for chunk in chunks]) + n * gaps**2
    left = total.n - n
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (total.m2 - m2 - (n * gaps) ** 2 / left) / (left - 1)
        every = total.m2 / (total.n - 1)
        ratio = np.log(every[:, 0]) - np.log(every[:, 1])
        partial = np.log(without[:, :, 0]) - np.log(without[:, :, 1])
        k = len(chunks)
        error = np.sqrt((k - 1) / k * ((partial - partial.mean(0)) ** 2).sum(0))
        half = intervals.critical_value(k) * error
        return np.exp(np.stack([ratio, ratio - half, ratio + half]))
