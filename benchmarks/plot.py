"""Throughput against the sizes that cases vary, a panel for each."""

import math
import pathlib
from collections import defaultdict
from collections.abc import Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from benchmarks.figures import Report, Spread
from tokenauction_jax import files
from tokenauction_jax.outside import OutsideError
from tokenauction_jax.reports.drawing import COLOURS, MARKERS, STYLE

_AXES = {
    "A": "auctions A",
    "n": "agents n",
    "V": "vocabulary V",
    "T": "tokens of a text T",
    "devices": "devices",
}
# Points of a curve: the size, and tokens of texts per second.
Points = list[tuple[int, Spread]]
Curves = Mapping[str, Points]


def curves(report: Report) -> dict[str, Curves]:
    """The curves of each size that has any, by part and figure."""
    found: dict[str, dict[str, Points]] = defaultdict(lambda: defaultdict(list))
    for part in report.parts:
        for case in part.cases:
            for figure in case.figures:
                for size in case.along if figure.role != "limit" else ():
                    point = case.sizes[size], case.tokens_per_second(figure)
                    found[size][f"{part.name}: {figure.name}"].append(point)
    return {
        size: {name: sorted(points) for name, points in found[size].items()}
        for size in _AXES
        if any(len(points) > 1 for points in found[size].values())
    }


def save(report: Report, path: pathlib.Path) -> bool:
    """Writes the plot as PNG, if any size varies; whether it did.

    Raises:
      OutsideError: If it cannot be written.
    """
    panels = curves(report)
    if not panels:
        return False
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(7.6, 3.1 * len(panels)), layout="constrained")
        grid = canvas.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (size, lines) in zip(grid, panels.items(), strict=True):
            _panel(axes, _AXES[size], lines)
        try:
            canvas.savefig(path, dpi=150)
        except OSError as error:
            raise OutsideError(f"cannot write {path}: {files.reason(error)}") from None
    return True


def _panel(axes: Axes, x: str, lines: Curves) -> None:
    for k, (name, points) in enumerate(lines.items()):
        sizes, rates = zip(*points, strict=True)
        middle = [rate.median for rate in rates]
        below = [rate.median - rate.low for rate in rates]
        above = [rate.high - rate.median for rate in rates]
        axes.errorbar(
            *(sizes, middle, [below, above]),
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            linestyle="-" if k < len(COLOURS) else "--",
            markersize=4,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel="tokens of texts / s")
    ticks = _apart({size for points in lines.values() for size, _ in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _apart(sizes: set[int]) -> list[int]:
    """Those whose labels do not meet on a logarithmic axis."""
    smallest, *rest = sorted(sizes)
    kept, span = [smallest], math.log(max(sizes) / smallest)
    for size in rest:
        if math.log(size / kept[-1]) > span / 7:
            kept.append(size)
    return kept
