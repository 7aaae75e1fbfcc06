"""What chance allows: bounds that a right rule exceeds once in a billion tests."""

import math

import numpy as np

# How often a statistical test, all of its comparisons together, rejects what is right.
FALSE_ALARM = 1e-9
_ONE_IN_A_HUNDRED = 2.33


def deviation_by_chance(size: int, num_laws: int = 1) -> float:
    """How far `size` draws may be from their law, in cumulative probability.

    The bound of Dvoretzky, Kiefer and Wolfowitz for several laws together.
    """
    return math.sqrt(math.log(2 * num_laws / FALSE_ALARM) / (2 * size))


def mean_by_chance(
    variance: np.ndarray, size: int, length: np.ndarray | float, num_means: int
) -> np.ndarray:
    """How far means may be from their expectations, by an empirical Bernstein bound.

    Source: Maurer and Pontil, "Empirical Bernstein Bounds and Sample Variance
    Penalization" (2009), theorem 11, for draws that are independent but need not have
    one law.

    Args:
      variance: Of the draws, as seen, of each mean.
      size: How many draws each has.
      length: Of an interval that holds each draw.
      num_means: How many are compared, all together.
    """
    log_term = math.log(4 * num_means / FALSE_ALARM)
    far = 7 * length * log_term / (3 * (size - 1))
    return np.sqrt(2 * variance * log_term / size) + far


def found_surely(variance: np.ndarray, size: int, chance: np.ndarray) -> np.ndarray:
    """The smallest fault of a mean that `chance` hides only once in a hundred tests."""
    return chance + _ONE_IN_A_HUNDRED * np.sqrt(variance / size)
