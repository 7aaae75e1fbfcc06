"""Which cells of a study are compared: those that differ in one factor."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Of each cell, the label of each factor's level.
Levels = Sequence[Mapping[str, str]]


class Comparison(NamedTuple):
    """A level of a factor against its baseline, in one or more pairs of cells.

    Attributes:
      factor: The factor that differs.
      level: Label of its level.
      baseline: Label of its first level.
      pairs: The cells compared, each with its own baseline cell.
    """

    factor: str
    level: str
    baseline: str
    pairs: tuple[tuple[int, int], ...]


def series(cells: Levels) -> list[Comparison]:
    """All that a study takes statistics of: differences of two cells, then effects."""
    return differences(cells) + effects(cells)


def differences(cells: Levels) -> list[Comparison]:
    """Every cell against the one at a factor's first level, factor by factor."""
    return [
        Comparison(effect.factor, effect.level, effect.baseline, (pair,))
        for effect in effects(cells)
        for pair in effect.pairs
    ]


def effects(cells: Levels) -> list[Comparison]:
    """Every level of every factor against the first, averaged over the others."""
    where = {tuple(levels.values()): i for i, levels in enumerate(cells)}
    found = []
    for position, factor in enumerate(cells[0]):
        labels = list(dict.fromkeys(levels[factor] for levels in cells))
        for label in labels[1:]:
            pairs: list[tuple[int, int]] = []
            for levels, cell in where.items():
                if levels[position] == label:
                    base = (*levels[:position], labels[0], *levels[position + 1 :])
                    pairs.append((cell, where[base]))
            found.append(Comparison(factor, label, labels[0], tuple(pairs)))
    return found
