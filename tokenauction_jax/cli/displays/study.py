"""What `tokenauction study` shows: plans, live progress and headline tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.displays.numbers import duration
from tokenauction_jax.reports import labels
from tokenauction_jax.studies.config import Cell, Study
from tokenauction_jax.studies.cost import Cost
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import Plan
from tokenauction_jax.studies.results import Results

_MOST_ROWS = 100
# Measures in the table of results, which fit a terminal of 80 columns.
_HEADLINE = 3


def show_plan(
    console: Console, study: Study, cells: Sequence[Cell], plan: Plan, cost: Cost
) -> None:
    """Prints the cells of a study and what it will cost."""
    if study.description:
        console.print(study.description, style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("cell", *cells[0].levels, "auctions", "time on one core"):
        table.add_column(
            Text(name), justify="left" if name in cells[0].levels else "right"
        )
    for i, cell in enumerate(cells[:_MOST_ROWS]):
        seconds = cost.seconds_per_auction[i] * study.num_auctions
        row = [
            str(i),
            *cell.levels.values(),
            f"{study.num_auctions:,}",
            duration(seconds),
        ]
        table.add_row(*map(Text, row))
    console.print(table)
    if len(cells) > _MOST_ROWS:
        console.print(f"and {len(cells) - _MOST_ROWS:,} more")
    most = "at most " if study.stop else ""
    judged = cost.programs - cost.tried
    auctions = f"{most}{len(cells) * study.num_auctions:,} auctions"
    console.print(
        f"\n{len(cells):,} cells, {auctions}, in {plan.num_chunks:,} chunks of "
        f"{plan.chunk:,} in each cell; about "
        f"{cost.memory / 2**20:,.0f} MiB of memory and {most}"
        f"{duration(cost.seconds)}, {cost.programs} programs compiled"
        + (f" ({judged:,} of them judged by their sizes, not timed)" if judged else "")
    )


def show_results(console: Console, results: Results) -> None:
    """Prints the first measures of the report's headline table, cell by cell."""
    shown = labels.headline(results)[:_HEADLINE]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for factor, levels in (results.factors or {"cell": ["0"]}).items():
        label = labels.factor_label(factor)
        width = min(max(map(len, (label, *levels))), 24)
        table.add_column(Text(label), overflow="fold", min_width=width)
    for measure, _ in shown:
        table.add_column(Text(labels.measure_label(measure)), justify="right")
    found = labels.estimates(results)
    undefined = any(row["undefined"] for row in found.values())
    if undefined:
        table.add_column("undefined", justify="right")
    for cell, levels in labels.cells(results).items():
        rows = [found[cell, measure, valuation, ""] for measure, valuation in shown]
        numbers = []
        for row in rows:
            text = _two_lines(row["mean"], (row["high"] - row["low"]) / 2)
            if missing := labels.not_finite(row):
                text.append(f"\n{missing}", style="yellow")
            numbers.append(text)
        if undefined:
            numbers.append(Text(f"{rows[0]['undefined']:,}"))
        table.add_row(*map(Text, levels.values() or ["0"]), *numbers)
    console.print(table)
    kind = (
        "95 % confidence sequences, valid at any stopping time"
        if results.sequential
        else "95 % intervals"
    )
    console.print(
        f"\nPer text, {kind}; {results.num_auctions:,} auctions in each cell; "
        f"valuation {results.study.valuation}.",
        style="dim",
    )
    if missed := results.missed_precision:
        console.print(
            f"All auctions ran without knowing {missed}, as [stop] asks: what is "
            "shown with no ± has not varied enough yet.",
            style="yellow",
            markup=False,
        )
    doubtful = sum(
        found[cell, measure, valuation, ""]["doubtful"]
        for cell in labels.cells(results)
        for measure, valuation in shown
    )
    if doubtful:
        console.print(
            f"{doubtful:,} of these intervals may be too narrow: the measure is skewed "
            "or rare (skewness, nonzero and exact_low in tables/summary.csv).",
            style="yellow",
        )


def show_session(console: Console, folder: Folder) -> None:
    """Prints how fast the last session was, and where its results are."""
    # None where the log is damaged, or cannot be written.
    show_place(console, folder, "".join(map(_rates, folder.sessions()[-1:])))


def show_place(console: Console, folder: Folder, before: str = "") -> None:
    """Prints where the results are."""
    path, shard = folder.path, folder.manifest.shard
    told = (
        f"figures and a page: tokenauction study report {path}"
        if shard is None
        else f"this is shard {shard}, to put all together: tokenauction study merge"
    )
    console.print(f"{before}Tables are in {path / 'tables'}; {told}", soft_wrap=True)


def _rates(session: Mapping[str, Any]) -> str:
    peak = session["peak_memory_mib"]
    memory = "" if peak is None else f", peak memory {peak:,.0f} MiB"
    return (
        f"{session['auctions']:,} auctions in {session['seconds']:,.1f} s, "
        f"{session['auctions_per_second']:,.0f} auctions/s{memory}. "
    )


def _two_lines(mean: float, half: float) -> Text:
    """A mean, and below it the half-width of its interval."""
    mean_text, _, half_text = labels.pair(mean, half).partition(" ± ")
    return Text(mean_text).append(f"\n±{half_text}" if half_text else "", style="dim")
