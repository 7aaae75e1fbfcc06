"""What an optimisation of bids shows: its answer, curves and trajectories."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from tokenauction_jax.bidding.equilibrium import SURE
from tokenauction_jax.bidding.search import BELOW
from tokenauction_jax.optimisation import phases
from tokenauction_jax.optimisation.config import BestResponse, Equilibrium, Pacing
from tokenauction_jax.optimisation.results import Results
from tokenauction_jax.reports import drawing, labels, writer
from tokenauction_jax.reports.drawing import Chart, Panel, Point
from tokenauction_jax.reports.labels import Row, agent_label, number, pair
from tokenauction_jax.reports.tables import Shown, Table

# The agent and the position of what is of all agents, or of a whole text.
_ALL, _TEXT = -1, -1
_COLUMNS = 3
# Curves beyond this many times the largest bid of interest only show what is dear.
_SHOWN = 2.5
_KINDS = {
    "unpaced": "bids as in the file, cut off at the budget",
    "paced": "bids times the multipliers",
}


def write_page(results: Results, folder: pathlib.Path) -> pathlib.Path:
    """Writes the page and its figures; see `pages.write_report`."""
    outline = results.outline
    return writer.write_page(
        folder,
        charts(results),
        "optimisation.html.jinja",
        outline=outline,
        finished=results.finished,
        facts=_facts(results),
        verdicts=verdicts(results),
        note=_note(results),
        answers=answers(results),
        environment=list(writer.flat(_environment(results))),
    )


def verdicts(results: Results) -> list[tuple[str, bool]]:
    """What is to be said of the answer, and whether it is a warning."""
    goal, (gap, error) = results.outline.goal, results.gap
    found = []
    if not results.finished:
        found.append(("It is not finished: no gap was measured yet.", True))
    elif isinstance(goal, Pacing):
        off = f"off by {_percent(gap)} ± {_percent(SURE * error)}"
        found.append(_judged(results, "budgets are met", f"{off} of a budget", "%"))
    elif isinstance(goal, Equilibrium):
        told = f"all deviations together gain {with_error(gap, error)} a text"
        found.append(_judged(results, "this is an equilibrium", told))
    if undefined := results.rows(stage="gap", quantity="undefined"):
        share = _percent(max(row.mean for row in undefined))
        told = f"{share} of the auctions become undefined at these bids, and count with"
        found.append((f"{told} what came before.", True))
    if (same := results.as_known) is not None:
        known = results.outline.known
        source = f" ({known.source})" if known and known.source else ""
        told = "as it is known" if same else "which is NOT what is known"
        found.append((f"The answer is {told}{source}.", not same))
    return found


def _judged(
    results: Results, claim: str, told: str, unit: str = ""
) -> tuple[str, bool]:
    """A claim, its denial, or that more auctions would tell."""
    goal = results.outline.goal
    assert not isinstance(goal, BestResponse)
    within = _percent(goal.tolerance) if unit else f"{goal.tolerance:g}"
    about = f"{told} (tolerance {within})."
    if results.converged:
        return f"{claim[0].upper()}{claim[1:]}: {about}", False
    if results.gap[0] > goal.tolerance:
        return f"It is not so that {claim}: {about}", True
    return f"More auctions would tell whether {claim}: {about}", True


def answers(results: Results) -> Table:
    """What was found, a row an agent."""
    table = results.answers
    unit = _unit(results)
    found = isinstance(results.outline.goal, BestResponse)
    columns = [("present_bid" if found else "bid", unit), ("payoff", "money per text")]
    if isinstance(results.outline.goal, Pacing):
        columns += [("spend", "money per text"), ("budget", "money per text")]
    else:
        columns += [("best_bid", unit), ("gain", "money per text")]
    if results.outline.known is not None:
        columns += [("known", unit), ("off_by", unit)]
    rows = []
    for row in labels.rows(table):
        shown: list[Shown | None] = [_shown(row, name) for name, _ in columns]
        rows.append(([agent_label(row["agent"])], shown))
    titles = [(name.replace("_", " "), told) for name, told in columns]
    return Table(["agent"], titles, rows)


@dataclasses.dataclass(frozen=True)
class Payoffs:
    """Of an agent: its payoff at the bids that were tried, and bids to mark."""

    name: str
    points: Sequence[tuple[float, Row]]
    best: float
    present: float = math.nan


def payoff_curves(curves: Sequence[Payoffs], x: str) -> Figure:
    """A panel an agent; the dashed line is the best bid, the dotted one the present."""
    panels = []
    for own in curves:
        # From so far below all amounts that matter.
        least = next((bid for bid, _ in own.points if bid > 0), math.nan) / BELOW
        limit = _SHOWN * max(filter(math.isfinite, (least, own.best, own.present)))
        points = [(bid, row) for bid, row in own.points if bid <= limit]
        panels.append(Panel(own.name, "payoff (money per text)", [(0, points)]))
    columns = min(len(panels), _COLUMNS)
    panels += [Panel("", "", [])] * (-len(panels) % columns)
    grid = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    figure = drawing.curves(grid, [""], x)
    for axes, own in zip(figure.axes, curves, strict=False):
        for bid, line in ((own.present, ":"), (own.best, "--")):
            if math.isfinite(bid):
                axes.axvline(bid, linestyle=line, color=drawing.GREY, linewidth=1.0)
    return figure


def charts(results: Results) -> list[Chart]:
    """Every figure that there is something to show in."""
    found = [
        _best_responses(results),
        _trajectories(results),
        _gaps(results),
        _over_text(results, "spent"),
        _over_text(results, "bid"),
    ]
    return [chart for chart in found if chart is not None]


def _best_responses(results: Results) -> Chart | None:
    tried = results.rows(stage="search", quantity="payoff")
    if not tried:
        return None
    curves = []
    for agent in sorted({row.agent for row in tried}):
        own = sorted((row for row in tried if row.agent == agent), key=lambda x: x.bid)
        points = [(row.bid, _interval(row)) for row in own]
        best, present = _best_and_present(results, agent)
        curves.append(Payoffs(_name(results, agent), points, best, present))
    figure = payoff_curves(curves, _bid_axis(results))
    caption = (
        "Mean payoff of an agent at the bids that were tried, the others' given, with "
        "95 % intervals. The dashed line is the best bid, the dotted one the present."
    )
    return Chart("best-responses", "Best responses", caption, figure)


def _trajectories(results: Results) -> Chart | None:
    steps = results.rows(stage="dynamics", position=_TEXT)
    bids: list[tuple[int, Sequence[Point]]] = []
    curves: dict[str, list[tuple[int, Sequence[Point]]]] = {}
    for agent in sorted({row.agent for row in steps} - {_ALL}):
        own = [row for row in steps if row.agent == agent]
        payoffs = [row for row in own if row.quantity == "payoff"]
        bids.append((agent, [(row.step + 1, row.bid) for row in payoffs]))
        for quantity in dict.fromkeys(row.quantity for row in own):
            points: list[Point] = [
                (row.step + 1, _interval(row))
                for row in own
                if row.quantity == quantity
            ]
            curves.setdefault(quantity, []).append((agent, points))
    if not bids:
        return None
    pacing = isinstance(results.outline.goal, Pacing)
    title = "multipliers" if pacing else "bids"
    panels = [Panel(title, _bid_axis(results), bids)]
    for quantity, lines in curves.items():
        panels.append(Panel(quantity, f"{quantity} (money per text)", lines))
    figure = drawing.curves([panels], _names(results), "step")
    if pacing:
        _draw_budgets(results, figure.axes[1 + list(curves).index("spend")])
    caption = "After every step, with 95 % intervals of what is estimated"
    caption += "; dashed lines are budgets." if pacing else "."
    return Chart("trajectories", "Trajectories", caption, figure)


def _gaps(results: Results) -> Chart | None:
    measured = results.rows(stage="dynamics", quantity="gap")
    goal = results.outline.goal
    if not measured or not isinstance(goal, Equilibrium):
        return None
    points = [(row.step + 1, _interval(row)) for row in measured]
    panel = Panel("", "gap (money per text)", [(0, points)])
    figure = drawing.curves([[panel]], [""], "step", zero=True)
    axes = figure.axes[0]
    axes.set_yscale("symlog", linthresh=goal.tolerance)
    axes.yaxis.set_major_formatter(lambda gap, _: number(gap))
    axes.axhline(goal.tolerance, linestyle="--", color=drawing.GREY, linewidth=1.0)
    caption = (
        "What all agents together would gain by deviating, one at a time, on auctions "
        "that had no part in the steps, with 95 % intervals; the dashed line is the "
        "tolerance. Linear below it, logarithmic above."
    )
    return Chart("gap", "Gap", caption, figure)


def _over_text(results: Results, quantity: str) -> Chart | None:
    rows = [row for row in results.rows(quantity=quantity) if row.position > _TEXT]
    if not rows:
        return None
    stages = list(dict.fromkeys(row.stage for row in rows))
    agents = sorted({row.agent for row in rows})[:_COLUMNS]
    spent = quantity == "spent"
    unit = "money per text" if spent else _bid_unit(results)
    panels = []
    for agent in agents:
        lines = []
        for style, stage in enumerate(stages):
            points = [
                (row.position + 1, _interval(row))
                for row in rows
                if (row.agent, row.stage) == (agent, stage)
            ]
            lines.append((style, points))
        panels.append(Panel(_name(results, agent), f"{quantity} ({unit})", lines))
    names = [_KINDS.get(stage, stage.replace("_", " ")) for stage in stages]
    figure = drawing.curves([panels], names, "tokens of the text")
    for agent, axes in zip(agents, figure.axes, strict=False):
        if spent:
            budget = results.budgets[agent]
            axes.axhline(budget, linestyle="--", color=drawing.GREY, linewidth=1.0)
    told = "What was spent up to" if spent else "What was bid for"
    caption = f"{told} each token, with 95 % intervals over texts"
    caption += "; the dashed line is the budget." if spent else "."
    title = "Spending over the text" if spent else "Bids over the text"
    return Chart(f"{quantity}-over-text", title, caption, figure)


def _draw_budgets(results: Results, axes: drawing.Axes) -> None:
    for agent, budget in enumerate(results.budgets):
        if math.isfinite(budget):
            colour = drawing.COLOURS[agent % len(drawing.COLOURS)]
            axes.axhline(budget, linestyle="--", color=colour, linewidth=1.0)


def _facts(results: Results) -> list[tuple[str, str]]:
    outline = results.outline
    goal = outline.goal.kind.replace("_", " ")
    if isinstance(outline.goal, BestResponse):
        goal += f" of {_name(results, outline.goal.agent)}"
    wanted = (
        f"utility under {labels.measure_label(outline.valuation)}"
        if outline.objective == "utility"
        else "mentions, at their value, less payments"
    )
    return [
        ("goal", goal),
        ("agents", ", ".join(_names(results))),
        ("rule", f"{outline.rule}, {outline.payment}"),
        ("agents want", wanted),
        ("texts", f"{outline.num_auctions:,} of at most {outline.num_tokens:,} tokens"),
        ("seed", str(outline.seed)),
    ]


def _note(results: Results) -> str:
    about = "Money per text but for bids; below an estimate its 95 % interval."
    if results.outline.in_factors:
        about += (
            " Values are drawn: a bid is the factor by which values are multiplied."
        )
    return about


def _environment(results: Results) -> dict[str, object]:
    hidden = ("outline", "config", "base")
    return {k: v for k, v in results.environment.items() if k not in hidden}


def _shown(row: Row, name: str) -> Shown:
    """A cell of the answers, with an interval where there is an error."""
    error = row.get(f"{name}_error", 0.0)
    mean, interval = labels.interval(ends(row[name], error))
    return Shown(mean, interval if error > 0 else mean, "")


def _interval(row: phases.Row) -> Row:
    """An estimate and its interval."""
    return ends(row.mean, row.error)


def ends(mean: float, error: float) -> Row:
    """An estimate and its 95 % interval, from its standard error."""
    return {"mean": mean, "low": mean - SURE * error, "high": mean + SURE * error}


def _best_and_present(results: Results, agent: int) -> tuple[float, float]:
    """The best bid of the agent, and the one that it had in the search."""
    gains = results.rows(stage="gap", quantity="gain", agent=agent)
    payoffs = results.rows(stage="gap", quantity="payoff", agent=agent)
    found = [rows[-1].bid if rows else math.nan for rows in (gains, payoffs)]
    return found[0], found[1]


def _unit(results: Results) -> str:
    """Of the bids that are looked for."""
    pacing = isinstance(results.outline.goal, Pacing)
    return "multiplier" if pacing else _bid_unit(results)


def _bid_unit(results: Results) -> str:
    return "share of value" if results.outline.in_factors else "money per unit of value"


def _bid_axis(results: Results) -> str:
    return f"bid ({_unit(results)})"


def _names(results: Results) -> list[str]:
    return [agent_label(name) for name in results.outline.agents]


def _name(results: Results, agent: int) -> str:
    return _names(results)[agent]


def with_error(mean: float, error: float) -> str:
    """A mean and half the width of its 95 % interval, if it has an error."""
    return pair(mean, SURE * error) if error else number(mean)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
