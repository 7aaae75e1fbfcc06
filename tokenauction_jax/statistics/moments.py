"""Streaming statistics: they merge, and take memory constant in the auctions.

Means and second moments are kept centred and merged by the formulas of Chan, Golub and
LeVeque (1979), so nothing cancels; quantiles come from counts in buckets a bfloat16
wide. Merging the same parts in the same order gives the same bits.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# float32 numbers that agree in their upper 15 bits share a bucket: 2^-6 of their size.
_DROPPED_BITS = 17
BUCKETS = 1 << (32 - _DROPPED_BITS)


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
        """Of `x` `(C, M, A)`."""
        by_measure = [
            cls._of_one(x[:, m].astype(np.float64)) for m in range(x.shape[1])
        ]
        return cls(*(np.stack(parts) for parts in zip(*by_measure, strict=True)))

    @staticmethod
    def _of_one(x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of one measure `(C, A)`."""
        finite = np.isfinite(x)
        if x.shape[1] and finite.all():
            mean = x.mean(1, keepdims=True)
            deviation = x - mean
            cross = deviation @ deviation.T
            ones = np.ones_like(cross)
            own = np.diagonal(cross)[:, None]
            return x.shape[1] * ones, mean * ones, own * ones, cross
        present = finite.astype(np.float64)
        n = present @ present.T
        # Around the cell's own mean, so that the shift to a pair's mean is small.
        centre = np.where(finite, x, 0).sum(1, keepdims=True)
        centre /= np.maximum(present.sum(1, keepdims=True), 1)
        deviation = np.where(finite, x - centre, 0)
        shift = deviation @ present.T / np.maximum(n, 1)
        m2 = deviation**2 @ present.T - n * shift**2
        cross = deviation @ deviation.T - n * shift * shift.T
        return n, np.where(n > 0, centre + shift, 0), m2, cross

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

    def of_cells(self) -> Moments:
        """Of each cell by itself, `(C, M)`."""
        own = (np.einsum("mcc->cm", getattr(self, x)) for x in ("n", "mean", "m2"))
        n, mean, m2 = own
        return Moments(n.astype(np.int64), mean.copy(), m2.copy())

    def covariance(self) -> np.ndarray:
        """Covariances `(M, C, C)`, NaN below two auctions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 1, self.cross / (self.n - 1), np.nan)


@dataclasses.dataclass(eq=False)
class Sketch:
    """Counts of numbers in buckets that are exact to a relative 2^-6.

    Attributes:
      keys: Sorted; the series' index times `BUCKETS`, plus the bucket.
      counts: How many numbers fell into each.
    """

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Sketch":
        """Of each row of float32 `x` `(S, A)`, over its finite entries."""
        keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for series, row in enumerate(x):
            # -0 and 0 are one number.
            finite = row[np.isfinite(row)] + np.float32(0)
            buckets = finite.view(np.uint32) >> _DROPPED_BITS
            lowest = buckets.min(initial=BUCKETS)
            found = np.bincount(buckets - lowest)
            present = np.flatnonzero(found)
            keys.append(series * BUCKETS + int(lowest) + present)
            counts.append(found[present])
        return cls(np.concatenate(keys), np.concatenate(counts))

    @classmethod
    def merge(cls, sketches: Sequence["Sketch"]) -> "Sketch":
        """Of all samples together; the order does not matter."""
        keys = np.concatenate([sketch.keys for sketch in sketches])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.concatenate([sketch.counts for sketch in sketches])[order]
        return cls(
            keys[starts], np.add.reduceat(counts, starts) if keys.size else counts
        )

    def series(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper edges of one series' buckets, in order, and their counts."""
        start, stop = np.searchsorted(
            self.keys, [index * BUCKETS, (index + 1) * BUCKETS]
        )
        near = (self.keys[start:stop] % BUCKETS).astype(np.uint32) << _DROPPED_BITS
        far = near | ((1 << _DROPPED_BITS) - 1)
        near, far = (bits.view(np.float32).astype(np.float64) for bits in (near, far))
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
      sketch: Of series ``cell * M + measure``; empty in a running total, which is
        looked at for its moments.
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
        _, num_auctions, num_columns = measures.shape
        # Everything but differences goes measure by measure, (C, M, A).
        by_measure = np.ascontiguousarray(measures.transpose(0, 2, 1))
        pairs = PairMoments.of(by_measure)
        cells = pairs.of_cells()
        differences = (_mean_difference(measures, pairs) for pairs in comparisons)
        return cls(
            num_auctions,
            (~valid).sum(1),
            np.where(absent, 0, valid.sum(1)[:, None] - cells.n),
            cells,
            _stack([Moments.of(x) for x in differences], num_columns),
            pairs,
            Sketch.of(by_measure.reshape(-1, num_auctions)),
        )

    def merge(self, other: "Statistics") -> "Statistics":
        """Of both samples together, `other` the later one, without their sketches."""
        return Statistics(
            self.num_auctions + other.num_auctions,
            self.undefined + other.undefined,
            self.infinite + other.infinite,
            self.cells.merge(other.cells),
            self.comparisons.merge(other.comparisons),
            self.pairs.merge(other.pairs),
            Sketch(np.zeros(0, np.int64), np.zeros(0, np.int64)),
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
