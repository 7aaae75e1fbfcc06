"""Sampled worth and derivatives, and their errors, against all texts.

Thresholds come from one family-wise false-alarm rate, shared equally by all scores.
"""

import functools
from dataclasses import replace

import bidding_cases as cases
import jax
import numpy as np
import pytest
from bidding_cases import PLAIN, instance, name, under
from reference import bidding
from reference.compare import assert_within
from scipy import stats

import tokenauction_jax as ta

# One run of this file in a million alarms falsely: it has fewer scores than a thousand.
RATE = 1e-6 / 1000
TEXTS = 100_000
NORMAL = stats.norm.isf(RATE / 2)
# Rounding of float32, of the terms that cancel.
SINGLE = 1e-5

AUCTIONS = {
    "Markov": instance(0, (3, 3, 3), 3, end_token=2, start=1),
    "sharp": instance(3, (3, 4, 4), 4, concentration=0.5),
    "no context": instance(1, (3, 4), 4, end_token=0),
}
OTHERS = [("sharp", PLAIN[6]), ("no context", PLAIN[3])]
REPEATED = [PLAIN[0], PLAIN[4], PLAIN[6], PLAIN[-1]]
MIXED = np.random.default_rng(0).normal(size=len(cases.TERMS))


FIRST = ("utility 0 total_variation",)


def choose(mechanisms, quick):
    """The quick ones, and the others marked as slow."""
    slow = [x for x in mechanisms if x not in quick]
    return [*quick, *(pytest.param(x, marks=pytest.mark.slow) for x in slow)]


@functools.cache
def program(table, terms, num_auctions, estimator):
    """`value_and_grad` of a weighted sum of the terms."""

    @jax.jit
    def run(key, mechanism, bids, values, factors):
        return ta.bidding.value_and_grad(
            key,
            mechanism,
            cases.pool_of(table),
            bids,
            cases.objective(factors, terms),
            values=values,
            num_tokens=table.num_tokens,
            num_auctions=num_auctions,
            gradient=estimator,
        )

    return run


@functools.cache
def repeated(table, runs, num_auctions):
    """`value_and_grad` of many runs, and the derivatives of `expected` in them."""
    shared = {"num_tokens": table.num_tokens, "num_auctions": num_auctions}
    pool = cases.pool_of(table)

    def worth(mechanism, bids, values, temperature, key, factors):
        args = (ta.bidding.tempered(pool, temperature), bids, cases.objective(factors))
        return ta.bidding.expected(key, mechanism, *args, values=values, **shared)

    def run(key, mechanism, bids, values, factors):
        args = (mechanism, bids, values, 1.0)
        found = jax.value_and_grad(worth, (0, 1, 2, 3))(*args, key, factors)
        args = (key, mechanism, pool, bids, cases.objective(factors))
        return ta.bidding.value_and_grad(*args, values=values, **shared), found

    mapped = jax.jit(jax.vmap(run, (0, None, None, None, None)))

    def call(mechanism, bids, values, factors):
        keys = jax.random.split(jax.random.key(1), runs)
        return jax.tree.map(np.asarray, mapped(keys, mechanism, bids, values, factors))

    return call


def sample(auction, factors, terms=cases.TERMS, estimator="score_function", seed=0):
    """What many texts say."""
    return program(auction.table, terms, TEXTS, estimator)(
        jax.random.key(seed),
        cases.mechanism_of(auction.mechanism),
        auction.bids,
        auction.values,
        factors,
    )


def assert_scores(found, error, due, size, threshold=NORMAL):
    """Within so many standard errors, plus rounding."""
    assert_within(found, due, threshold * np.asarray(error, float) + SINGLE * size)


def check(auction, factors, terms=cases.TERMS):
    """The value, its error, and the gradient in the bids."""
    found = sample(auction, factors, terms)
    objective = cases.reference_objective(factors, terms)
    worth = float(bidding.exact(auction, objective))
    size = 10 * np.abs(factors).sum()
    assert_scores(found.value, found.value_error, worth, size)
    variance, fourth = map(float, bidding.central_moments(auction, objective))
    spread = np.sqrt((fourth - variance**2) / TEXTS)
    assert_scores(TEXTS * found.value_error**2, spread, variance, size)
    due, size = bidding.gradient(auction, objective, "bids")
    assert_scores(found.gradient, found.gradient_error, due, size)
    return found


@pytest.mark.sweep(1)
@pytest.mark.parametrize("mechanism", choose(PLAIN, [PLAIN[0], PLAIN[-1]]), ids=name)
def test_every_mechanism(mechanism):
    check(under(AUCTIONS["Markov"], mechanism), MIXED)


@pytest.mark.parametrize("which", range(len(cases.TERMS)), ids=cases.TERMS.__getitem__)
def test_every_objective(which):
    auction = under(AUCTIONS["Markov"], PLAIN[0])
    check(auction, np.eye(len(cases.TERMS))[which])


@pytest.mark.slow
@pytest.mark.parametrize(("table", "mechanism"), OTHERS, ids=name)
def test_other_tables(table, mechanism):
    check(under(AUCTIONS[table], mechanism), MIXED)


@pytest.mark.parametrize(
    "mechanism", choose([PLAIN[2], PLAIN[-1]], [PLAIN[2]]), ids=name
)
def test_undefined_auctions(mechanism):
    """They are counted, and contribute what they had."""
    auction = cases.apart(mechanism)
    factors = MIXED[: len(cases.FINITE)]
    found = check(auction, factors, cases.FINITE)
    texts = bidding.enumerate_texts(auction)
    chance = float(texts.probability[~texts.mask.all(1)].sum())
    assert 0.2 < chance < 0.8
    spread = np.sqrt(TEXTS * chance * (1 - chance))
    assert_scores(found.undefined, spread, TEXTS * chance, 0)


RUNS = 200
STUDENT = stats.t.isf(RATE / 2, RUNS - 1)


@pytest.fixture(scope="module", params=choose(REPEATED, [PLAIN[4]]), ids=name)
def runs(request):
    """An auction, `RUNS` of `value_and_grad`, and `expected` with derivatives."""
    auction = under(AUCTIONS["Markov"], request.param)
    run = repeated(auction.table, RUNS, TEXTS // RUNS)
    mechanism = cases.mechanism_of(auction.mechanism)
    return auction, *run(mechanism, auction.bids, auction.values, MIXED)


def assert_mean(found, due, size):
    """The mean of the runs, by their own spread."""
    error = found.std(0, ddof=1) / np.sqrt(RUNS)
    assert_scores(found.mean(0), error, due, size, STUDENT)


def test_derivatives_of_expected(runs):
    """In all numbers of the auction."""
    auction, _, (worth, slopes) = runs
    objective = cases.reference_objective(MIXED)
    assert_mean(worth, float(bidding.exact(auction, objective)), 1)
    found = {"bids": slopes[1], "values": slopes[2], "temperature": slopes[3]}
    for of in cases.numbers_of(auction.mechanism):
        slope = found[of] if of in found else cases.slope_in(of, slopes[0])
        assert_mean(slope, *bidding.gradient(auction, objective, of))


def test_both_functions_agree(runs):
    _, found, (worth, slopes) = runs
    np.testing.assert_allclose(found.value, worth, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, slopes[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["value", "gradient"])
def test_errors_are_the_spread(runs, name):
    _, found, _ = runs
    spread = getattr(found, name).var(0, ddof=1)
    stated = np.square(getattr(found, f"{name}_error")).mean(0)
    ratio = (RUNS - 1) * spread / stated
    assert (ratio > stats.chi2.ppf(RATE / 2, RUNS - 1)).all()
    assert (ratio < stats.chi2.isf(RATE / 2, RUNS - 1)).all()


def test_the_baseline_does_not_bias_two_auctions():
    """One that had the own text in it would halve the score: it is left out."""
    auction = under(AUCTIONS["Markov"], PLAIN[0])
    runs, terms = 50_000, ("welfare total_variation",)
    run = program(auction.table, terms, 2, "score_function")
    mechanism = cases.mechanism_of(auction.mechanism)
    args = (mechanism, auction.bids, auction.values, np.ones(1))
    keys = jax.random.split(jax.random.key(2), runs)
    slopes = jax.jit(jax.vmap(lambda key: run(key, *args).gradient))(keys)
    found = np.asarray(slopes, float)
    objective = cases.reference_objective(np.ones(1), terms)
    due, size = bidding.gradient(auction, objective, "bids")
    error = found.std(0, ddof=1) / np.sqrt(runs)
    assert_scores(found.mean(0), error, due, size)
    # Half of what the path adds would be seen.
    myopic, _ = bidding.gradient(auction, objective, "bids", myopic=True)
    assert (np.abs(due - myopic) / 2 > 3 * NORMAL * error).any()


def test_rows_of_bids():
    """The gradient is that in what is added to a column."""
    auction = under(AUCTIONS["Markov"], PLAIN[0])
    rows = auction.bids * np.array([[1.0], [0.5]])
    rows[1] = rows[1, ::-1]
    every = np.tile(rows, (TEXTS // 2, 1))
    found = sample(replace(auction, bids=every), MIXED)
    each = [replace(auction, bids=row) for row in rows]
    objective = cases.reference_objective(MIXED)
    worth = np.mean([bidding.exact(x, objective) for x in each])
    assert_scores(found.value, found.value_error, float(worth), 1)
    due, size = np.mean([bidding.gradient(x, objective, "bids") for x in each], 0)
    assert_scores(found.gradient, found.gradient_error, due, size)


class TestMyopic:
    """Leaves out what a bid does to later contexts."""

    # After token 0 both agree; after the others they do not.
    TABLE = np.array(
        [
            [[0.2, 0.4, 0.4], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]],
            [[0.2, 0.4, 0.4], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        ]
    )

    def auction(self):
        table = bidding.Table(np.log(self.TABLE), 4, start=1)
        amounts = (np.array([1.0, 1.5]), np.array([3.0, 1.0]))
        return bidding.Auction(PLAIN[0], table, *amounts)

    def test_equals_its_own_definition_only(self):
        auction = self.auction()
        found = sample(auction, np.ones(1), FIRST, estimator="myopic")
        objective = cases.reference_objective(np.ones(1), FIRST)
        due, size = bidding.gradient(auction, objective, "bids", myopic=True)
        assert_scores(found.gradient, found.gradient_error, due, size)
        whole, _ = bidding.gradient(auction, objective, "bids")
        scores = np.abs(found.gradient - whole) / found.gradient_error
        assert (scores > 10 * NORMAL).all()

    def test_the_score_function_has_the_rest(self):
        check(self.auction(), np.ones(1), FIRST)


def test_differences_are_those_of_five_percent():
    """Unbiased for the difference quotient of the worth itself."""
    auction = under(AUCTIONS["Markov"], PLAIN[0])
    found = sample(auction, MIXED, estimator="differences")
    objective = cases.reference_objective(MIXED)

    def quotient(agent):
        step = 0.05 * auction.bids[agent] * (np.arange(3) == agent)
        ends = [replace(auction, bids=auction.bids + x) for x in (step, -step)]
        high, low = (bidding.exact(x, objective) for x in ends)
        return float(high - low) / (2 * step.sum())

    due = [quotient(agent) for agent in range(3)]
    # The difference of two float32 sums.
    assert_scores(found.gradient, found.gradient_error, due, 10 / 0.05)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("estimator", ["score_function", "myopic"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4)], ids=["row", "Markov"])
def test_one_token_of_a_table_is_certain(shape, estimator):
    """No sampling, no error; a reward depends on the token, and is left out here."""
    auction = under(instance(8, shape, 1), PLAIN[6])
    terms = tuple(words for words in cases.TERMS if words != "reward 1")
    factors = MIXED[: len(terms)]
    found = program(auction.table, terms, None, estimator)(
        jax.random.key(0),
        cases.mechanism_of(auction.mechanism),
        auction.bids,
        auction.values,
        factors,
    )
    assert found.value_error == 0
    np.testing.assert_array_equal(found.gradient_error, np.zeros(3))
    objective = cases.reference_objective(factors, terms)
    worth = float(bidding.exact(auction, objective))
    np.testing.assert_allclose(found.value, worth, rtol=SINGLE, atol=SINGLE)
    due, size = bidding.gradient(auction, objective, "bids")
    assert_within(found.gradient, due, SINGLE * size)
