import numpy as np
import pytest
from scipy import stats

from tokenauction_jax.statistics import (
    CellPairs,
    Intervals,
    Moments,
    Ranks,
    Sketch,
    Statistics,
)


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
    deviation = DATA - np.nanmean(DATA, 0)
    np.testing.assert_allclose(found.m3, np.nansum(deviation**3, 0), rtol=1e-6)
    np.testing.assert_allclose(found.m4, np.nansum(deviation**4, 0), rtol=1e-8)


def test_merged_moments_are_those_of_the_whole():
    parts = [Moments.of(x) for x in np.split(DATA, [1, 7, 7, 200])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = Moments.of(DATA)
    np.testing.assert_array_equal(merged.n, whole.n)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-15)
    for name in ("m2", "m3", "m4"):
        np.testing.assert_allclose(
            getattr(merged, name), getattr(whole, name), rtol=1e-6
        )


def test_moments_of_cells_are_those_of_their_numbers():
    """Taken together with the products of pairs."""
    cells = CellPairs.of(DATA.T[:, None]).cells.take((slice(None), 0))
    for one, other in zip(cells, Moments.of(DATA), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "effective", "skewness"),
    [
        # As many as there are events that are rare.
        (np.repeat([1.0, 0.0], [7, 9993]), 7, 37.8),
        (np.repeat([5.0, 6.0], [3, 9997]), 3, -57.7),
        (stats.norm.ppf((np.arange(3000) + 0.5) / 3000), 1000, 0),
        (np.full(100, 0.1), 0, np.nan),
        (0.1 + 1e-9 * np.arange(100), 0, np.nan),
        (np.zeros(1), 0, np.nan),
    ],
)
def test_on_how_many_numbers_a_variance_rests(x, effective, skewness):
    found = Moments.of(x[:, None])
    assert found.effective[0] == pytest.approx(effective, rel=0.02)
    assert found.skewness[0] == pytest.approx(skewness, rel=0.01, abs=1e-6, nan_ok=True)


def test_nothing_has_no_moments():
    found = Moments.of(np.full((4, 1), np.nan)).merge(Moments.of(np.zeros((0, 1))))
    assert found.n.tolist() == [0]
    assert np.isnan(found.std).all()


@pytest.mark.parametrize("missing", [True, False])
def test_pair_moments_use_the_auctions_that_both_cells_have(missing):
    data = DATA if missing else np.nan_to_num(DATA, nan=1e6)
    parts = [CellPairs.of(x) for x in np.split(data.T[:, None], [150], axis=-1)]
    assert bool(parts[0].partial) == missing
    one, other = (part.of_measure(0) for part in parts)
    every = one.merge(other)
    for place, (a, b) in enumerate(zip(*np.triu_indices(3), strict=True)):
        both = np.isfinite(data[:, a]) & np.isfinite(data[:, b])
        expected = np.cov(data[both, a], data[both, b])[0, 1]
        assert every.n[place] == both.sum()
        assert every.covariance[place] == pytest.approx(expected, rel=1e-6)
        assert every.mean[0, place] == pytest.approx(data[both, a].mean(), rel=1e-14)
        for first, second in ((a, b), (b, a)):
            one, other = (part.of_pair(first, second) for part in parts)
            pair = one.merge(other)
            difference = data[both, first] - data[both, second]
            assert pair.difference.mean[0] == pytest.approx(difference.mean(), 1e-9)
            std = np.std(difference, ddof=1)
            assert pair.difference.std[0] == pytest.approx(std, rel=1e-6, abs=1e-9)


def test_quantiles_are_exact_to_a_bucket(rng):
    x = np.concatenate([rng.normal(size=20_000), [0.0, -0.0]]).astype(np.float32)
    x = np.append(x, [np.inf, -np.inf, np.nan]).astype(np.float32)
    rows = np.stack([np.full_like(x, 7), x])
    sketch = Sketch.merge([Sketch.of(rows[:, :9000]), Sketch.of(rows[:, 9000:])])
    ranks = Ranks(sketch)
    assert ranks.n.tolist() == [x.size, 20_002]
    for level in (0.01, 0.25, 0.5, 0.9):
        middle, lower, upper = Intervals().of_quantile(level, ranks)
        exact = np.quantile(x[np.isfinite(x)], level)
        assert abs(middle[1] - exact) < 2**-6 * abs(exact) + 1e-4
        assert lower[1] <= middle[1] <= upper[1]
        assert abs(middle[0] - 7) < 7 * 2**-6


def test_edges_are_those_of_the_sorted_numbers(rng):
    """Every rank of small samples, among them ties, zeros and signs."""
    for size in range(1, 9):
        row = rng.integers(-3, 4, size).astype(np.float32)
        ranks = Ranks(Sketch.of(np.stack([row, row])))
        for rank, exact in enumerate(np.sort(row), start=1):
            low, high = ranks.edges(np.full(2, rank / size))
            assert low[1] <= exact <= high[1]
            assert high[1] - low[1] <= 2**-6 * abs(exact) + 1e-30


def test_zero_has_one_bucket_whatever_its_sign():
    found = Sketch.of(np.array([[0.0, -0.0], [np.nan, np.inf]], np.float32))
    assert (found.buckets.tolist(), found.counts.tolist()) == ([0], [2])
    assert found.offsets.tolist() == [0, 1, 1]


def test_a_quantile_of_zero_is_zero():
    ranks = Ranks(Sketch.of(np.zeros((1, 5), np.float32)))
    assert [x.tolist() for x in Intervals().of_quantile(0.5, ranks)] == [[0.0]] * 3


def test_numbers_that_are_not_zero_are_counted():
    """Also subnormal ones, which have a bucket of their own but for the smallest."""
    rows = [[0, -0.0, 1, -2], [np.nan] * 4, [0] * 4, [1e-38, 5, 5, -5]]
    assert Sketch.of(np.array(rows, np.float32)).nonzero.tolist() == [2, 0, 0, 4]
    assert Sketch.of(np.zeros((1, 0), np.float32)).nonzero.tolist() == [0]


def test_merged_sketches_do_not_depend_on_the_order(rng):
    parts = [Sketch.of(rng.normal(size=(2, 50)).astype(np.float32)) for _ in "abc"]
    one = Sketch.merge(parts)
    other = Sketch.merge([parts[2], Sketch.merge(parts[:2])])
    for name in ("offsets", "buckets", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_identical_cells_differ_by_exactly_nothing(rng):
    one = rng.normal(size=(1, 100, 2)).astype(np.float32)
    cells = np.concatenate([one, one])
    found = Statistics.of(
        cells, np.ones((2, 100), bool), np.zeros((2, 2), bool), [[(1, 0)]]
    )
    assert (found.comparisons.mean == 0).all()
    assert (found.comparisons.m2 == 0).all()


def test_infinite_numbers_nans_and_undefined_auctions_are_counted_apart():
    inf, nan = np.inf, np.nan
    numbers = [[1, -inf, inf, 0], [2, 3, nan, 0], [5, 4, nan, 0], [nan] * 4]
    absent = np.array([[False, False, False, True]])
    found = Statistics.of(
        np.array([numbers], np.float32), np.array([[True] * 3 + [False]]), absent, []
    )
    assert found.undefined.tolist() == [1]
    assert found.infinite.tolist() == [[0, 1, 1, 0]]
    assert found.nan.tolist() == [[0, 0, 2, 0]]
    assert found.cells.n.tolist()[0][:3] == [3, 2, 0]
    both = found.merge(found)
    assert both.infinite.tolist() == [[0, 2, 2, 0]]
    assert both.nan.tolist() == [[0, 0, 4, 0]]
