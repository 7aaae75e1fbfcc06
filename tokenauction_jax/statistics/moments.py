"""Streaming statistics: they merge, and take memory constant in the auctions.

Means and second moments are kept centred and merged by the formulas of Chan, Golub and
LeVeque (1979), so nothing cancels. Merging the same parts in the same order gives the
same bits.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tokenauction_jax.statistics.series import Moments, higher
from tokenauction_jax.statistics.sketch import Sketch

# Parts of a chunk: to know an error to a fifth.
NUM_BATCHES = 16
_NO_SKETCH = Sketch.of(np.zeros((0, 0), np.float32))


class PairMoments(NamedTuple):
    """Joint moments of pairs of series, over the auctions finite in both.

    Attributes:
      n: How many auctions, any shape.
      mean: `(2, ...)`, of the first series of each pair and of its second.
      m2: `(2, ...)`, likewise their sums of squared deviations.
      cross: Sums of products of the deviations of first and second.
    """

    n: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    cross: np.ndarray

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Of both samples together."""
        n = self.n + other.n
        share = other.n / np.maximum(n, 1)
        gap = other.mean - self.mean
        weight = self.n * share
        return PairMoments(
            n,
            self.mean + gap * share,
            self.m2 + other.m2 + gap**2 * weight,
            self.cross + other.cross + gap[0] * gap[1] * weight,
        )

    @property
    def covariance(self) -> np.ndarray:
        """Covariances, NaN below two auctions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 1, self.cross / (self.n - 1), np.nan)

    @property
    def difference(self) -> Moments:
        """Of the first series minus the second, auction by auction."""
        m2 = np.maximum(self.m2.sum(0) - 2 * self.cross, 0)
        return Moments.of_sample(self.n, self.mean[0] - self.mean[1], m2)


@dataclasses.dataclass(eq=False)
class CellPairs:
    """All pairs of cells in some auctions, by the least that tells of them.

    Pairs of a cell with itself and later ones are in the order of
    ``np.triu_indices(C)``: ``P = C (C + 1) / 2``. In a measure that each cell has in
    all auctions or in none, a pair's n, mean and m2 are those of its cells.

    Attributes:
      cells: `(C, M)`, each cell by itself.
      cross: `(M, P)`, sums of products of the deviations.
      partial: All of the `P` pairs, for measures that a cell has in some auctions.
    """

    cells: Moments
    cross: np.ndarray
    partial: dict[int, PairMoments]

    @classmethod
    def of(cls, x: np.ndarray) -> "CellPairs":
        """Of `x` `(C, M, A)`."""
        num_cells, num_columns, num_auctions = x.shape
        pairs = np.triu_indices(num_cells)
        n, mean, m2, m3, m4 = np.zeros((5, num_cells, num_columns))
        cross = np.zeros((num_columns, pairs[0].size))
        partial = {}
        for m in range(num_columns):
            joint, deviation = _joint(x[:, m].astype(np.float64))
            n[:, m], mean[:, m], m2[:, m], _ = map(np.diagonal, joint)
            m3[:, m], m4[:, m] = higher(deviation, "ca,ca->c")
            cross[m] = joint.cross[pairs]
            if ((n[:, m] > 0) & (n[:, m] < num_auctions)).any():
                means, m2s = (
                    np.stack([y[pairs], y[pairs[::-1]]]) for y in (joint.mean, joint.m2)
                )
                partial[m] = PairMoments(joint.n[pairs], means, m2s, cross[m])
        cells = Moments.of_sample(n.astype(np.int64), mean, m2, m3, m4)
        return cls(cells, cross, partial)

    def of_measure(self, measure: int) -> PairMoments:
        """Joint moments `(P,)` of one measure in all pairs."""
        if measure in self.partial:
            return self.partial[measure]
        both = np.stack(np.triu_indices(len(self.cells.n)))
        own = self.cells.take((both, measure))
        return _of_both(own, self.cross[measure])

    def of_pair(self, cell: int, other: int) -> PairMoments:
        """Joint moments `(M,)` of all measures in two cells."""
        own = self.cells.take([cell, other])
        one, two = sorted((cell, other))
        place = one * len(self.cells.n) - one * (one + 1) // 2 + two
        found = _of_both(own, self.cross[:, place])
        order = 1 if one == cell else -1
        for measure, pairs in self.partial.items():
            found.n[measure] = pairs.n[place]
            found.mean[:, measure] = pairs.mean[::order, place]
            found.m2[:, measure] = pairs.m2[::order, place]
        return found


def _of_both(cells: Moments, cross: np.ndarray) -> PairMoments:
    """Of pairs from moments `(2, ...)` of cells that have all their numbers or none."""
    n = cells.n.min(0)
    mean, m2 = (np.where(n > 0, y, 0.0) for y in (cells.mean, cells.m2))
    return PairMoments(n, mean, m2, cross)


def _joint(x: np.ndarray) -> tuple[PairMoments, np.ndarray]:
    """Of one measure `(C, A)` in every two cells; mean and m2 only of the row's.

    And the deviations from the cells' own means, 0 where the measure is missing.
    """
    finite = np.isfinite(x)
    if x.size and finite.all():
        mean = x.mean(1, keepdims=True)
        deviation = x - mean
        cross = deviation @ deviation.T
        own = (x.shape[1], mean, np.diagonal(cross)[:, None])
        n, mean, m2 = (np.broadcast_to(y, cross.shape) for y in own)
        return PairMoments(n, mean, m2, cross), deviation
    present = finite.astype(np.float64)
    n = present @ present.T
    # Around the cell's own mean, so that the shift to a pair's mean is small.
    filled = np.where(finite, x, 0)
    centre = filled.sum(1, keepdims=True) / np.maximum(n.diagonal()[:, None], 1)
    deviation = (filled - centre) * present
    shift = deviation @ present.T / np.maximum(n, 1)
    m2 = deviation**2 @ present.T - n * shift**2
    cross = deviation @ deviation.T - n * shift * shift.T
    joint = PairMoments(n, np.where(n > 0, centre + shift, 0), m2, cross)
    return joint, deviation


class Batches(NamedTuple):
    """Moments of some measures in consecutive parts of some auctions.

    Attributes:
      measures: Which, `K` numbers.
      moments: `(B, C, K)`; some parts of few auctions are empty.
    """

    measures: Sequence[int]
    moments: Moments

    @classmethod
    def of(cls, x: np.ndarray, measures: Sequence[int]) -> "Batches":
        """Of `x` `(C, M, A)`."""
        chosen = x[:, list(measures)].astype(np.float64)
        series = chosen.reshape(-1, x.shape[-1]).T
        parts = map(Moments.of, np.array_split(series, NUM_BATCHES))
        shape = (NUM_BATCHES, *chosen.shape[:2])
        found = (np.reshape(y, shape) for y in zip(*parts, strict=True))
        return cls(measures, Moments(*found))


@dataclasses.dataclass(eq=False)
class Statistics:
    """Everything that is kept of some auctions: a chunk's, or all so far.

    Attributes:
      num_auctions: How many auctions ran in each cell.
      undefined: `(C,)`, auctions that became undefined.
      infinite: `(C, M)`, texts of which a measure was infinite.
      nan: `(C, M)`, texts of which a measure was not a number.
      cells: `(C, M)`, of the measures in each cell.
      comparisons: `(P, M)`, of paired differences between cells.
      sketch: Of series ``cell * M + measure``; empty in a running total, which is
        looked at for its moments.
      pairs: Of the cells; None in a running total, and in what was read from a part.
      batches: Of some measures in consecutive parts of the auctions; None in a running
        total, and where there is only one part.
    """

    num_auctions: int
    undefined: np.ndarray
    infinite: np.ndarray
    nan: np.ndarray
    cells: Moments
    comparisons: Moments
    sketch: Sketch
    pairs: CellPairs | None = None
    batches: "Batches | None" = None

    @classmethod
    def of(
        cls,
        measures: np.ndarray,
        valid: np.ndarray,
        absent: np.ndarray,
        comparisons: Sequence[Sequence[tuple[int, int]]],
        batched: Sequence[int] = (),
    ) -> "Statistics":
        """Of the auctions of a chunk.

        Args:
          measures: `(C, A, M)`, NaN where a text has no such measure.
          valid: `(C, A)`.
          absent: `(C, M)`, measures that a cell does not have.
          comparisons: Each the pairs of cells whose mean difference is a series.
          batched: Measures that are also taken statistics of in `NUM_BATCHES` parts.
        """
        _, num_auctions, num_columns = measures.shape
        # Everything but differences goes measure by measure, (C, M, A).
        by_measure = np.ascontiguousarray(measures.transpose(0, 2, 1))
        pairs = CellPairs.of(by_measure)
        cells = pairs.cells
        missing = np.where(absent, 0, valid.sum(1)[:, None] - cells.n)
        nan = np.zeros_like(missing)
        for c, m in zip(*np.nonzero(missing), strict=True):
            nan[c, m] = (np.isnan(by_measure[c, m]) & valid[c]).sum()
        differences = (_mean_difference(measures, pairs) for pairs in comparisons)
        return cls(
            num_auctions,
            (~valid).sum(1),
            missing - nan,
            nan,
            cells,
            _stack([Moments.of(x) for x in differences], num_columns),
            Sketch.of(by_measure.reshape(-1, num_auctions)),
            pairs,
            Batches.of(by_measure, batched) if batched else None,
        )

    def merge(self, other: "Statistics") -> "Statistics":
        """Running total of both samples, `other` the later one."""
        return Statistics(
            self.num_auctions + other.num_auctions,
            self.undefined + other.undefined,
            self.infinite + other.infinite,
            self.nan + other.nan,
            self.cells.merge(other.cells),
            self.comparisons.merge(other.comparisons),
            _NO_SKETCH,
        )

    def totals(self) -> "Statistics":
        """As a running total, which has neither the sketch nor the pairs."""
        return dataclasses.replace(self, sketch=_NO_SKETCH, pairs=None, batches=None)


def _mean_difference(
    measures: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Mean over pairs of cells of their difference `(A, M)`, missing if one is."""
    total = np.zeros(measures.shape[1:])
    with np.errstate(invalid="ignore"):
        for one, other in pairs:
            total += measures[one].astype(np.float64) - measures[other]
    return total / len(pairs)


def _stack(parts: Sequence[Moments], num_columns: int) -> Moments:
    if not parts:
        nothing = np.zeros((0, num_columns))
        return Moments(nothing.astype(np.int64), *[nothing] * 5)
    return Moments(*(np.stack(found) for found in zip(*parts, strict=True)))
