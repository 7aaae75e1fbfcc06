"""What `tokenauction optimise` shows: its progress, and the answer."""

import time
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.optimisation.launch import Progress
from tokenauction_jax.optimisation.results import Results
from tokenauction_jax.reports import optimisations
from tokenauction_jax.reports.labels import number

# Without a terminal: one line at most every so many seconds.
_LINE_EVERY = 10.0
_TITLES = {"dynamics": "moving", "search": "searching best bids", "gap": "measuring"}


class OptimisationProgress:
    """A live line; plain lines where there is no terminal."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._live.update(Text("compiling"))
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Replaces what is shown; called after every step."""
        if not progress.stage:
            return
        line = _line(progress)
        if self._console.is_terminal:
            self._live.update(Text(line))
        elif time.monotonic() - self._last_line > _LINE_EVERY:
            self._last_line = time.monotonic()
            # Not wrapped: a line is a line to whatever reads them.
            self._console.print(line, soft_wrap=True)


def _line(progress: Progress) -> str:
    """Where it is, and the bids that were tried or reached last."""
    title = _TITLES.get(progress.stage, f"writing texts, {progress.stage}")
    told = f"{title}, step {progress.step} of at most {progress.num_steps}"
    rows = progress.history.rows
    last = rows[-1].step if rows else 0
    found = {
        row.agent: row
        for row in rows[-64:]
        if (row.stage, row.step, row.quantity) == (progress.stage, last, "payoff")
    }
    names = progress.outline.agents
    bids = [f"{names[i]} {number(row.bid)}" for i, row in sorted(found.items())[:6]]
    return f"{told}; {', '.join(bids)}" if bids else told


def show_results(console: Console, found: Results) -> None:
    """Prints the answer as a table, and how much it can be trusted."""
    outline = found.outline
    if outline.description:
        console.print(f"\n{outline.description}", style="bold")
    shown = optimisations.answers(found)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in shown.heads:
        table.add_column(Text(head))
    for title, unit in shown.columns:
        table.add_column(Text(f"{title}\n{unit}"), justify="right")
    for heads, line in shown.rows:
        cells = [Text(head) for head in heads]
        for estimate in line:
            text = Text(estimate.mean if estimate else "")
            if estimate and estimate.interval != estimate.mean:
                text.append(f"\n{estimate.interval}", style="dim")
            cells.append(text)
        table.add_row(*cells)
    console.print(table)
    console.print("95 % intervals.", style="dim")
    for line, alarm in optimisations.verdicts(found):
        console.print(line, style="yellow" if alarm else "", soft_wrap=True)
