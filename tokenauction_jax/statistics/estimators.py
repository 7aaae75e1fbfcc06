"""Means and rates over auctions, each with a 95 % interval."""

from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with its 95 % interval, NaN where it cannot be had, from `n` auctions."""

    mean: float
    low: float
    high: float
    n: int


def rate(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson score interval."""
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0)
    # Not from scipy.stats, whose import takes half a second.
    mean, z = successes / n, special.ndtri((1 + CONFIDENCE) / 2)
    width = 2 * (n + z**2)
    centre = (2 * n * mean + z**2) / width
    half = z / width * np.sqrt(4 * n * mean * (1 - mean) + z**2)
    low = centre - half if successes else 0.0
    high = centre + half if successes < n else 1.0
    return Estimate(mean, low, high, n)


def mean_per_token(totals: np.ndarray, num_tokens: np.ndarray) -> Estimate:
    """``sum totals / sum num_tokens`` over auctions, with a Student t interval.

    The tokens of one text depend on each other, so the auction is the unit: the
    variance is that of the linearised ratio.

    Args:
      totals: `(A,)`, a quantity summed over the tokens of each auction.
      num_tokens: `(A,)`, how many tokens it was summed over; auctions with none are
        left out.
    """
    counted = num_tokens > 0
    totals, num_tokens = totals[counted], num_tokens[counted]
    n = totals.size
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = totals.sum() / num_tokens.sum()
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    residuals = (totals - mean * num_tokens) / num_tokens.mean()
    error = np.sqrt((residuals**2).sum() / (n * (n - 1)))
    half = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * error
    return Estimate(mean, mean - half, mean + half, n)
