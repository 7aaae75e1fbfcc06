"""Intervals that hold for any numbers between two bounds, at every time at once.

Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 2021, Theorem 4): with numbers in an
interval of width c, and any predictions from those before them, the sum of errors
``S = sum x - mean`` and the variation ``V = sum (x - prediction)^2`` make
``exp(l S - psi(l) V)`` a supermartingale for every ``0 <= l < 1/c``,
``psi(l) = (-log(1 - c l) - c l) / c^2``. So do mixtures over l, which seldom exceed
``2 / alpha`` on either side.
"""

from typing import Any, NamedTuple

import numpy as np

from tokenauction_jax.statistics.estimators import CONFIDENCE
from tokenauction_jax.statistics.series import Moments

# The mixture: equal weights on l from where it is best for 2^31 coins to where it is
# best before anything varied; two an octave lose less than 1 % to the integral.
_RATES = np.geomspace(2.0**-13, 0.97, 27)
_PRICES = -np.log1p(-_RATES) - _RATES
# Of Newton's method, from above on a convex function: the last ones change no digit.
_STEPS = 8
# Series at a time, so that what is computed of them stays in the caches.
_AT_ONCE = 2**12


class Bounds(NamedTuple):
    """What the numbers of series lie between, infinite where that is not known.

    Attributes:
      low: Any shape.
      high: Likewise.
      constant: Where all numbers are one, also where it is not known which.
      origin: Series of one origin are equal, number by number; -1 is none.
    """

    low: np.ndarray
    high: np.ndarray
    constant: np.ndarray
    origin: np.ndarray | int = -1

    @property
    def width(self) -> np.ndarray:
        """Of the intervals."""
        with np.errstate(invalid="ignore"):
            return np.where(self.constant, 0.0, self.high - self.low)

    def take(self, place: Any) -> "Bounds":
        """Of some of the series."""
        return Bounds(*(np.broadcast_to(y, self.low.shape)[place] for y in self))

    def minus(self, other: "Bounds") -> "Bounds":
        """Of the differences from other series."""
        same = (np.asarray(self.origin) == other.origin) & (
            np.asarray(other.origin) >= 0
        )
        constant = (self.constant & other.constant) | same
        return Bounds(self.low - other.high, self.high - other.low, constant)

    def clip(
        self, mean: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Intervals of means without what lies beyond the bounds."""
        # Rounding may have carried the mean itself out.
        most, least = np.fmax(self.high, mean), np.fmin(self.low, mean)
        return np.maximum(low, least), np.minimum(high, most)


def interval(
    moments: Moments, bounds: Bounds, least_variation: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 95 % intervals of means, NaN without two finite bounds.

    Args:
      moments: Of the numbers so far.
      bounds: What they lie between.
      least_variation: What is taken for less, in squared widths.
    """
    width, n = bounds.width, moments.n
    known = np.isfinite(width) & (width > 0) & (n > 0)
    scale = np.where(known, width, 1.0)
    # The first prediction is the middle of the bounds.
    variation = np.where(known, moments.variation, 0.0) / scale**2 + 0.25
    half = scale * boundary(np.maximum(variation, least_variation)) / np.maximum(n, 1)
    half = np.where(known, half, np.where((width == 0) & (n > 0), 0.0, np.nan))
    return bounds.clip(moments.mean, moments.mean - half, moments.mean + half)


def boundary(variation: np.ndarray) -> np.ndarray:
    """What the sum of errors stays below on both sides, in widths of the bounds.

    Args:
      variation: In squared widths.
    """
    flat = np.ravel(variation)
    parts = [
        _solve(flat[first : first + _AT_ONCE])
        for first in range(0, flat.size, _AT_ONCE)
    ]
    return np.concatenate([*parts, np.zeros(0)]).reshape(np.shape(variation))


def _solve(variation: np.ndarray) -> np.ndarray:
    """Where the mixture reaches ``2 / alpha``, `(S,)`."""
    least = np.log(2 / (1 - CONFIDENCE)) + np.log(_RATES.size)
    offset = _PRICES * variation[:, None]
    # One rate by itself reaches it later than the mixture.
    found = ((least + offset) / _RATES).min(axis=1)
    for _ in range(_STEPS):
        exponent = _RATES * found[:, None] - offset
        top = exponent.max(axis=1)
        terms = np.exp(exponent - top[:, None])
        total = terms.sum(axis=1)
        slope = terms @ _RATES / total
        found = found - (top + np.log(total) - least) / slope
    return found
