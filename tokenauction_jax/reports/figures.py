"""Figures of a study: what its cells, its effects and its swept numbers show."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from tokenauction_jax.reports import drawing, labels
from tokenauction_jax.reports.drawing import Chart, Group, Panel, Point
from tokenauction_jax.reports.labels import Row
from tokenauction_jax.studies.results import Results

# More curves than these cannot be followed in one panel.
_MOST_CURVES = 6
# What of a level only says how much is computed.
_SIZE = re.compile(r", (?:num_replies|forward_passes)=\d+")
_Key = tuple[str, str, str]
_Table = dict[tuple[int, str, str, str], Row]


def charts(results: Results) -> list[Chart]:
    """Every figure that makes sense for the study, in reading order."""
    swept = [f for f in labels.varying(results) if labels.numeric(results, f)]
    found = [
        compute(results),
        welfare(results),
        *(response(results, factor) for factor in swept),
        weight(results),
        revenue_welfare(results),
        effects(results),
        shortfalls(results),
    ]
    return [chart for chart in found if chart is not None]


def welfare(results: Results) -> Chart:
    """Welfare of every cell."""
    measure, valuation = labels.welfare(results)
    figure = _cells(results, [(measure, valuation)])
    told = (
        f"under {labels.measure_label(valuation)} with its interval. 0 would give "
        "every agent its own distribution; higher is better."
        if valuation
        else "with its interval: the agents' values times the log-probability of the "
        "text under each, less that under the reference; higher is better."
    )
    caption = f"Mean welfare per text {told}"
    return Chart("welfare", "Welfare per cell", caption + _note(results), figure)


def compute(results: Results) -> Chart | None:
    """Welfare and revenue against what a text costs, a curve a mechanism."""
    if not _has_sizes(results):
        return None
    table, key = labels.estimates(results), ("forward_passes", "", "")
    costs = [table[cell, *key]["mean"] for cell in labels.cells(results)]
    columns = labels.headline(results)[:2]
    figure = _by_mechanism(results, key, [(*column, "") for column in columns])
    if min(costs) > 0:
        drawing.widen(figure)
    caption = (
        "What the mechanisms reach with the same compute: a forward pass is one model "
        "reading one token. A curve goes through the numbers of candidates."
    )
    return Chart("compute", "Welfare and revenue by compute", caption, figure)


def shortfalls(results: Results) -> Chart | None:
    """What every cell loses against the best distribution and the best one agent."""
    valuation = results.study.valuation
    measures = ("optimum_shortfall", "single_agent_shortfall")
    columns = [(name, valuation) for name in measures]
    columns = [column for column in columns if column in labels.headline(results)]
    if not columns:
        return None
    caption = (
        "Welfare lost against the best distribution at each token, and against the "
        "one agent whose own text distributions would have been best for all "
        "(negative: the auction is better than any agent alone)."
    )
    figure = _cells(results, columns, zero=True)
    return Chart("shortfalls", "Shortfalls", caption + _note(results), figure)


def effects(results: Results) -> Chart | None:
    """A forest plot of the main effects on welfare, revenue and efficiency."""
    columns = labels.headline(results)[:3]
    found: dict[str, dict[str, list[Row | None]]] = {}
    shown = labels.rows(results.effects)
    for row in sorted(shown, key=lambda row: labels.place(results, row)):
        column = (row["measure"], row["valuation"])
        if row["agent"] == "" and column in columns:
            heading = f"{labels.factor_label(row['factor'])}, from {row['baseline']}"
            group = found.setdefault(heading, {})
            line = group.setdefault(f"to {row['level']}", [None] * len(columns))
            line[columns.index(column)] = row
    if not found:
        return None
    groups = [Group(name, list(group.items())) for name, group in found.items()]
    titles = [labels.with_unit(results, measure) for measure, _ in columns]
    caption = (
        "Change of the mean when one factor leaves its first level, paired by auction "
        "and averaged over the other factors. Filled: the interval excludes 0."
    )
    figure = drawing.forest(groups, titles, zero=True, hollow=True, coloured=False)
    return Chart("effects", "Effects", caption, figure)


def weight(results: Results) -> Chart | None:
    """Welfare against the first agent's weight, if a factor moves it."""
    agent = next(iter(results.agent_names), "")
    factor = _weight_factor(results, agent)
    if factor is None:
        return None
    table, name = labels.estimates(results), labels.agent_label(agent)
    valuations = labels.valuations(results, "welfare", "")

    def points(cells: Sequence[int], valuation: str) -> Sequence[Point]:
        keys = [("weight", "", agent), ("welfare", valuation, "")]
        found = _points(table, cells, *keys)
        found.sort(key=lambda point: point[0]["mean"])
        return found

    y = labels.with_unit(results, "welfare")
    figure = _curves(
        results,
        factor,
        [
            (labels.measure_label(v), y, partial(points, valuation=v))
            for v in valuations
        ],
        f"weight of {drawing.short(name)} (share)",
    )
    caption = (
        f"Mean welfare under each valuation against the weight of {name}, moved by "
        f"the {labels.factor_label(factor)}."
    )
    return Chart("weight", "Welfare by weight", caption, figure)


def revenue_welfare(results: Results) -> Chart | None:
    """Mean revenue against mean welfare, a point a cell."""
    revenue = next((m for m, _ in labels.headline(results) if "revenue" in m), None)
    factors = labels.varying(results)
    if revenue is None or not factors:
        return None
    if _has_sizes(results):
        key = (*labels.welfare(results), "")
        figure = _by_mechanism(results, key, [(revenue, "", "")], growing=True)
        caption = "Each point is a cell, with both intervals. Points grow with compute."
        return Chart("revenue-welfare", "Revenue against welfare", caption, figure)
    swept = next((f for f in factors if labels.numeric(results, f)), "")
    cells, table = labels.cells(results), labels.estimates(results)

    def points(chosen: Sequence[int]) -> Sequence[Point]:
        if swept:
            chosen = sorted(chosen, key=lambda c: float(cells[c][swept]))
        keys = [(*labels.welfare(results), ""), (revenue, "", "")]
        return _points(table, chosen, *keys)

    figure = _curves(
        results,
        swept,
        [("", labels.with_unit(results, revenue), points)],
        labels.with_unit(results, labels.welfare(results)[0]),
        growing=bool(swept),
    )
    caption = "Each point is a cell, with both intervals."
    if swept:
        caption += f" Points grow with the {labels.factor_label(swept)}."

    return Chart("revenue-welfare", "Revenue against welfare", caption, figure)


def response(results: Results, factor: str) -> Chart | None:
    """What a swept number does to welfare, against the factor's first level."""
    if factor == labels.REGRET_FACTOR:
        return regret(results)
    column = (*labels.welfare(results), "")
    baseline, paired = _paired(results, factor)
    if not any(key[1:] == column for key in paired):
        return None
    name, unit = labels.factor_label(factor), labels.with_unit(results, column[0])
    table = labels.estimates(results)
    reference = labels.level_label(factor, baseline)
    columns = [
        ("mean", unit, partial(_swept, results, factor, table, column)),
        (
            f"difference to {reference}",
            unit,
            partial(_swept, results, factor, paired, column),
        ),
    ]
    figure = _curves(results, factor, columns, name)
    drawing.scale_numbers(figure, sorted(map(float, results.factors[factor])))
    caption = (
        f"Left, mean welfare by {name}; right, its difference to {reference} over the "
        "same auctions."
    )
    return Chart(f"response-{_slug(factor)}", f"Welfare by {name}", caption, figure)


def regret(results: Results) -> Chart | None:
    """What the first agent gains by multiplying its truthful bid, per valuation."""
    agent = next(iter(results.agent_names), "")
    factor, measure = labels.REGRET_FACTOR, labels.utility(results)
    baseline, paired = _paired(results, factor)
    valuations = labels.valuations(results, measure, agent)
    if not paired or not valuations:
        return None
    y = labels.with_unit(results, measure, "gain in utility")
    columns = []
    for valuation in valuations:
        column = (measure, valuation, agent)
        points = partial(_swept, results, factor, paired, column)
        columns.append((labels.measure_label(valuation), y, points))
    name = labels.agent_label(agent)
    x = f"bid of {drawing.short(name)} / its truthful bid"
    figure = _curves(results, factor, columns, x, zero=True)
    drawing.scale_numbers(figure, sorted(map(float, results.factors[factor])))
    caption = (
        f"Utility of {name} when it bids a multiple of its truthful bid, minus its "
        f"utility at factor {baseline} in the same auctions, under each valuation. "
        "Above 0, misreporting pays."
    )
    return Chart("regret", "Gain from misreporting", caption, figure)


def _points(
    table: _Table, cells: Sequence[int], x: _Key, y: _Key
) -> list[tuple[Row, Row]]:
    """Two measures of each cell that has both."""
    found = [(table.get((cell, *x)), table.get((cell, *y))) for cell in cells]
    return [(a, b) for a, b in found if a is not None and b is not None]


def _has_sizes(results: Results) -> bool:
    """Whether cells differ in how much they compute for their candidates."""
    cells = labels.cells(results).values()
    return any(_SIZE.search(level) for levels in cells for level in levels.values())


def _by_mechanism(
    results: Results, x: _Key, columns: Sequence[_Key], growing: bool = False
) -> Figure:
    """Measures against another, a curve through all that computes more of the same."""
    table = labels.estimates(results)
    curves: dict[str, list[int]] = {}
    for cell, levels in labels.cells(results).items():
        label = labels.cell_label(levels, labels.varying(results))
        curves.setdefault(_SIZE.sub("", label), []).append(cell)
    for chosen in curves.values():
        chosen.sort(key=lambda cell: table[cell, "forward_passes", "", ""]["mean"])
    grid = [
        Panel(
            labels.measure_label(y[0]) if len(columns) > 1 else "",
            labels.with_unit(results, y[0]),
            [
                (style, _points(table, chosen, x, y))
                for style, chosen in enumerate(curves.values())
            ],
        )
        for y in columns
    ]
    label = labels.with_unit(results, x[0])
    return drawing.curves([grid], list(curves), label, growing=growing)


def _swept(
    results: Results, factor: str, table: _Table, y: _Key, cells: Sequence[int]
) -> Sequence[Point]:
    """A measure of each cell that has it against the level of a swept number."""
    levels = labels.cells(results)
    found = sorted((float(levels[cell][factor]), cell) for cell in cells)
    return [(x, table[cell, *y]) for x, cell in found if (cell, *y) in table]


def _paired(results: Results, factor: str) -> tuple[str, _Table]:
    """The baseline of a factor, and the differences to it: there, exactly 0."""
    rows = [r for r in labels.rows(results.differences) if r["factor"] == factor]
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    table: _Table = {}
    for row in rows:
        key = (row["measure"], row["valuation"], row["agent"])
        table[row["cell"], *key] = row
        table[row["baseline_cell"], *key] = zero
    return (str(rows[0]["baseline"]) if rows else ""), table


def _cells(
    results: Results, columns: Sequence[tuple[str, str]], zero: bool = False
) -> Figure:
    """A forest plot of measures of all cells, grouped by the first factor."""
    factors = labels.varying(results)
    table = labels.estimates(results)
    groups: dict[str, list[tuple[str, list[Row | None]]]] = {}
    for cell, levels in labels.cells(results).items():
        found = [table.get((cell, measure, v, "")) for measure, v in columns]
        several = len(factors) > 1
        heading = labels.cell_label(levels, factors[:1]) if several else ""
        label = labels.cell_label(levels, factors[1:] if several else factors)
        left_out = any(row and labels.left_out(row) for row in found)
        name = (label or "all auctions") + (" †" if left_out else "")
        groups.setdefault(heading, []).append((name, found))
    titles = [labels.with_unit(results, measure) for measure, _ in columns]
    return drawing.forest(
        [Group(*group) for group in groups.items()], titles, zero=zero
    )


def _note(results: Results) -> str:
    """Explains the daggers, if there are any."""
    if not any(map(labels.left_out, labels.rows(results.summary))):
        return ""
    return " †: auctions without a finite measure were left out; the tables count them."


def _curves(
    results: Results,
    swept: str,
    columns: Sequence[tuple[str, str, Callable[[Sequence[int]], Sequence[Point]]]],
    x: str,
    *,
    zero: bool = False,
    growing: bool = False,
) -> Figure:
    """Curves along the factor `swept`, one per combination of the others.

    Args:
      results: Of the study.
      swept: The factor along a curve; with none, a curve is a point.
      columns: A title, a y axis, and what finds the points of a curve's cells.
      x: The x axis.
      zero: Whether to mark 0.
      growing: Whether markers grow along a curve.
    """
    cells = labels.cells(results)
    others = [factor for factor in labels.varying(results) if factor != swept]
    combined = {labels.cell_label(levels, others) for levels in cells.values()}
    along = others if len(combined) <= _MOST_CURVES else others[:1]
    names: dict[str, int] = {}
    panels: dict[str, dict[str, list[int]]] = {}
    for cell, levels in cells.items():
        name = labels.cell_label(levels, along)
        names.setdefault(name, len(names))
        rest = [factor for factor in others if factor not in along]
        panel = panels.setdefault(labels.cell_label(levels, rest), {})
        panel.setdefault(name, []).append(cell)
    grid = [
        [
            Panel(
                "; ".join(filter(None, (where, title))),
                y,
                [(names[name], points(chosen)) for name, chosen in curves.items()],
            )
            for title, y, points in columns
        ]
        for where, curves in panels.items()
    ]
    single = len(columns) == 1
    if single and len(grid) <= 3:
        grid = [[panel for row in grid for panel in row]]
    return drawing.curves(
        grid, list(names), x, zero=zero, growing=growing, same_y=single
    )


def _weight_factor(results: Results, agent: str) -> str | None:
    """A factor that alone moves the agent's weight among the same agents."""
    cells = labels.cells(results)
    shares: dict[int, dict[str, float]] = {cell: {} for cell in cells}
    for (cell, measure, _, name), row in labels.estimates(results).items():
        if measure == "weight":
            shares[cell][name] = row["mean"]
    for factor in labels.varying(results):
        families: dict[tuple[str, ...], list[int]] = {}
        for cell, levels in cells.items():
            others = tuple(level for name, level in levels.items() if name != factor)
            families.setdefault(others, []).append(cell)
        for family in families.values():
            found = [shares[cell] for cell in family]
            values = [by_agent.get(agent, math.nan) for by_agent in found]
            same = all(by_agent.keys() == found[0].keys() for by_agent in found)
            if same and max(values) - min(values) > 0.01:
                return factor
    return None


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
