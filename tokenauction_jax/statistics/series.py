"""Moments of series up to the fourth, which merge without cancelling.

They are kept centred (Chan, Golub and LeVeque 1979; Pebay 2008).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

# Of their size, what sums of float32 numbers differ by that ought to be equal.
_ROUNDING = 2.0**-20


class Moments(NamedTuple):
    """Moments of series of numbers, missing ones left out.

    Attributes:
      n: How many were finite, any shape.
      mean: Their means, 0 where there are none.
      m2: Their sums of squared deviations from the mean.
      m3: Likewise cubed, NaN where they are not known.
      m4: Likewise to the fourth power.
      variation: Their sums of squared distances from the mean of those before them,
        which a prediction would have had (see `Intervals.of_bounded`).
    """

    n: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    m3: np.ndarray | float = np.nan
    m4: np.ndarray | float = np.nan
    variation: np.ndarray | float = np.nan

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
        m2 = np.einsum("am,am->m", deviation, deviation)
        return cls.of_sample(n, mean, m2, *higher(deviation, "am,am->m"))

    @classmethod
    def of_sample(
        cls,
        n: np.ndarray,
        mean: np.ndarray,
        m2: np.ndarray,
        m3: np.ndarray | float = np.nan,
        m4: np.ndarray | float = np.nan,
    ) -> "Moments":
        """Of a sample without those before it: what it has varied is in its moments.

        Its order is not kept, so the variation is the mean over all orders.
        """
        others = np.maximum(n - 1, 1)
        harmonic = special.digamma(np.maximum(n, 1)) + np.euler_gamma
        return cls(n, mean, m2, m3, m4, m2 * (1 + harmonic / others))

    def merge(self, other: "Moments") -> "Moments":
        """Of both samples together, `other` the later one."""
        n = self.n + other.n
        share = other.n / np.maximum(n, 1)
        rest = self.n / np.maximum(n, 1)
        gap = other.mean - self.mean
        weight = self.n * share
        m3 = self.m3 + other.m3 + weight * (rest - share) * gap**3
        m3 += 3 * gap * (rest * other.m2 - share * self.m2)
        m4 = self.m4 + other.m4 + weight * (rest**2 - rest * share + share**2) * gap**4
        m4 += 6 * gap**2 * (rest**2 * other.m2 + share**2 * self.m2)
        m4 += 4 * gap * (rest * other.m3 - share * self.m3)
        seen = self.variation + other.m2 + other.n * gap**2
        return Moments(
            n,
            self.mean + gap * share,
            self.m2 + other.m2 + gap**2 * weight,
            m3,
            m4,
            np.where(np.asarray(self.n) > 0, seen, other.variation),
        )

    def take(self, place: Any) -> "Moments":
        """Some of the series."""
        return Moments(*(np.broadcast_to(y, self.n.shape)[place] for y in self))

    @property
    def std(self) -> np.ndarray:
        """Standard deviations, NaN below two numbers."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 1, np.sqrt(self.m2 / (self.n - 1)), np.nan)

    @property
    def skewness(self) -> np.ndarray:
        """Mean cubes of standardised numbers, NaN where nothing varied."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.sqrt(self.n) * self.m3 / self.m2**1.5
            return np.where(self.effective == 0, np.nan, found)

    @property
    def effective(self) -> np.ndarray:
        """How many numbers the variance rests on: n over the kurtosis.

        A third of n for normal numbers, and the number of events that are rare. 0 where
        nothing varied, but for the rounding of float32, and NaN if it is not known.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            varied = self.m2 > self.n * (_ROUNDING * self.mean) ** 2
            return np.where(varied, self.m2 / self.m4 * self.m2, 0.0)


def higher(deviation: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the third and fourth powers."""
    squares = deviation * deviation
    return np.einsum(axes, squares, deviation), np.einsum(axes, squares, squares)
