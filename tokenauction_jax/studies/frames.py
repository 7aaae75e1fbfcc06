"""The tables of a study as data frames, column by column."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tokenauction_jax import measures
from tokenauction_jax.statistics import (
    Bounds,
    Intervals,
    Moments,
    Ranks,
    Statistics,
)
from tokenauction_jax.studies.contrasts import Comparison, Levels
from tokenauction_jax.studies.plan import Plan, cell_ends, compared_bounds

if TYPE_CHECKING:
    import xarray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Of means, in tables.
_MEANS = (
    *("mean", "low", "high", "n", "effective", "skewness", "doubtful"),
    *("exact_low", "exact_high"),
)
_SUMMARY = (
    *("mean", "low", "high", "std", "std_low", "std_high", "skewness", "doubtful"),
    *("n", "effective", "nonzero", "infinite", "nan", "undefined"),
    *("exact_low", "exact_high"),
)
# Of these, the numbers that are known of every measure.
_STATISTICS = (
    *("mean", "low", "high", "std"),
    *("n", "effective", "nonzero", "infinite", "nan", "undefined"),
)


def measured(plan: Plan) -> np.ndarray:
    """Which of all measures each cell has, `(C, M)`."""
    own = [set(plan.columns_of(cell)) for cell in range(len(plan.agents))]
    return np.array([[column in has for column in plan.columns] for has in own])


def summary(
    plan: Plan, cells: Levels, intervals: Intervals, statistics: Statistics
) -> pd.DataFrame:
    """Every measure of every cell: mean, interval, spread, counts, quantiles."""
    found, sketch = statistics.cells, statistics.sketch
    std_low, std_high = intervals.of_std(found)
    rows = np.nonzero(measured(plan))
    content = _cells(cells, rows[0]) | _places(plan, *rows)
    low, high = cell_ends(intervals, plan, found)
    numbers = _means(intervals, found, plan.bounds)
    numbers |= {
        "low": low,
        "high": high,
        "doubtful": numbers["doubtful"] & ~plan.shares,
        "std": found.std,
        "std_low": std_low,
        "std_high": std_high,
        "nonzero": sketch.nonzero.reshape(found.n.shape),
        "infinite": statistics.infinite,
        "nan": statistics.nan,
        "undefined": np.broadcast_to(statistics.undefined[:, None], found.n.shape),
    }
    content |= {name: numbers[name][rows] for name in _SUMMARY}
    ranks = Ranks(sketch)
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
    bounds = compared_bounds(plan.bounds, comparisons)
    numbers = _means(intervals, moments, bounds)
    content |= _places(plan, cell, rows[1])
    content |= {name: numbers[name][rows] for name in _MEANS}
    return pd.DataFrame(content)


def difference(
    plan: Plan, intervals: Intervals, pair: tuple[int, int], moments: Moments
) -> pd.DataFrame:
    """Every measure that two cells have, from the moments `(M,)` of its difference."""
    rows = np.nonzero(measured(plan)[list(pair)].all(0))[0]
    bounds = plan.bounds.take(pair[0]).minus(plan.bounds.take(pair[1]))
    numbers = _means(intervals, moments, bounds)
    content: dict[str, Any] = {"cell": pair[0], "baseline_cell": pair[1]}
    content |= _places(plan, np.full(rows.size, pair[0]), rows)
    return pd.DataFrame(content | {name: numbers[name][rows] for name in _MEANS})


def _means(
    intervals: Intervals, moments: Moments, bounds: Bounds
) -> dict[str, np.ndarray]:
    """What tables say of means: their intervals, and what these rest on."""
    low, high = intervals.of_moments(moments, bounds)
    exact_low, exact_high = intervals.of_bounded(moments, bounds)
    return {
        "mean": np.where(moments.n > 0, moments.mean, np.nan),
        "low": low,
        "high": high,
        "n": moments.n.astype(np.int64),
        # What cannot vary is known.
        "effective": np.where(bounds.constant, moments.n, moments.effective),
        "skewness": moments.skewness,
        "doubtful": intervals.doubtful(moments, bounds),
        "exact_low": exact_low,
        "exact_high": exact_high,
    }


def variance_ratios(
    plan: Plan, cells: Levels, intervals: Intervals, payments: Sequence[Moments]
) -> pd.DataFrame:
    """Of every agent of every cell, realised payments over conditional ones.

    Args:
      plan: How the study is cut.
      cells: Its levels.
      intervals: How wide they are.
      payments: Moments `(C, 2 n)` in parts of the auctions.
    """
    sizes = [len(agents) for agents in plan.agents]
    cell = np.repeat(np.arange(len(cells)), sizes)
    agent = np.concatenate([np.arange(size) for size in sizes])
    both = np.stack([agent, agent + len(plan.payments) // 2])
    groups = [part.take((cell, both)) for part in payments]
    ratio, low, high = intervals.of_variance_ratio(groups)
    content = _cells(cells, cell) | {
        "agent": _texts([name for agents in plan.agents for name in agents]),
        "ratio": ratio,
        "low": low,
        "high": high,
        "n": sum(group.n[0] for group in groups),
    }
    return pd.DataFrame(content)


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
