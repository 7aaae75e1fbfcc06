import itertools

import numpy as np
import pytest
from scipy import optimize, special

from tokenauction_jax.statistics import Bounds, Intervals, Moments, bounded

UNIT = Bounds(*(np.array([y]) for y in (0.0, 1.0, False)))


def covered(x, mean, bounds=UNIT):
    """How often the intervals of each column's mean hold."""
    low, high = Intervals().of_bounded(Moments.of(x), bounds)
    return ((low <= mean) & (mean <= high)).mean()


def test_the_boundary_is_where_the_mixture_says():
    rates = np.geomspace(2.0**-13, 0.97, 27)
    price = -np.log(1 - rates) - rates

    def excess(error, variation):
        terms = rates * error - price * variation
        return special.logsumexp(terms) - np.log(27 * 2 / 0.05)

    for variation in (0.0, 0.25, 3.0, 1e3, 1e8):
        exact = optimize.brentq(excess, 0, 1e6, (variation,), xtol=1e-12)
        found = bounded.boundary(np.array([[variation]]))
        assert found.shape == (1, 1)
        assert found[0, 0] == pytest.approx(exact, rel=1e-9)


def test_it_is_not_needlessly_wide():
    """Of 4 standard errors: a normal interval has 2, and 3 at every time at once."""
    variation = np.array([100.0, 1e4, 1e6])
    assert (bounded.boundary(variation) < 4 * np.sqrt(variation)).all()


@pytest.mark.parametrize("p", [1e-4, 1e-3, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("n", [2, 30, 300, 3000])
def test_any_numbers_within_bounds_are_covered(n, p):
    """Exact: of 1,000, less than 93.5 % by a chance of 2 %; there are hardly misses."""
    x = (np.random.default_rng(0).random((n, 1000)) < p).astype(float)
    assert covered(x, p) >= 0.98


def test_variation_is_the_mean_over_all_orders():
    """A prediction of each number is the mean of those before it."""
    x = np.random.default_rng(0).normal(size=5)
    seen = [
        sum((order[i] - np.mean(order[:i])) ** 2 for i in range(1, 5))
        for order in itertools.permutations(x)
    ]
    assert Moments.of(x[:, None]).variation[0] == pytest.approx(np.mean(seen))


def test_later_numbers_vary_about_the_mean_before_them():
    x = np.random.default_rng(0).normal(size=(30, 2))
    first, later = (Moments.of(part) for part in np.split(x, [10]))
    expected = first.variation + ((x[10:] - x[:10].mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(first.merge(later).variation, expected)
    nothing = Moments.of(np.full((3, 2), np.nan))
    np.testing.assert_allclose(nothing.merge(first).variation, first.variation)


def test_intervals_stay_within_the_bounds():
    x = np.zeros((10, 1))
    low, high = Intervals().of_bounded(Moments.of(x), UNIT)
    assert low[0] == 0
    assert 0 < high[0] < 1
    low, high = Intervals().of_bounded(Moments.of(x[:1]), UNIT)
    assert (low[0], high[0]) == (0, 1)


def test_without_two_bounds_there_is_none():
    bounds = UNIT._replace(high=np.array([np.inf]))
    low, high = Intervals().of_bounded(Moments.of(np.eye(4)[:, :1]), bounds)
    assert np.isnan([low, high]).all()


def test_differences_of_one_origin_are_nothing():
    one = Bounds(np.zeros(3), np.ones(3), np.zeros(3, bool), np.array([0, 1, -1]))
    other = one._replace(origin=np.array([0, 2, -1]))
    found = one.minus(other)
    np.testing.assert_array_equal(found.low, -1)
    assert found.constant.tolist() == [True, False, False]
    assert found.width.tolist() == [0, 2, 2]
