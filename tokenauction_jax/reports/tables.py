"""Tables of a study's report: estimates as text, by cell, effect and agent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tokenauction_jax.reports import labels
from tokenauction_jax.reports.labels import Row
from tokenauction_jax.studies.results import Results

_COUNTS = {
    "n": "n",
    "nonzero": "nonzero",
    "infinite": "infinite",
    "nan": "not a number",
    "undefined": "undefined",
}
_QUANTILES = {
    "q05": "5 %",
    "q25": "25 %",
    "q50": "median",
    "q75": "75 %",
    "q95": "95 %",
}


class Shown(NamedTuple):
    """An estimate as text."""

    mean: str
    interval: str
    n: str
    # Whether it is a difference with a sign, and what was left out of it.
    clear: bool = False
    warning: str = ""


class Table(NamedTuple):
    """Estimates by row and column; a column is a title and a unit."""

    heads: list[str]
    columns: list[tuple[str, str]]
    rows: list[tuple[list[str], list[Shown | None]]]


def headline(results: Results) -> Table:
    """One row a cell."""
    table, factors = labels.estimates(results), labels.varying(results)
    columns = labels.headline(results)
    rows = []
    for cell, levels in labels.cells(results).items():
        found = [table.get((cell, measure, v, "")) for measure, v in columns]
        names = [levels[factor] for factor in factors] or ["all auctions"]
        rows.append((names, [_estimate(row) for row in found]))
    heads = [labels.factor_label(factor) for factor in factors] or ["cell"]
    return Table(heads, _titles(results, columns), rows)


def undefined(results: Results) -> list[tuple[str, str]]:
    """How many auctions became undefined, in the cells where some did."""
    factors = labels.varying(results)
    counts = dict.fromkeys(labels.cells(results), 0)
    for row in labels.rows(results.summary):
        counts[row["cell"]] = max(counts[row["cell"]], int(row["undefined"]))
    return [
        (
            labels.cell_label(levels, factors) or "all auctions",
            f"{counts[cell]:,} of {results.num_auctions:,}",
        )
        for cell, levels in labels.cells(results).items()
        if counts[cell]
    ]


def effects(results: Results) -> Table:
    """One row a level of a factor."""
    columns = labels.headline(results)

    def head(row: Row) -> tuple[str, ...]:
        factor, level = row["factor"], str(row["level"])
        return labels.factor_label(factor), level, str(row["baseline"])

    rows = [row for row in labels.rows(results.effects) if row["agent"] == ""]
    rows.sort(key=lambda row: labels.place(results, row))
    found = _pivot(rows, head, lambda row: (row["measure"], row["valuation"]), columns)
    return Table(["factor", "level", "against"], _titles(results, columns), found)


def differences(results: Results) -> Table:
    """One row a pair of cells; nothing new with one factor."""
    columns, factors = labels.headline(results), labels.varying(results)

    def head(row: Row) -> tuple[str, ...]:
        change = (
            f"{labels.factor_label(row['factor'])} {row['baseline']} → {row['level']}"
        )
        others = [factor for factor in factors if factor != row["factor"]]
        return change, labels.cell_label({f: str(row[f]) for f in others}, others)

    rows = [row for row in labels.rows(results.differences) if row["agent"] == ""]
    rows.sort(key=lambda row: labels.place(results, row))
    found = _pivot(rows, head, lambda row: (row["measure"], row["valuation"]), columns)
    shown = found if len(factors) > 1 else []
    return Table(["change", "where"], _titles(results, columns), shown)


def regrets(results: Results) -> Table:
    """What the first agent gains by each misreport, by valuation."""
    measure, factor = labels.utility(results), labels.REGRET_FACTOR
    agent = next(iter(results.agent_names), "")
    rows = [
        row
        for row in labels.rows(results.differences)
        if (row["factor"], row["measure"], row["agent"]) == (factor, measure, agent)
    ]
    order = list(labels.cells(results))
    rows.sort(key=lambda row: order.index(row["cell"]))
    others = [name for name in labels.varying(results) if name != factor]

    def head(row: Row) -> tuple[str, ...]:
        return *(str(row[name]) for name in others), str(row["level"])

    valuations = labels.valuations(results, measure, agent)
    found = _pivot(rows, head, lambda row: row["valuation"], valuations)
    unit = results.units.get(measure, "")
    columns = [(labels.measure_label(v), unit) for v in valuations]
    heads = [labels.factor_label(name) for name in [*others, factor]]
    return Table(heads, columns, found)


def ratios(results: Results) -> Table:
    """Variance of realised over conditional payments, by cell and agent."""
    cells, factors = labels.cells(results), labels.varying(results)
    agents = list(results.agent_names)

    def head(row: Row) -> tuple[str, ...]:
        levels = cells[row["cell"]]
        return tuple(levels[factor] for factor in factors) or ("all auctions",)

    rows = [
        row | {"mean": row["ratio"]} for row in labels.rows(results.variance_ratios)
    ]
    order = list(cells)
    rows.sort(key=lambda row: order.index(row["cell"]))
    found = _pivot(rows, head, lambda row: row["agent"], agents, difference=False)
    heads = [labels.factor_label(factor) for factor in factors] or ["cell"]
    return Table(heads, [(labels.agent_label(agent), "") for agent in agents], found)


def measures(results: Results) -> dict[str, Any]:
    """Everything that was estimated, a row a number."""
    factors, cells = labels.varying(results), labels.cells(results)
    has_quantiles = [name for name in _QUANTILES if name in results.summary]
    rows = []
    for row in labels.rows(results.summary):
        mean, interval = labels.interval(row)
        exact = row | {"low": row["exact_low"], "high": row["exact_high"]}
        names = (row["measure"], row["valuation"])
        rows.append(
            {
                "names": [
                    *(cells[row["cell"]][factor] for factor in factors),
                    *(labels.measure_label(name) if name else "" for name in names),
                    row["agent"],
                ],
                "unit": results.units.get(row["measure"], ""),
                "numbers": [
                    *(mean, interval, labels.interval(exact)[1]),
                    *(labels.number(row[x]) for x in ("std", "skewness")),
                ],
                "counts": [int(row[c]) for c in _COUNTS],
                "quantiles": [labels.interval(row, name) for name in has_quantiles],
            }
        )
    heads = [*map(labels.factor_label, factors), "measure", "valuation", "agent"]
    return {
        "heads": heads,
        "numbers": [
            *("mean", "interval", "exact interval", "std", "skewness"),
            *_COUNTS.values(),
        ],
        "quantiles": [_QUANTILES[name] for name in has_quantiles],
        "rows": rows,
    }


def _pivot(
    rows: Iterable[Row],
    head: Callable[[Row], tuple[str, ...]],
    column: Callable[[Row], Any],
    columns: Sequence[Any],
    difference: bool = True,
) -> list[tuple[list[str], list[Shown | None]]]:
    """Rows with one head become one row."""
    found: dict[tuple[str, ...], list[Shown | None]] = {}
    for row in rows:
        if (name := column(row)) in columns:
            line = found.setdefault(head(row), [None] * len(columns))
            line[columns.index(name)] = _estimate(row, difference)
    return [(list(names), line) for names, line in found.items()]


def _titles(
    results: Results, columns: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    return [(labels.measure_label(m), results.units.get(m, "")) for m, _ in columns]


def _estimate(row: Row | None, difference: bool = False) -> Shown | None:
    if row is None:
        return None
    missing = labels.not_finite(row)
    warnings = [f"{missing} left out"] if missing else []
    warnings += ["skewed or rare"] if row.get("doubtful") else []
    return Shown(
        *labels.interval(row),
        f"{row['n']:,.0f}",
        difference and labels.excludes_zero(row),
        "; ".join(warnings),
    )
