"""Quantiles of streams, from counts of numbers in buckets a bfloat16 wide."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# float32 numbers that agree in their upper 15 bits share a bucket: 2^-6 of their size.
_DROPPED_BITS = 17
_BUCKETS = 1 << (32 - _DROPPED_BITS)
# Series are merged few at a time, so that what is sorted stays in the caches.
_MERGED_AT_ONCE = 2**18


@dataclasses.dataclass(eq=False)
class Sketch:
    """Counts of the numbers of `S` series in buckets exact to a relative 2^-6.

    Attributes:
      offsets: `(S + 1,)`, where each series begins in the other two.
      buckets: uint16, those that have numbers: a series' positive ones upwards, then
        its negative ones downwards.
      counts: int32, how many numbers fell into each.
    """

    offsets: np.ndarray
    buckets: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Sketch":
        """Of each row of `x` `(S, A)`, over its finite entries, as float32."""
        buckets, counts = [], []
        x = np.asarray(x, np.float32)
        for row in x:
            finite = np.isfinite(row)
            numbers = row if finite.all() else row[finite]
            # -0 and 0 are one number.
            inside = (numbers + np.float32(0)).view(np.uint32) >> _DROPPED_BITS
            lowest = inside.min(initial=_BUCKETS)
            found = np.bincount(inside - lowest)
            present = np.flatnonzero(found)
            buckets.append((present + int(lowest)).astype(np.uint16))
            counts.append(found[present].astype(np.int32))
        return cls._joined(list(map(len, buckets)), buckets, counts)

    @classmethod
    def merge(cls, sketches: Sequence["Sketch"]) -> "Sketch":
        """Of all samples of the same series together; the order does not matter."""
        if len(sketches) == 1:
            return sketches[0]
        num_series = sketches[0].offsets.size - 1
        total = sum(sketch.counts.size for sketch in sketches)
        step = max(_MERGED_AT_ONCE * num_series // max(total, 1), 1)
        sizes, buckets, counts = [], [], []
        for first in range(0, num_series, step):
            last = min(first + step, num_series)
            chosen = [sketch._entries(first, last) for sketch in sketches]
            keys, numbers = map(np.concatenate, zip(*chosen, strict=True))
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            starts = np.flatnonzero(np.diff(keys, prepend=-1))
            series, inside = np.divmod(keys[starts], _BUCKETS)
            sizes.extend(np.bincount(series, minlength=last - first))
            buckets.append(inside.astype(np.uint16))
            if keys.size:
                found = np.add.reduceat(numbers[order], starts)
                counts.append(found.astype(np.int32))
        return cls._joined(sizes, buckets, counts)

    @property
    def nonzero(self) -> np.ndarray:
        """How many numbers of each series are not 0, `(S,)`."""
        before = np.concatenate([[0], np.cumsum(self.counts)])
        first, last = self.offsets[:-1], self.offsets[1:]
        # The bucket of 0 is the first one, if there are zeros.
        zero = np.append(self.buckets, 1)[first] == 0
        counts = np.append(self.counts, 0)[first]
        zeros = np.where(zero & (last > first), counts, 0)
        return before[last] - before[first] - zeros

    @classmethod
    def _joined(
        cls,
        sizes: Sequence[int],
        buckets: Sequence[np.ndarray],
        counts: Sequence[np.ndarray],
    ) -> "Sketch":
        """Of so many buckets in each series, in pieces."""
        return cls(
            np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
            np.concatenate([np.zeros(0, np.uint16), *buckets]),
            np.concatenate([np.zeros(0, np.int32), *counts]),
        )

    def _entries(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys of the buckets of some series, and their counts."""
        offsets = self.offsets[first : last + 1]
        inside = slice(offsets[0], offsets[-1])
        series = np.repeat(np.arange(last - first), np.diff(offsets))
        return series * _BUCKETS + self.buckets[inside], self.counts[inside]


class Ranks:
    """The numbers of a sketch by their ranks, in all series at once.

    Attributes:
      n: `(S,)`, how many numbers each series has.
    """

    def __init__(self, sketch: Sketch):
        self._buckets = sketch.buckets
        self._before = np.concatenate([[0], np.cumsum(sketch.counts)])
        positive = np.concatenate([[0], np.cumsum(sketch.buckets < _BUCKETS // 2)])
        first, last = sketch.offsets[:-1], sketch.offsets[1:]
        self._start, self._stop = self._before[first], self._before[last]
        negative = first + positive[last] - positive[first]
        self._negative = self._stop - self._before[negative]
        self.n = self._stop - self._start

    def edges(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edges of the buckets up to which a share of numbers lies.

        Args:
          share: `(S,)`; below 0 it is the first bucket, above 1 the last.

        Returns:
          Two arrays `(S,)`, NaN where the share is or there are no numbers.
        """
        bits = np.full(self.n.shape, 0x7FC00000, np.uint32)  # NaN.
        known = (self.n > 0) & ~np.isnan(share)
        rank = _rank(share[known], self.n[known])
        start, stop, negative = (
            x[known] for x in (self._start, self._stop, self._negative)
        )
        # The least number is the last of the negative ones.
        before = np.where(rank <= negative, stop - rank, start + rank - negative - 1)
        found = np.searchsorted(self._before, before, side="right") - 1
        bits[known] = self._buckets[found].astype(np.uint32) << _DROPPED_BITS
        # The bucket of 0 holds the smallest subnormals, too: to a user they are 0.
        far = np.where(bits << 1, bits | ((1 << _DROPPED_BITS) - 1), bits)
        one, other = (x.view(np.float32).astype(np.float64) for x in (bits, far))
        return np.minimum(one, other), np.maximum(one, other)


def _rank(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The least rank from 1 to n that, divided by n, is a share or more."""
    # The product is rounded: from below, the rank is at most two steps away.
    rank = np.ceil(share * n) - 1
    for _ in range(2):
        rank += rank / n < share
    return np.clip(rank, 1, n).astype(np.int64)
