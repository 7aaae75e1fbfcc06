"""How wide intervals are: of a fixed number of auctions, or valid at any of them."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from tokenauction_jax.statistics import bounded
from tokenauction_jax.statistics.bounded import Bounds
from tokenauction_jax.statistics.estimators import CONFIDENCE
from tokenauction_jax.statistics.moments import PairMoments
from tokenauction_jax.statistics.series import Moments
from tokenauction_jax.statistics.sketch import Ranks

# Below so many `Moments.effective` auctions a variance has not been seen yet: Student's
# t at lognormal sigma 2 covers 80 % at 300, and what was rare may not have happened.
LEAST_EFFECTIVE = 50
# Student's t wants so many auctions for a skewness of 1, and more by its square
# (Cochran 1977, section 2.15): of events that are rare, so many.
_LEAST_UNSKEWED = 25
# In squared widths of the bounds: about so many events of the size of the bounds do not
# decide when a study stops, or means would be biased by those that have not happened.
_LEAST_VARIATION = 20.0


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
        self,
        mean: np.ndarray,
        std: np.ndarray,
        n: np.ndarray,
        effective: np.ndarray | float = np.nan,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals of means.

        A sequential one is of infinite width until something has varied, and until the
        variance rests on `LEAST_EFFECTIVE` auctions, a number that it is widened by, as
        normal approximations err in its root.

        Args:
          mean: Means of `n` numbers.
          std: Their standard deviations.
          n: How many.
          effective: On how many their variance rests, NaN where that is not known.
        """
        half = self.critical_value(n) * std / np.sqrt(np.maximum(n, 1))
        if self.tuned_for:
            known = ~np.isnan(effective)
            rest = np.where(known, effective, np.inf)
            seen = (std > 0) & (rest >= LEAST_EFFECTIVE)
            half = half * (1 + 1 / np.sqrt(np.where(seen, rest, 1)))
            half = np.where(seen | np.isnan(half), half, np.inf)
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

    def of_moments(
        self, moments: Moments, bounds: Bounds
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals of means, given what the numbers lie between.

        Sequential ones are exact where both bounds are finite, and else asymptotic, but
        never beyond a bound.
        """
        about = (moments.mean, moments.std, moments.n, moments.effective)
        low, high = self.of_mean(*about)
        if not self.tuned_for:
            return low, high
        low, high = bounds.clip(moments.mean, low, high)
        exact = self.of_bounded(moments, bounds)
        known = np.isfinite(bounds.width)
        return np.where(known, exact[0], low), np.where(known, exact[1], high)

    def of_bounded(
        self, moments: Moments, bounds: Bounds
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of intervals that hold for any numbers within two finite bounds.

        NaN without them. See `bounded`.
        """
        if not self.tuned_for:
            # Nobody looked in between: how it varied does not depend on the parts.
            moments = Moments.of_sample(moments.n, moments.mean, moments.m2)
            return bounded.interval(moments, bounds)
        return bounded.interval(moments, bounds, _LEAST_VARIATION)

    def doubtful(self, moments: Moments, bounds: Bounds) -> np.ndarray:
        """Where `of_moments` may be too narrow, or nothing is known that would tell.

        Student's t is where numbers are so skewed, or so rarely another one, that their
        sample may not have seen it yet.
        """
        if self.tuned_for:
            return np.isnan(moments.effective) & np.isinf(bounds.width)
        enough = moments.n >= _LEAST_UNSKEWED * moments.skewness**2
        return ~enough & ~bounds.constant & (moments.n > 1)

    def of_std(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals of standard deviations, from fourth moments.

        NaN where nothing varied: what will is not known.
        """
        std, effective = moments.std, moments.effective
        with np.errstate(divide="ignore", invalid="ignore"):
            # Of its logarithm, times the root of n.
            spread = np.sqrt(np.maximum(moments.n / effective - 1, 0)) / 2
            spread = np.where(effective > 0, spread, np.nan)
            low, high = self.of_mean(np.log(std), spread, moments.n, effective)
        return np.exp(low), np.exp(high)

    def of_variance_ratio(self, groups: Sequence[Moments]) -> np.ndarray:
        """Ratios of two variances and both ends of their intervals, `(3, ...)`.

        By the jackknife for groups of different sizes (Busing, Meijer and van der
        Leeden 1999), on the log of the ratio.

        Args:
          groups: Moments `(2, ...)` of the two series in parts of the auctions.
        """
        total = functools.reduce(Moments.merge, groups)
        n, mean, m2 = (np.stack(y) for y in zip(*(x[:3] for x in groups), strict=True))
        left, gaps = total.n - n, mean - total.mean
        k = (n[:, 0] > 0).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            without = total.m2 - (m2 + n * gaps**2) - (n * gaps) ** 2 / left
            one, rest = _log_ratio(total.m2), _log_ratio(without / left, axis=1)
            # How many such groups make the whole; none for an empty one.
            h = np.where(n > 0, total.n / n, np.inf)[:, 0]
            of_groups = k * one - np.where(n[:, 0] > 0, (1 - 1 / h) * rest, 0).sum(0)
            pseudo = h * one - (h - 1) * rest
            terms = np.where(n[:, 0] > 0, (pseudo - of_groups) ** 2 / (h - 1), 0)
            half = np.sqrt(terms.sum(0) / k) * self.critical_value(total.n[0])
            # Its error is known as well as that of so many numbers.
            half *= Intervals().critical_value(k)
            half /= Intervals().critical_value(total.n[0])
        return np.exp(np.stack([one, one - half, one + half]))

    def of_covariance(
        self, pairs: PairMoments, effective: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals of covariances, NaN where nothing varied.

        Products of squares are on average at most the roots of those of the fourth
        powers (Cauchy and Schwarz), which leaves intervals rather too wide between
        series that are not alike.

        Args:
          pairs: Any shape.
          effective: Of both series by themselves, `(2, ...)`.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            variances = pairs.m2.prod(0) / (pairs.n - 1.0) ** 2
            products = pairs.n / np.sqrt(effective.prod(0)) * variances
            spread = np.sqrt(np.maximum(products - pairs.covariance**2, 0))
            spread = np.where(np.isnan(products), np.nan, spread)
        return self.of_mean(pairs.covariance, spread, pairs.n, effective.min(0))

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


def _log_ratio(variances: np.ndarray, axis: int = 0) -> np.ndarray:
    """Of the first over the second along an axis."""
    first, second = np.moveaxis(variances, axis, 0)
    return np.log(first) - np.log(second)


def sequential(first_look: int, last_look: int) -> Intervals:
    """Intervals for looking at any time between two numbers of auctions."""
    return Intervals(float(np.sqrt(first_look * last_look)))
