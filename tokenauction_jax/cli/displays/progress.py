"""Live progress of studies, and of what has no length."""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.displays.numbers import duration
from tokenauction_jax.reports import labels
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.launch import Listener
from tokenauction_jax.studies.plan import Plan, cell_ends, headline, study_intervals
from tokenauction_jax.studies.session import Progress

# Without a terminal: one line at most every so many seconds.
_LINE_EVERY = 10.0
_MOST_ROWS = 30


class Activity:
    """A spinner with what is being done; silent unless on a terminal."""

    def __init__(self, console: Console):
        self._status = console.status("")

    def __enter__(self) -> "Activity":
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, line: str) -> None:
        """Replaces the line."""
        self._status.update(Text(line))


@contextlib.contextmanager
def listener(console: Console) -> Iterator[Listener]:
    """What a study is given to show its progress; the display ends with the block."""
    with contextlib.ExitStack() as stack:

        def listen(study: Study, plan: Plan) -> Callable[[Progress], None]:
            return stack.enter_context(StudyProgress(console, study, plan)).show

        yield listen


class StudyProgress:
    """A live table of the cells; plain lines where there is no terminal."""

    def __init__(self, console: Console, study: Study, plan: Plan):
        self._console, self._plan = console, plan
        self._study = study.outline()
        self._index = headline(self._study, plan.columns)
        self._intervals = study_intervals(self._study, plan)
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
        total = progress.total * len(self._study.levels)
        state = f"{done:,} of {total:,} auctions, {progress.rate:,.0f} auctions/s"
        if not done and self._console.is_terminal:
            state = "compiling"
        if progress.rate and done < total:
            left = (total - done) / progress.rate
            state += f", {duration(left)} left" + (
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
        low, high = cell_ends(self._intervals, self._plan, cells, [self._index])
        return cells.mean[:, self._index], (high - low)[:, 0] / 2

    def _table(self, progress: Progress) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("cell")
        table.add_column("auctions", justify="right")
        table.add_column(self._plan.columns[self._index].key, justify="right")
        found = self._estimates(progress)
        for i in range(min(len(self._study.levels), _MOST_ROWS)):
            estimate = "" if found is None else labels.pair(found[0][i], found[1][i])
            table.add_row(Text(self._study.label(i)), f"{progress.done[i]:,}", estimate)
        if len(self._study.levels) > _MOST_ROWS:
            table.add_row(f"and {len(self._study.levels) - _MOST_ROWS} more", "", "")
        return table

    def _widest(self, progress: Progress) -> str:
        found = self._estimates(progress)
        if found is None or not np.isfinite(found[1]).any():
            return ""
        i = int(np.nanargmax(found[1]))
        key = self._plan.columns[self._index].key
        estimate = labels.pair(found[0][i], found[1][i])
        return f"; widest {key} {estimate} ({self._study.label(i)})"
