"""Forest plots and families of curves, every point with its interval."""

import contextlib
import dataclasses
import io
import math
import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
)

from tokenauction_jax.outside import visible
from tokenauction_jax.reports.labels import Row, excludes_zero, number

# Okabe and Ito's colours, told apart by the colour-blind, each with its own marker;
# yellow, hard to see on white, last.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"),
    *("#000000", "#f0e442"),
)
MARKERS = "os^DvPX*"
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    # Names of agents and rules are text: a dollar sign is not a formula.
    "text.parse_math": False,
    # The same figure gives the same file.
    "svg.hashsalt": "tokenauction_jax",
}

_STEPS = (1, 2, 2.5, 5, 10)

# Curves of more points have markers on some of them only, and look like curves.
_MOST_MARKERS = 40
# Beyond this ratio a logarithmic axis has room for powers of 10 only.
_WIDE = 500
# Of figures in notebooks, which are many in a file.
_NOTEBOOK_DPI = 100

# A position is exact, or an estimate with its interval.
Point = tuple[float | Row, float | Row]


@dataclasses.dataclass(frozen=True)
class Group:
    """Lines of a forest plot under one heading: a label and one row a panel.

    Lines may have a style each; else they have that of the group.
    """

    heading: str
    lines: list[tuple[str, list[Row | None]]]
    styles: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes: the number of each one's style, its points."""

    title: str
    y: str
    curves: list[tuple[int, Sequence[Point]]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with the name of its files, a title and a caption."""

    name: str
    title: str
    caption: str
    figure: Figure


class Picture(Figure):
    """A figure that notebooks show, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        with _saving():
            self.savefig(file, format="png", dpi=_NOTEBOOK_DPI)
        return file.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Picture(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.08, wspace=0.03)
    return figure


def save(chart: Chart, folder: pathlib.Path) -> None:
    """Writes a chart as SVG and PNG, the same bytes each time."""
    with _saving():
        path = folder / chart.name
        chart.figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        chart.figure.savefig(path.with_suffix(".png"), dpi=180)


@matplotlib.rc_context(STYLE)
def forest(
    groups: Sequence[Group],
    titles: Sequence[str],
    *,
    zero: bool = False,
    hollow: bool = False,
    coloured: bool = True,
) -> Figure:
    """Estimates one below the other, a panel a measure.

    Args:
      groups: What to draw, top to bottom; an empty heading takes no line.
      titles: The x axis of each panel.
      zero: Whether to mark 0.
      hollow: Whether points whose interval holds 0 are hollow.
      coloured: Whether each group has its own colour.
    """
    ticks: list[tuple[float, str, bool]] = []
    places: list[tuple[float, int, list[Row | None]]] = []
    y = 0.0
    for i, group in enumerate(groups):
        if group.heading:
            ticks.append((y, short(group.heading, 44), True))
            y += 1
        styles = group.styles or [i if coloured else 0] * len(group.lines)
        for j, (label, row) in enumerate(group.lines):
            ticks.append((y, short(label, 44), False))
            places.append((y, styles[j], row))
            y += 1
        y += 0.5
    longest = max(len(line) for _, label, _ in ticks for line in label.split("\n"))
    width = 4.2 if len(titles) == 1 else 2.6
    figure = new_figure(0.4 + 0.068 * longest + width * len(titles), 0.7 + 0.2 * y)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for column, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        if zero:
            axes.axvline(0, color=GREY, linewidth=0.8)
        for y, style, row in places:
            _estimate(axes, y, style % len(COLOURS), row[column], hollow)
        axes.set_xlabel(_wrap(title, 34))
        axes.xaxis.set_major_locator(
            MaxNLocator(7 if len(titles) == 1 else 4, steps=_STEPS)
        )
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks])
    for label, (_, _, heading) in zip(panels[0].get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    panels[0].set_ylim(ticks[-1][0] + 0.7, -0.7)
    return figure


@matplotlib.rc_context(STYLE)
def curves(
    grid: Sequence[Sequence[Panel]],
    names: Sequence[str],
    x: str,
    *,
    zero: bool = False,
    growing: bool = False,
    same_y: bool = False,
) -> Figure:
    """Families of curves in a grid of panels, with one legend above.

    Args:
      grid: Rows of panels.
      names: The name of each style, for the legend; one name needs none.
      x: The common x axis.
      zero: Whether to mark 0 on the y axes.
      growing: Whether markers grow along a curve.
      same_y: Whether all panels have one y axis, not only those of a column.
    """
    rows, columns = len(grid), len(grid[0])
    panel_width = {1: 5.0, 2: 4.0}.get(columns, 3.1)
    width = 0.4 + panel_width * columns
    lines = math.ceil(len(names) / _legend_columns(names, width))
    figure = new_figure(width, 0.6 + 0.2 * lines + 0.75 * panel_width * rows)
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=True, sharey="all" if same_y else "col"
    )
    for axes, panel in zip(panels.flat, [p for row in grid for p in row], strict=True):
        if zero:
            axes.axhline(0, color=GREY, linewidth=0.8)
        for style, points in panel.curves:
            _curve(axes, style, points, growing)
        axes.set_title(_wrap(panel.title, int(11 * panel_width)), loc="left")
        if not same_y or axes.get_subplotspec().is_first_col():
            axes.set_ylabel(_wrap(panel.y, 34))
        whole = all(_mean(x) % 1 == 0 for _, line in panel.curves for x, _ in line)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=whole))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    for axes in panels[-1]:
        axes.set_xlabel(_wrap(x, 44))
    if len(names) > 1:
        legend(figure, [(name, key(style)) for style, name in enumerate(names)])
    return figure


@matplotlib.rc_context(STYLE)
def scale_numbers(figure: Figure, levels: Sequence[float]) -> None:
    """Marks the levels of a swept number on every x axis, if there is room for them.

    Positive numbers that span more than a decade get a logarithmic axis.
    """
    logarithmic = min(levels) > 0 and max(levels) / min(levels) > 10
    for axes in figure.axes:
        if logarithmic:
            axes.set_xscale("log")
            axes.minorticks_off()
        if logarithmic or len(levels) <= 6:
            axes.set_xticks(levels, [number(level) for level in levels])


@matplotlib.rc_context(STYLE)
def widen(figure: Figure) -> None:
    """Makes every x axis logarithmic, with numbers in full."""
    for axes in figure.axes:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        wide = high > _WIDE * low
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
        axes.xaxis.set_minor_locator(NullLocator())


def legend(figure: Figure, entries: Sequence[tuple[str, Artist]]) -> None:
    """What curves or bars are called, above the figure."""
    names = [name for name, _ in entries]
    figure.legend(
        [handle for _, handle in entries],
        [short(name, 44) for name in names],
        loc="outside upper left",
        ncols=_legend_columns(names, figure.get_figwidth()),
        markerscale=0.8,
    )


def key(style: int, line: bool = True) -> Line2D:
    """What a legend shows of a curve, or of points."""
    colour, marker = look(style)
    return Line2D([], [], color=colour, marker=marker, linestyle="-" if line else "")


def bar_key(style: int) -> Patch:
    """What a legend shows of bars."""
    return Patch(color=look(style)[0])


def look(style: int) -> tuple[str, str]:
    """Colour and marker; a colour that comes again has another marker."""
    again = style // len(COLOURS)
    return COLOURS[style % len(COLOURS)], MARKERS[(style + again) % len(MARKERS)]


def short(text: str, length: int = 28) -> str:
    """One line of at most `length` characters."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


@contextlib.contextmanager
def _saving() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name may hold letters that the font lacks: boxes are drawn instead.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(visible(text), width)[:3])


def _estimate(axes: Axes, y: float, style: int, row: Row | None, hollow: bool) -> None:
    if row is None or not math.isfinite(row["mean"]):
        place = axes.get_yaxis_transform()
        axes.text(0.02, y, "no estimate", color=GREY, va="center", transform=place)
        return
    axes.errorbar(
        row["mean"],
        y,
        xerr=_bars([row]),
        fmt=MARKERS[style],
        color=COLOURS[style],
        markersize=4.5,
        markerfacecolor="white" if hollow and not excludes_zero(row) else None,
    )


def _curve(axes: Axes, style: int, points: Sequence[Point], growing: bool) -> None:
    kept = [p for p in points if all(math.isfinite(_mean(part)) for part in p)]
    if not kept:
        return
    xs, ys = zip(*kept, strict=True)
    colour, marker = look(style)
    middle = [_mean(x) for x in xs], [_mean(y) for y in ys]
    axes.errorbar(*middle, _bars(ys), _bars(xs), fmt="none", ecolor=colour)
    # A line that joined the neighbours of a missing estimate would invent one.
    line = [
        [_mean(part) for part in p] if p in kept else (math.nan,) * 2 for p in points
    ]
    axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.1)
    steps = range(0, len(kept), math.ceil(len(kept) / _MOST_MARKERS))
    sizes = [20 + 60 * i / max(len(kept) - 1, 1) if growing else 16 for i in steps]
    marked = [[part[i] for i in steps] for part in middle]
    axes.scatter(*marked, s=sizes, c=colour, marker=marker, linewidths=0, zorder=3)


def _legend_columns(names: Sequence[str], width: float) -> int:
    """As many as fit, filled as evenly as possible."""
    room = width / (0.6 + 0.07 * max(len(short(name, 44)) for name in names))
    fitting = max(1, min(len(names), int(room)))
    return math.ceil(len(names) / math.ceil(len(names) / fitting))


def _mean(part: float | Row) -> float:
    return part["mean"] if isinstance(part, dict) else part


def _bars(parts: Sequence[float | Row]) -> list[list[float]]:
    """Lengths below and above; none where an interval is unknown or unbounded."""
    below, above = [], []
    for part in parts:
        low, high = (0.0, 0.0) if not isinstance(part, dict) else _lengths(part)
        below.append(low)
        above.append(high)
    return [below, above]


def _lengths(row: Row) -> tuple[float, float]:
    low, high = row["mean"] - row["low"], row["high"] - row["mean"]
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 0.0
    return max(low, 0.0), max(high, 0.0)
