"""Figures as tables."""

import math
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from benchmarks.figures import Case, Figure, Part, Spread
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.displays.numbers import duration

# Characters of a line with all columns.
WIDTH = 160


def console() -> Console:
    """A console that does not break the lines of a table, also into a file."""
    wide = Console()
    wide.width = max(wide.width, WIDTH)
    return wide


def show_part(screen: Console, part: Part) -> None:
    """Prints the cases of a part."""
    for case in part.cases:
        screen.print(_case_table(case))
        if case.note:
            screen.print(case.note, style="dim")
        screen.print()
    for line in part.left_out:
        screen.print(line, style="yellow")
    used = [("memory", part.memory), ("device memory", part.device_memory)]
    peaks = [f"peak {name} {mebibytes(x)}" for name, x in used if x is not None]
    screen.print(", ".join([f"{part.name}: {duration(part.seconds)}", *peaks]))


def _case_table(case: Case) -> Table:
    rows = [_row(case, figure) for figure in case.figures]
    columns = [
        *(f"us per {case.unit}", "least to most", "per second"),
        *("first call", "time / first row", "peak memory"),
    ]
    return table(case.title, columns, rows)


def _row(case: Case, figure: Figure) -> list[str]:
    each = figure.each
    return [
        figure.name,
        *spread_cells(each.times(1e6)),
        digits(1 / each.median),
        duration(figure.first),
        _ratio(case, figure),
        "" if figure.memory is None else mebibytes(figure.memory),
    ]


def _ratio(case: Case, figure: Figure) -> str:
    """What the others are of the first figure, or the share that it reaches of them."""
    if figure is case.figures[0]:
        return ""
    ratio = case.ratio(figure)
    if figure.role == "limit":
        return f"{100 * ratio.median:.0f} % of it reached"
    middle, ends = spread_cells(ratio)
    return f"{middle} ({ends})"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows under a heading, numbers on the right; columns without any are left out."""
    rows = list(rows)
    kept = [k for k in range(1, len(columns) + 1) if any(row[k] for row in rows)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(Text(title), no_wrap=True)
    for k in kept:
        made.add_column(Text(columns[k - 1]), justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(row[k]) for k in (0, *kept)))
    return made


def spread_cells(spread: Spread) -> tuple[str, str]:
    """A median, and the range around it."""
    return digits(spread.median), f"{digits(spread.low)}-{digits(spread.high)}"


def digits(value: float) -> str:
    """A positive number with three digits that count.

    >>> digits(0.16543), digits(1234567.0)
    ('0.165', '1,234,567')
    """
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def mebibytes(size: int) -> str:
    """A number of bytes."""
    return f"{size / 2**20:,.0f} MiB"
