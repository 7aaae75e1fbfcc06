import numpy as np
import pytest

from tokenauction_jax.statistics import Intervals
from tokenauction_jax.statistics.moments import Moments, PairMoments, Sketch, Statistics


def make_data():
    """Means far above the spread: sums of squares keep no digit of the variance."""
    rng = np.random.default_rng(0)
    data = (1e6 + rng.normal(size=(400, 3))) * [1, 1e-3, -1]
    data[rng.uniform(size=data.shape) < 0.1] = np.nan
    return data


DATA = make_data()


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_moments_are_those_of_the_finite_numbers():
    found = Moments.of(DATA)
    np.testing.assert_array_equal(found.n, np.isfinite(DATA).sum(0))
    np.testing.assert_allclose(found.mean, np.nanmean(DATA, 0), rtol=1e-14)
    np.testing.assert_allclose(found.std, np.nanstd(DATA, 0, ddof=1), rtol=1e-9)


def test_merged_moments_are_those_of_the_whole():
    parts = [Moments.of(x) for x in np.split(DATA, [1, 7, 7, 200])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = Moments.of(DATA)
    np.testing.assert_array_equal(merged.n, whole.n)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-15)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-8)


def test_nothing_has_no_moments():
    found = Moments.of(np.full((4, 1), np.nan)).merge(Moments.of(np.zeros((0, 1))))
    assert found.n.tolist() == [0]
    assert np.isnan(found.std).all()


def test_pair_moments_use_the_auctions_that_both_cells_have():
    cells = DATA.T[:, None]  # (C, M, A)
    found = PairMoments.of(cells[..., :150]).merge(PairMoments.of(cells[..., 150:]))
    covariance = found.covariance()[0]
    for a in range(3):
        for b in range(3):
            both = np.isfinite(DATA[:, a]) & np.isfinite(DATA[:, b])
            expected = np.cov(DATA[both, a], DATA[both, b])
            assert found.n[0, a, b] == both.sum()
            assert covariance[a, b] == pytest.approx(expected[0, 1], rel=1e-6)
            mean = DATA[both, a].mean()
            assert found.mean[0, a, b] == pytest.approx(mean, rel=1e-14)


def test_quantiles_are_exact_to_a_bucket(rng):
    x = np.concatenate([rng.normal(size=20_000), [0.0, -0.0]]).astype(np.float32)
    x = np.append(x, [np.inf, -np.inf, np.nan]).astype(np.float32)
    rows = np.stack([np.full_like(x, 7), x])
    sketch = Sketch.merge([Sketch.of(rows[:, :9000]), Sketch.of(rows[:, 9000:])])
    low, high, counts = sketch.series(1)
    assert counts.sum() == 20_002
    assert (np.diff(low) > 0).all()
    for level in (0.01, 0.25, 0.5, 0.9):
        middle, lower, upper = Intervals().of_quantile(level, low, high, counts)
        exact = np.quantile(x[np.isfinite(x)], level)
        assert abs(middle - exact) < 2**-6 * abs(exact) + 1e-4
        assert lower <= middle <= upper


def test_zero_has_one_bucket_whatever_its_sign():
    found = Sketch.of(np.array([[0.0, -0.0], [np.nan, np.inf]], np.float32))
    assert (found.keys.tolist(), found.counts.tolist()) == ([0], [2])


def test_merged_sketches_do_not_depend_on_the_order(rng):
    parts = [Sketch.of(rng.normal(size=(2, 50)).astype(np.float32)) for _ in "abc"]
    one = Sketch.merge(parts)
    other = Sketch.merge([parts[2], Sketch.merge(parts[:2])])
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_identical_cells_differ_by_exactly_nothing(rng):
    one = rng.normal(size=(1, 100, 2)).astype(np.float32)
    cells = np.concatenate([one, one])
    found = Statistics.of(
        cells, np.ones((2, 100), bool), np.zeros((2, 2), bool), [[(1, 0)]]
    )
    assert (found.comparisons.mean == 0).all()
    assert (found.comparisons.m2 == 0).all()


def test_infinite_values_are_counted_apart_and_undefined_auctions_elsewhere():
    cells = np.array([[[1.0, -np.inf], [2.0, 3.0], [np.nan, np.nan]]], np.float32)
    found = Statistics.of(
        cells, np.array([[True, True, False]]), np.zeros((1, 2), bool), []
    )
    assert found.undefined.tolist() == [1]
    assert found.infinite.tolist() == [[0, 1]]
    assert found.cells.n.tolist() == [[2, 1]]
