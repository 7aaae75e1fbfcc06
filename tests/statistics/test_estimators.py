import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tokenauction_jax as ta
from tokenauction_jax.measures import Column, columns, run_texts
from tokenauction_jax.statistics import (
    NUM_BATCHES,
    Batches,
    Bounds,
    CellPairs,
    Intervals,
    Moments,
    Ranks,
    Sketch,
    estimators,
    sequential,
)


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


def samples(seeds, n, seed=0):
    """Skewed samples `(seeds, n)` of mean 1, as payments are."""
    return np.random.default_rng(seed).gamma(0.5, 2.0, (seeds, n))


def covered(intervals, x, mean):
    found = Moments.of(x.T)
    low, high = intervals.of_mean(found.mean, found.std, found.n)
    return (low <= mean) & (mean <= high)


def test_fixed_intervals_cover_the_difference_of_independent_samples():
    """Within 2 points of 95 % in 1,000: three standard errors, false alarms 0.4 %."""
    difference = samples(1000, 300) - samples(1000, 300, seed=1)
    share = covered(Intervals(), difference, 0).mean()
    assert 0.93 <= share <= 0.97


def test_sequential_intervals_cover_at_every_look_together():
    """Once a minute or once a day: 95 % of studies never show a wrong interval."""
    looks = range(100, 2001, 100)
    intervals, x = sequential(100, 2000), samples(1000, 2000)
    always = np.all([covered(intervals, x[:, :n], 1) for n in looks], axis=0)
    assert always.mean() >= 0.95
    # Fixed ones, looked at as often, do not.
    always = np.all([covered(Intervals(), x[:, :n], 1) for n in looks], axis=0)
    assert always.mean() < 0.85


def test_sequential_intervals_cover_where_they_stop():
    intervals, x, right = sequential(100, 2000), samples(1000, 2000, seed=2), []
    for row in x:
        for n in range(100, 2001, 100):
            found = Moments.of(row[:n, None])
            low, high = intervals.of_mean(found.mean, found.std, found.n)
            if high - low <= 0.4:
                break
        right.append(low[0] <= 1 <= high[0])
    assert np.mean(right) >= 0.95


def test_sequential_intervals_are_not_needlessly_wide():
    ratio = sequential(100, 10_000).critical_value(1000) / 1.96
    assert 1.2 < ratio < 1.7


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_intervals_of_shares_cover(p):
    n, hits = 200, np.random.default_rng(0).binomial(200, p, 4000)
    mean = hits / n
    std = np.sqrt(mean * (1 - mean) * n / (n - 1))
    low, high = Intervals().of_share(mean, std, np.full(4000, n))
    # Wilson's score oscillates about 95 % with p; never far below.
    assert 0.93 < ((low <= p) & (p <= high)).mean() < 0.985


def test_a_share_that_never_varied_has_an_interval_all_the_same():
    low, high = Intervals().of_share(np.array([0.0, 1.0]), np.zeros(2), np.full(2, 100))
    assert low[0] == 0
    assert 0.03 < high[0] < 0.05
    assert high[1] == 1
    np.testing.assert_allclose(1 - low[1], high[0])


@pytest.mark.parametrize("n", [200, 1000])
def test_intervals_of_standard_deviations_cover(n):
    """2,000 normal samples: three standard errors below 95 %, false alarms 0.1 %."""
    x = np.random.default_rng(0).normal(3.0, 2.0, (n, 2000))
    low, high = Intervals().of_std(Moments.of(x))
    assert 0.935 < ((low <= 2) & (high >= 2)).mean() < 0.98


def test_nothing_is_known_of_a_spread_that_was_not_seen():
    for intervals in (Intervals(), sequential(10, 1000)):
        assert np.isnan(intervals.of_std(Moments.of(np.ones((100, 1))))).all()


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 1.0])
def test_intervals_of_covariances_cover(correlation):
    """Never less than 93.5 %, which is three standard errors of 2,000 below 95 %."""
    rng, right = np.random.default_rng(0), []
    for _ in range(2000):
        x = rng.normal(size=(2, 400))
        x[1] = correlation * x[0] + np.sqrt(1 - correlation**2) * x[1]
        pairs = CellPairs.of(x[:, None])
        both = np.stack(np.triu_indices(2))
        effective = pairs.cells.effective[:, 0][both]
        low, high = Intervals().of_covariance(pairs.of_measure(0), effective)
        right.append(low[1] <= correlation <= high[1])
    assert np.mean(right) >= 0.935


@pytest.mark.parametrize("noise", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("cuts", [[], [0, 0, 400], [10, 400, 999]])
def test_intervals_of_variance_ratios_cover(noise, cuts):
    """Numbers that vary about their conditional means, in parts of any sizes.

    Of 1,000, less than 92.5 % are by a chance of 2e-4 if the jackknife covers 95 %.
    """
    rng = np.random.default_rng(0)
    expected = rng.gamma(2.0, size=(1000, 1000))
    drawn = expected + noise * rng.normal(size=expected.shape)
    both = np.stack([drawn, expected])
    batches = Batches.of(both[:, :400].transpose(2, 0, 1), [0, 1]).moments
    groups = [Moments(*(y[k].T for y in batches)) for k in range(NUM_BATCHES)]
    for part in np.split(both[:, 400:], cuts, axis=1):
        of_parts = [Moments.of(x) for x in part]
        groups.append(Moments(*map(np.stack, zip(*of_parts, strict=True))))
    ratio, low, high = Intervals().of_variance_ratio(groups)
    exact = drawn.var(axis=0) / expected.var(axis=0)
    np.testing.assert_allclose(ratio, exact, rtol=1e-9)
    assert (low <= ratio).all()
    assert (ratio <= high).all()
    right = 1 + noise**2 / 2
    assert ((low <= right) & (right <= high)).mean() >= 0.925
    if noise == 0.3:
        assert 0.01 < np.mean(high - low) < 0.1
    if not noise:
        assert (low == 1).all()
        assert (high == 1).all()


@pytest.mark.parametrize(
    ("draw", "most", "warned"),
    [
        (lambda rng, shape: rng.normal(size=shape), 1.0, False),
        (lambda rng, shape: np.exp(2 * rng.normal(size=shape)), 0.9, True),
        # One in 1,000: the sample has not seen it, in three of four cases.
        (lambda rng, shape: (rng.random(shape) < 1e-3) * 1.0, 0.3, True),
        (lambda rng, shape: np.ones(shape), 1.0, True),
    ],
)
def test_intervals_that_may_be_too_narrow_are_told(draw, most, warned):
    """Student's t of 300 auctions, against the mean of a million."""
    rng = np.random.default_rng(0)
    moments, mean = Moments.of(draw(rng, (300, 500))), draw(rng, 10**6).mean()
    unknown = Bounds(*(np.array([y]) for y in (-np.inf, np.inf, False)))
    assert covered(Intervals(), draw(rng, (500, 300)), mean).mean() <= most
    assert (Intervals().doubtful(moments, unknown) == warned).mean() > 0.95


def test_intervals_of_quantiles_cover():
    right = []
    for row in samples(400, 300).astype(np.float32):
        ranks = Ranks(Sketch.of(row[None]))
        _, (low,), (high,) = Intervals().of_quantile(0.9, ranks)
        right.append(low <= stats.gamma(0.5, scale=2.0).ppf(0.9) <= high)
    # Buckets only widen them; three standard errors below 95 %.
    assert np.mean(right) >= 0.917


def test_one_auction_has_no_interval():
    low, high = Intervals().of_mean(np.ones(1), np.full(1, np.nan), np.ones(1))
    assert np.isnan([low, high]).all()
    ranks = Ranks(Sketch.of(np.ones((1, 1), np.float32)))
    assert np.isnan(Intervals().of_quantile(0.5, ranks)).all()


@pytest.mark.slow
def test_intervals_cover_in_a_thousand_seeds_of_real_auctions():
    """Two independent cells of one rule; both kinds of interval."""
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    pool, size, looks = ta.agents.dirichlet(2, 3, 1.0), 64, 8

    @jax.jit
    def welfare(seed, block):
        ones = jnp.ones((size, 2))
        done = run_texts(
            *(jax.random.key(seed), mechanism, pool, ones, ones, block * size),
            num_tokens=2,
            reference="uniform",
        )
        return done.measures[:, columns(2).index(Column("revenue"))]

    run = jax.vmap(jax.vmap(welfare, (None, 0)), (0, None))
    x = np.asarray(run(jnp.arange(2000), jnp.arange(looks)), np.float64)
    difference = x[:1000] - x[1000:]
    fixed = covered(Intervals(), difference.reshape(1000, -1), 0)
    assert 0.93 <= fixed.mean() <= 0.97
    intervals = sequential(size, size * looks)
    always = np.all(
        [
            covered(intervals, difference[:, :k].reshape(1000, -1), 0)
            for k in range(1, looks + 1)
        ],
        axis=0,
    )
    assert always.mean() >= 0.95
