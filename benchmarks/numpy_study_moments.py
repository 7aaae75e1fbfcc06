"""Means, variances and quantiles of many measures, chunk by chunk."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Key = str | tuple[str, str]
Array = np.ndarray[Any, np.dtype[Any]]
BINS = 1 << 16


@dataclass
class Moments:
    """Counts, sums and sums of squares of the rows of all measures, and histograms."""

    rows: list[tuple[Key, int]] = field(default_factory=list)
    count: Any = 0
    infinite: Any = 0
    total: Any = 0.0
    squares: Any = 0.0
    bins: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, found: dict[Key, Array]) -> None:
        """Adds a chunk of texts; a bin is the upper half of a float32."""
        if not self.rows:
            self.rows = [
                (key, i) for key in found for i in range(len(np.atleast_2d(found[key])))
            ]
            self.bins = np.zeros(len(self.rows) * BINS, np.int64)
        sample = np.concatenate([np.atleast_2d(array) for array in found.values()])
        codes = sample.astype(np.float32, copy=False).view(np.uint32) >> 16
        codes = codes + np.arange(0, len(self.bins), BINS)[:, None]
        np.add.at(self.bins, codes.ravel(), 1)
        finite = np.isfinite(sample)
        if not finite.all():
            self.infinite = self.infinite + (~finite).sum(1)
            sample = np.where(finite, sample, 0)
            self.count = self.count + finite.sum(1)
        else:
            self.count = self.count + np.full(len(sample), sample.shape[1])
        self.total = self.total + sample.sum(1, dtype=np.float64)
        np.square(sample, out=sample)
        self.squares = self.squares + sample.sum(1, dtype=np.float64)

    def summary(self) -> dict[Key, tuple[Array, Array]]:
        """Mean and variance of each measure, `(n,)` for one of the agents."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean**2) / np.maximum(self.count - 1, 1)
        places: dict[Key, list[int]] = {}
        for place, (key, _) in enumerate(self.rows):
            places.setdefault(key, []).append(place)
        return {key: (mean[k], variance[k]) for key, k in places.items()}

    def quantile(self, level: float) -> Array:
        """Quantiles of all rows, within 0.4 %: the middle of a bin."""
        codes = np.arange(BINS, dtype=np.uint32) << 16
        middle = (codes + (1 << 15)).view(np.float32)
        order = np.argsort(middle)
        bins = self.bins.reshape(-1, BINS)[:, order]
        finite = np.where(np.isfinite(middle[order]), bins, 0).cumsum(1)
        reached = finite >= np.maximum(level * finite[:, -1:], 1)
        return middle[order][reached.argmax(1)]
