"""How wide intervals are: of a fixed number of auctions, or valid at any of them."""

from typing import NamedTuple

import numpy as np
from scipy import special

from tokenauction_jax.statistics.estimators import CONFIDENCE
from tokenauction_jax.statistics.sketch import Ranks


class Intervals(NamedTuple):
    """How wide a 95 % interval is, in standard errors.

    Attributes:
      tuned_for: 0 for a sample of fixed size, where it is Student's t; else the number
        of auctions at which an interval that is valid at every stopping time is best.
    """

    tuned_for: float = 0.0

    def critical_value(self, n: np.ndarray | float) -> np.ndarray:
        """Standard errors on each side of a mean of `n` auctions, NaN below two.

        Sequential ones are the asymptotic confidence sequence of Waudby-Smith, Arbour,
        Sinha, Kennedy and Ramdas ("Time-uniform central limit theory and asymptotic
        confidence sequences", Annals of Statistics 2024, Theorem 2.2), widened for
        small samples as Student's t is.
        """
        n = np.asarray(n, float)
        enough = np.where(n > 1, n, 2)
        student = special.stdtrit(enough - 1, (1 + CONFIDENCE) / 2)
        if self.tuned_for:
            alpha = 1 - CONFIDENCE
            scale = -2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))
            spread = enough * scale / self.tuned_for
            boundary = np.sqrt(
                2 * (1 + 1 / spread) * np.log(np.sqrt(1 + spread) / alpha)
            )
            student = student * boundary / special.ndtri((1 + CONFIDENCE) / 2)
        return np.where(n > 1, student, np.nan)

    def of_mean(
        self, mean: np.ndarray, std: np.ndarray, n: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals of means."""
        half = self.critical_value(n) * std / np.sqrt(np.maximum(n, 1))
        return mean - half, mean + half

    def of_share(
        self, mean: np.ndarray, std: np.ndarray, n: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends for numbers in [0, 1], by Wilson's score: never of width 0.

        A share that varies less than a coin counts as more tosses of one.
        """
        variance = mean * (1 - mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            tosses = np.where((std > 0) & (variance > 0), n * variance / std**2, n)
        z2 = self.critical_value(n) ** 2 / np.maximum(tosses, 1)
        centre = (mean + z2 / 2) / (1 + z2)
        half = np.sqrt(z2 * variance + z2**2 / 4) / (1 + z2)
        return np.clip(centre - half, 0, mean), np.clip(centre + half, mean, 1)

    def of_quantile(self, level: float, ranks: Ranks) -> tuple[np.ndarray, ...]:
        """A quantile of every series and both ends of its interval, by ranks.

        Args:
          level: In (0, 1).
          ranks: Of `S` series.

        Returns:
          Three arrays `(S,)`, NaN below two numbers.
        """
        spread = np.sqrt(level * (1 - level) / np.maximum(ranks.n, 1))
        margin = self.critical_value(ranks.n) * spread
        low, high = ranks.edges(np.where(ranks.n > 1, level, np.nan))
        lowest, _ = ranks.edges(level - margin)
        _, highest = ranks.edges(level + margin)
        return (low + high) / 2, lowest, highest


def sequential(first_look: int, last_look: int) -> Intervals:
    """Intervals for looking at any time between two numbers of auctions."""
    return Intervals(float(np.sqrt(first_look * last_look)))
