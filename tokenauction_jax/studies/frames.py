"""The tables of a study as data frames, column by column."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tokenauction_jax import measures
from tokenauction_jax.statistics import Intervals, Moments, Ranks, Statistics
from tokenauction_jax.studies.contrasts import Comparison, Levels
from tokenauction_jax.studies.plan import Plan, cell_ends

if TYPE_CHECKING:
    import xarray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STATISTICS = ("mean", "low", "high", "std", "n", "infinite", "nan", "undefined")


def measured(plan: Plan) -> np.ndarray:
    """Which of all measures each cell has, `(C, M)`."""
    own = [set(plan.columns_of(cell)) for cell in range(len(plan.agents))]
    return np.array([[column in has for column in plan.columns] for has in own])


def summary(
    plan: Plan, cells: Levels, intervals: Intervals, statistics: Statistics
) -> pd.DataFrame:
    """Every measure of every cell: mean, interval, spread, counts, quantiles."""
    found = statistics.cells
    low, high = cell_ends(intervals, plan.columns, found)
    rows = np.nonzero(measured(plan))
    content = _cells(cells, rows[0]) | _places(plan, *rows)
    content |= {
        "mean": np.where(found.n > 0, found.mean, np.nan)[rows],
        "low": low[rows],
        "high": high[rows],
        "std": found.std[rows],
        "n": found.n[rows],
        "infinite": statistics.infinite[rows],
        "nan": statistics.nan[rows],
        "undefined": statistics.undefined[rows[0]],
    }
    ranks = Ranks(statistics.sketch)
    for level in QUANTILES:
        name = f"q{100 * level:02.0f}"
        ends = intervals.of_quantile(level, ranks)
        for label, values in zip(("", "_low", "_high"), ends, strict=True):
            content[name + label] = values.reshape(found.n.shape)[rows]
    return pd.DataFrame(content)


def compared(
    plan: Plan,
    cells: Levels,
    intervals: Intervals,
    comparisons: Sequence[Comparison],
    moments: Moments,
) -> pd.DataFrame:
    """Every measure of comparisons, from the moments `(P, M)` of their differences."""
    if not comparisons:
        return pd.DataFrame()
    has = measured(plan)
    rows = np.nonzero([has[np.ravel(one.pairs)].all(0) for one in comparisons])
    content: dict[str, Any] = {
        name: _texts([getattr(one, name) for one in comparisons])[rows[0]]
        for name in ("factor", "level", "baseline")
    }
    cell, base = np.array([one.pairs[0] for one in comparisons]).T[:, rows[0]]
    if all(len(one.pairs) == 1 for one in comparisons):
        levels = _cells(cells, cell)
        content |= {"cell": levels.pop("cell"), "baseline_cell": base} | levels
    low, high = intervals.of_mean(moments.mean, moments.std, moments.n)
    content |= _places(plan, cell, rows[1]) | {
        "mean": np.where(moments.n > 0, moments.mean, np.nan)[rows],
        "low": low[rows],
        "high": high[rows],
        "n": moments.n[rows],
    }
    return pd.DataFrame(content)


def difference(
    plan: Plan, intervals: Intervals, pair: tuple[int, int], moments: Moments
) -> pd.DataFrame:
    """Every measure that two cells have, from the moments `(M,)` of its difference."""
    both = measured(plan)[list(pair)].all(0)
    mean, n = moments.mean[both], moments.n[both]
    low, high = intervals.of_mean(mean, moments.std[both], n)
    rows = np.nonzero(both)[0]
    cells = {"cell": pair[0], "baseline_cell": pair[1]}
    places = _places(plan, np.full(rows.size, pair[0]), rows)
    content = {"mean": mean, "low": low, "high": high, "n": n.astype(np.int64)}
    return pd.DataFrame(cells | places | content)


def variance_ratios(
    plan: Plan,
    cells: Levels,
    intervals: Intervals,
    payments: Sequence[Moments],
    num_defined: np.ndarray,
) -> pd.DataFrame:
    """Of every agent of every cell, whose number of defined auctions is given."""
    sizes = [len(agents) for agents in plan.agents]
    cell = np.repeat(np.arange(len(cells)), sizes)
    agent = np.concatenate([np.arange(size) for size in sizes])
    ratio, low, high = jackknife(payments, intervals)[:, cell, agent]
    content = _cells(cells, cell) | {
        "agent": _texts([name for agents in plan.agents for name in agents]),
        "ratio": ratio,
        "low": low,
        "high": high,
        "n": num_defined[cell],
    }
    return pd.DataFrame(content)


def jackknife(chunks: Sequence[Moments], intervals: Intervals) -> np.ndarray:
    """Ratios of variances and both ends of their intervals `(3, C, n)`.

    Leaves out one chunk at a time, on the log of the ratio.

    Args:
      chunks: Moments of realised and conditional payments, `(C, 2, n)`.
      intervals: How wide they are.
    """
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total.merge(chunk)
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


def dataset(
    table: pd.DataFrame,
    factors: Mapping[str, Sequence[str]],
    valuations: Sequence[str],
    agents: Sequence[str],
    about: Mapping[str, Any],
) -> "xarray.Dataset":
    """The `summary` as arrays, one for each measure.

    Args:
      table: Of `summary`.
      factors: The levels of each factor.
      valuations: Names of all valuations.
      agents: Names of all agents.
      about: Attributes of the dataset.
    """
    import xarray

    axes = {name: _as_numbers(labels) for name, labels in factors.items()}
    axes |= {"valuation": list(valuations), "agent": list(agents)}
    axes |= {"statistic": list(_STATISTICS)}
    for name, labels in factors.items():
        numbers = dict(zip(labels, axes[name], strict=True))
        table = table.assign(**{name: [numbers[x] for x in table[name]]})
    long = table.melt(
        ["measure", *(name for name in axes if name != "statistic")],
        _STATISTICS,
        "statistic",
    )
    variables = {}
    for name, group in long.groupby("measure", sort=False):
        used = [axis for axis in axes if group[axis].iloc[0] != ""]
        values = group.set_index(used)["value"].to_xarray()
        # Pandas sorts what the study has in its own order.
        values = values.reindex({axis: axes[axis] for axis in used})
        units = {"units": measures.UNITS[str(name)]}
        variables[str(name)] = (values.dims, values.values, units)
    return xarray.Dataset(variables, axes, about)


def _cells(cells: Levels, index: np.ndarray) -> dict[str, Any]:
    """The columns that tell of which cell each row is."""
    levels = {
        factor: _texts([cell[factor] for cell in cells])[index] for factor in cells[0]
    }
    return {"cell": index, **levels}


def _places(plan: Plan, cell: np.ndarray, column: np.ndarray) -> dict[str, Any]:
    """The columns that tell of which measure of a cell each row is."""
    columns = plan.columns
    names = np.full((len(plan.agents), len(columns)), "", object)
    for m, one in enumerate(columns):
        for c, agents in enumerate(plan.agents):
            if one.agent is not None and one.agent < len(agents):
                names[c, m] = agents[one.agent]
    return {
        "measure": _texts([one.measure for one in columns])[column],
        "valuation": _texts([one.valuation for one in columns])[column],
        "agent": names[cell, column],
    }


def _texts(texts: Sequence[str]) -> np.ndarray:
    return np.array(texts, object)


def _as_numbers(labels: Sequence[str]) -> list[Any]:
    """Labels as numbers if all of them are, and different ones."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return list(labels)
    return numbers if len(set(numbers)) == len(numbers) else list(labels)
