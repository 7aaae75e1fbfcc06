"""Streaming statistics: they merge, and take memory constant in the auctions.

Means and second moments are kept centred and merged by the formulas of Chan, Golub and
LeVeque (1979), so nothing cancels; quantiles come from counts in buckets a bfloat16
wide. Merging the same parts in the same order gives the same bits.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# float32 numbers that agree in their upper 16 bits share a bucket: 2^-7 of their size.
_DROPPED_BITS = 16


@dataclasses.dataclass(eq=False)
class Moments:
    """Means and second moments of series of numbers, missing ones left out.

    Attributes:
      n: How many were finite, any shape.
      mean: Their means, 0 where there are none.
      m2: Their sums of squared deviations from the mean.
    """

    n: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Moments":
        """Of each column of `x` `(A, M)`, over its finite entries."""
        finite = np.isfinite(x)
        if len(x) and finite.all():
            n = np.full(x.shape[1], x.shape[0])
            mean = x.mean(0)
            deviation = x - mean
        else:
            n = finite.sum(0)
            mean = np.where(finite, x, 0).sum(0) / np.maximum(n, 1)
            deviation = np.where(finite, x - np.where(n > 0, mean, 0), 0)
        return cls(n, mean, np.einsum("am,am->m", deviation, deviation))

    def merge(self, other: "Moments") -> "Moments":
        """Of both samples together."""
        n = self.n + other.n
        share = other.n / np.maximum(n, 1)
        gap = other.mean - self.mean
        return Moments(
            n,
            self.mean + gap * share,
            self.m2 + other.m2 + gap**2 * self.n * share,
        )

    @property
    def std(self) -> np.ndarray:
        """Standard deviations, NaN below two numbers."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 1, np.sqrt(self.m2 / (self.n - 1)), np.nan)


@dataclasses.dataclass(eq=False)
class PairMoments:
    """Joint moments of pairs of cells, over the auctions finite in both.

    Attributes:
      n: `(M, C, C)`.
      mean: ``mean[m, a, b]`` of cell a over the auctions that count in a and b.
      m2: Likewise its sum of squared deviations.
      cross: Sums of products of the deviations of a and b.
    """

    n: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "PairMoments":
        """Of `x` `(M, C, A)`."""
        finite = np.isfinite(x)
        kept = np.where(finite, x, 0)
        present = finite.astype(x.dtype)
        transposed = np.swapaxes(present, 1, 2)
        n = present @ transposed
        # Around the cell's own mean, so that the shift to a pair's mean is small.
        centre = kept.sum(2) / np.maximum(present.sum(2), 1)
        deviation = np.where(finite, x - centre[:, :, None], 0)
        shift = deviation @ transposed / np.maximum(n, 1)
        m2 = deviation**2 @ transposed - n * shift**2
        cross = deviation @ np.swapaxes(deviation, 1, 2)
        cross -= n * shift * np.swapaxes(shift, 1, 2)
        return cls(n, np.where(n > 0, centre[:, :, None] + shift, 0), m2, cross)

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
            self.cross + other.cross + gap * np.swapaxes(gap, 1, 2) * weight,
        )

    def covariance(self) -> np.ndarray:
        """Covariances `(M, C, C)`, NaN below two auctions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 1, self.cross / (self.n - 1), np.nan)


@dataclasses.dataclass(eq=False)
class Sketch:
    """Counts of numbers in buckets that are exact to a relative 2^-7.

    Attributes:
      keys: Sorted; the series' index in the high bits, the bucket in the low 16.
      counts: How many numbers fell into each.
    """

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, first_series: int) -> "Sketch":
        """Of each column of float32 `x` `(A, M)`, over its finite entries."""
        finite = np.isfinite(x)
        # -0 and 0 are one number.
        bits = (x + np.float32(0)).T.copy().view(np.uint32) >> _DROPPED_BITS
        keys, counts = [], []
        for series, row in enumerate(bits):
            row = row[finite[:, series]]
            full = np.bincount(row, minlength=1)
            buckets = np.flatnonzero(full)
            keys.append(buckets + ((first_series + series) << _DROPPED_BITS))
            counts.append(full[buckets])
        return cls(np.concatenate(keys).astype(np.int64), np.concatenate(counts))

    def merge(self, other: "Sketch") -> "Sketch":
        """Of both samples together; the order does not matter."""
        both = np.concatenate([self.keys, other.keys])
        keys, where = np.unique(both, return_inverse=True)
        counts = np.zeros(keys.size, np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return Sketch(keys, counts)

    def series(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper edges of one series' buckets, in order, and their counts."""
        start, stop = np.searchsorted(
            self.keys, [index << _DROPPED_BITS, (index + 1) << _DROPPED_BITS]
        )
        buckets = (self.keys[start:stop] & 0xFFFF).astype(np.uint32)
        near = (buckets << _DROPPED_BITS).view(np.float32).astype(np.float64)
        far = ((buckets << _DROPPED_BITS) | 0xFFFF).view(np.float32).astype(np.float64)
        low, high = np.minimum(near, far), np.maximum(near, far)
        # The bucket of 0 holds the smallest subnormals, too: to a user they are 0.
        order = np.argsort(low, kind="stable")
        return low[order], high[order], self.counts[start:stop][order]


@dataclasses.dataclass(eq=False)
class Statistics:
    """Everything that is kept of some auctions: a chunk's, or all so far.

    Attributes:
      num_auctions: How many auctions ran in each cell.
      undefined: `(C,)`, auctions that became undefined.
      infinite: `(C, M)`, texts of which a measure was not finite.
      cells: `(C, M)`, of the measures in each cell.
      comparisons: `(P, M)`, of paired differences between cells.
      pairs: `(M, C, C)`.
      sketch: Of series ``cell * M + measure``.
    """

    num_auctions: int
    undefined: np.ndarray
    infinite: np.ndarray
    cells: Moments
    comparisons: Moments
    pairs: PairMoments
    sketch: Sketch

    @classmethod
    def of(
        cls,
        measures: np.ndarray,
        valid: np.ndarray,
        absent: np.ndarray,
        comparisons: Sequence[Sequence[tuple[int, int]]],
    ) -> "Statistics":
        """Of the auctions of a chunk.

        Args:
          measures: `(C, A, M)` float32, NaN where a text has no such measure.
          valid: `(C, A)`.
          absent: `(C, M)`, measures that a cell does not have.
          comparisons: Each the pairs of cells whose mean difference is a series.
        """
        cells, sketches, infinite = [], [], []
        num_cells, num_auctions, num_columns = measures.shape
        for cell in range(num_cells):
            exact = measures[cell].astype(np.float64)
            cells.append(Moments.of(exact))
            sketches.append(Sketch.of(measures[cell], cell * num_columns))
            lost = valid[cell].sum() - cells[-1].n
            infinite.append(np.where(absent[cell], 0, lost))
        differences = [_mean_difference(measures, pairs) for pairs in comparisons]
        compared = [Moments.of(x) for x in differences]
        by_measure = measures.transpose(2, 0, 1).astype(np.float64)
        return cls(
            num_auctions,
            (~valid).sum(1),
            np.array(infinite),
            _stack(cells, num_columns),
            _stack(compared, num_columns),
            PairMoments.of(by_measure),
            Sketch(
                np.concatenate([sketch.keys for sketch in sketches]),
                np.concatenate([sketch.counts for sketch in sketches]),
            ),
        )

    def merge(self, other: "Statistics") -> "Statistics":
        """Of both samples together, `other` the later one."""
        return Statistics(
            self.num_auctions + other.num_auctions,
            self.undefined + other.undefined,
            self.infinite + other.infinite,
            self.cells.merge(other.cells),
            self.comparisons.merge(other.comparisons),
            self.pairs.merge(other.pairs),
            self.sketch.merge(other.sketch),
        )


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
        return Moments(nothing.astype(np.int64), nothing, nothing)
    return Moments(
        *(np.stack([getattr(p, name) for p in parts]) for name in ("n", "mean", "m2"))
    )
