"""What `tokenauction study` shows: plans, live progress and headline tables."""

import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokenauction_jax.reports import labels
from tokenauction_jax.studies.config import Cell, Study
from tokenauction_jax.studies.cost import Cost
from tokenauction_jax.studies.plan import Plan, cell_ends, headline, study_intervals
from tokenauction_jax.studies.results import Results
from tokenauction_jax.studies.session import Progress

# Without a terminal: one line at most every so many seconds.
_LINE_EVERY = 10.0
_MOST_ROWS = 30
# Measures in the table of results, which fit a terminal of 80 columns.
_HEADLINE = 3


class StudyProgress:
    """A live table of the cells; plain lines where there is no terminal."""

    def __init__(self, console: Console, study: Study, plan: Plan):
        self._console, self._study, self._plan = console, study, plan
        self._cells = study.cells()
        self._index = headline(study, plan.columns)
        self._intervals = study_intervals(study, plan)
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._last_line = time.monotonic()

    def __enter__(self) -> "StudyProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Replaces what is shown; called after every block."""
        done = int(progress.done.sum())
        total = progress.total * len(self._cells)
        state = f"{done:,} of {total:,} auctions, {progress.rate:,.0f} auctions/s"
        if progress.rate and done < total:
            left = (total - done) / progress.rate
            state += f", {_duration(left)} left" + (
                " at most" if self._study.stop else ""
            )
        if self._console.is_terminal:
            bar = ProgressBar(total=total, completed=done, width=40)
            self._live.update(Group(Text(state), bar, self._table(progress)))
        elif time.monotonic() - self._last_line > _LINE_EVERY:
            self._last_line = time.monotonic()
            # Not wrapped: a line is a line to whatever reads them.
            self._console.print(state + self._widest(progress), soft_wrap=True)

    def _estimates(self, progress: Progress) -> tuple[np.ndarray, np.ndarray] | None:
        """Means and half-widths `(C,)` of the headline measure."""
        if progress.statistics is None:
            return None
        cells = progress.statistics.cells
        low, high = cell_ends(self._intervals, self._plan.columns, cells)
        mean, half = cells.mean, (high - low) / 2
        return mean[:, self._index], half[:, self._index]

    def _table(self, progress: Progress) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("cell")
        table.add_column("auctions", justify="right")
        table.add_column(self._plan.columns[self._index].key, justify="right")
        found = self._estimates(progress)
        for i, cell in enumerate(self._cells[:_MOST_ROWS]):
            estimate = "" if found is None else _pair(found[0][i], found[1][i])
            table.add_row(Text(cell.label), f"{progress.done[i]:,}", estimate)
        if len(self._cells) > _MOST_ROWS:
            table.add_row(f"and {len(self._cells) - _MOST_ROWS} more", "", "")
        return table

    def _widest(self, progress: Progress) -> str:
        found = self._estimates(progress)
        if found is None or not np.isfinite(found[1]).any():
            return ""
        i = int(np.nanargmax(found[1]))
        key = self._plan.columns[self._index].key
        return (
            f"; widest {key} {_pair(found[0][i], found[1][i])} ({self._cells[i].label})"
        )


def show_plan(
    console: Console, study: Study, cells: Sequence[Cell], plan: Plan, cost: Cost
) -> None:
    """Prints the cells of a study and what it will cost."""
    if study.description:
        console.print(study.description, style="bold", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("cell", *cells[0].levels, "auctions", "time on one core"):
        table.add_column(
            Text(name), justify="left" if name in cells[0].levels else "right"
        )
    for i, cell in enumerate(cells):
        seconds = cost.seconds_per_auction[i] * study.num_auctions
        row = [
            str(i),
            *cell.levels.values(),
            f"{study.num_auctions:,}",
            _duration(seconds),
        ]
        table.add_row(*map(Text, row))
    console.print(table)
    most = "at most " if study.stop else ""
    console.print(
        f"\n{len(cells)} cells, {most}{len(cells) * study.num_auctions:,} auctions, in "
        f"{plan.num_chunks} chunks of {plan.chunk:,} in each cell; about "
        f"{cost.memory / 2**20:,.0f} MiB of memory and {most}"
        f"{_duration(cost.seconds)}, {cost.programs} programs compiled"
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
            if row["infinite"]:
                text.append(f"\n{row['infinite']:,} infinite", style="yellow")
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


def show_session(console: Console, results: Results) -> None:
    """Prints how fast the last session was, and where its results are."""
    last = results.folder.sessions()[-1]
    path = results.folder.path
    console.print(
        f"{last['auctions']:,} auctions in {last['seconds']:,.1f} s, "
        f"{last['auctions_per_second']:,.0f} auctions/s, peak memory "
        f"{last['peak_memory_mib']:,.0f} MiB. Tables are in {path / 'tables'}; "
        f"figures and a page: tokenauction study report {path}",
        markup=False,
        soft_wrap=True,
    )


def _two_lines(mean: float, half: float) -> Text:
    """A mean, and below it the half-width of its interval."""
    mean_text, _, half_text = _pair(mean, half).partition(" ± ")
    return Text(mean_text).append(f"\n±{half_text}" if half_text else "", style="dim")


def _pair(mean: float, half: float) -> str:
    """A mean and the half-width of its interval, with the digits that it has."""
    shown = labels.number(mean, 2 * half)
    if not np.isfinite(half):
        return shown
    return f"{shown} ± {labels.number(half, 2 * half)}"


def _duration(seconds: float) -> str:
    """``1:02:03``, ``2:03`` or ``3.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
