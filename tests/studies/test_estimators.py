import numpy as np
import pytest

from tokenauction_jax.studies import estimators


def test_rate_is_wilsons():
    # Wilson (1927): (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    hits, n, z = 7, 20, 1.959963984540054
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    estimate = estimators.rate(hits, n)
    np.testing.assert_allclose(estimate, (p, centre - half, centre + half, n))


@pytest.mark.parametrize("hits", [0, 20])
def test_rate_stays_inside_unit_interval(hits):
    estimate = estimators.rate(hits, 20)
    assert 0 <= estimate.low < estimate.high <= 1
    assert estimate.low <= estimate.mean <= estimate.high


def test_mean_of_equally_long_texts_has_the_plain_t_interval():
    totals = np.array([2.0, 4.0, 9.0, 5.0])
    estimate = estimators.mean_per_token(totals, np.full(4, 2))
    # t quantile 3.182446 at 3 degrees of freedom.
    half = 3.182446305 * np.std(totals / 2, ddof=1) / 2
    np.testing.assert_allclose(estimate, (2.5, 2.5 - half, 2.5 + half, 4))


def test_mean_interval_covers_the_ratio():
    # 2,000 studies of 30 texts: coverage of a 95 % interval lies in [.93, .97] but for
    # a chance below 1e-4 (standard error .0049), leaving .005 for the linearisation.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        lengths = rng.integers(5, 25, 30)
        totals = np.array([rng.exponential(0.3, k).sum() for k in lengths])
        estimate = estimators.mean_per_token(totals, lengths)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.925 < covered / 2000 < 0.97


def test_too_few_auctions_have_no_interval():
    assert np.isnan(estimators.rate(0, 0).mean)
    assert np.isnan(estimators.mean_per_token(np.zeros(2), np.zeros(2)).mean)
    one = estimators.mean_per_token(np.array([3.0, 0.0]), np.array([2, 0]))
    assert one.mean == 1.5
    assert np.isnan(one.low)
    assert one.n == 1
