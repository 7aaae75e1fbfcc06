"""What became slower or faster since an earlier run."""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

from benchmarks.figures import Figure, Report
from benchmarks.tables import digits, spread_cells, table
from tokenauction_jax.cli.displays.console import Console

# Less than this is noise, even if all times are on one side.
_LEAST = 1.03


@dataclasses.dataclass(frozen=True)
class Change:
    """A figure in two runs.

    Attributes:
      place: Its part, its case and its name.
      old: The earlier one.
      new: The later one.
    """

    place: tuple[str, str, str]
    old: Figure
    new: Figure

    @property
    def ratio(self) -> float:
        """How many times as long the median takes now."""
        return self.new.each.median / self.old.each.median

    @property
    def verdict(self) -> str:
        """Whether all times of one run are longer than all of the other."""
        old, new = self.old.each, self.new.each
        if new.low > old.high and self.ratio > _LEAST:
            return "slower"
        if new.high < old.low and self.ratio < 1 / _LEAST:
            return "faster"
        return ""


def changes(old: Report, new: Report) -> list[Change]:
    """Every figure that both reports have."""
    before = dict(old.rows())
    return [
        Change(place, before[place], figure)
        for place, figure in new.rows()
        if place in before
    ]


def regressions(found: Sequence[Change]) -> list[Change]:
    """Figures of this library that became slower."""
    return [x for x in found if x.verdict == "slower" and x.new.role == "ours"]


def show(screen: Console, old: Report, found: Sequence[Change], new: Report) -> None:
    """Prints what is beyond the spread, and what may explain it."""
    screen.print(f"\nBeside the run of {old.started}:")
    for line in _differences(old, new):
        screen.print(line)
    others = [change.ratio for change in found if change.new.role != "ours"]
    if others:
        screen.print(
            f"Peers and limits take {digits(statistics.median(others))} times as long."
        )
    beyond = [change for change in found if change.verdict]
    columns = "was, us", "is, us", "is, least to most", "is / was", ""
    by_case = itertools.groupby(beyond, lambda change: change.place[:2])
    for (part, case), changed in by_case:
        screen.print(table(f"{part}: {case}", columns, map(_row, changed)))
    missing = dict(old.rows()).keys() ^ dict(new.rows()).keys()
    counts = [
        f"{len(found) - len(beyond)} figures within the spread",
        *(
            f"{sum(change.verdict == verdict for change in beyond)} {verdict}"
            for verdict in ("slower", "faster")
        ),
        f"{len(missing)} without a counterpart",
    ]
    screen.print(", ".join(counts))


def _row(change: Change) -> list[str]:
    old, new = (spread_cells(x.each.times(1e6)) for x in (change.old, change.new))
    return [change.place[2], old[0], *new, digits(change.ratio), change.verdict]


def _differences(old: Report, new: Report) -> list[str]:
    """Entries of the environment that are not the same."""
    before, after = (dict(_entries("", x.environment)) for x in (old, new))
    return [
        f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _entries(name: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(name, value)]
    nested = (_entries(f"{name} {key}".lstrip(), x) for key, x in value.items())
    return list(itertools.chain.from_iterable(nested))
