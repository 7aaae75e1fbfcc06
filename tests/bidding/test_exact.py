"""Exact worth of texts and its derivatives, against the enumeration of all texts."""

import functools
import itertools
from dataclasses import replace

import bidding_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bidding_cases import MYERSON, PLAIN, instance, name, under
from reference import bidding
from reference.compare import assert_within

import tokenauction_jax as ta

TABLES = {
    "end token": instance(0, (3, 3, 3), 3, end_token=2, start=1),
    "no context": instance(1, (3, 4), 4, end_token=0),
}
MORE_TABLES = {
    "Markov": instance(39, (3, 4, 4), 4),
    "sharp": instance(29, (3, 4, 4), 4, concentration=0.5, end_token=3),
    "two tokens": instance(4, (4, 2, 2), 4, start=1),
    "one token": instance(11, (3, 4, 4), 1),
}
ALL_TABLES = TABLES | MORE_TABLES
TOLERANCES = {"single": 1e-5, "double": 1e-9}
SINGLE, DOUBLE = TOLERANCES.values()


@functools.cache
def compiled(table, terms):
    """Worth, and derivatives in the mechanism, bids, values and temperature."""

    def worth(mechanism, bids, values, temperature, factors):
        return ta.bidding.exact(
            mechanism,
            cases.heated(table, temperature),
            bids,
            cases.objective(factors, terms),
            values=values,
            num_tokens=table.num_tokens,
        )

    return jax.jit(jax.value_and_grad(worth, (0, 1, 2, 3)))


def compare(auction, tolerance, terms=cases.TERMS, *, one_sided=False):
    """Every objective, its value and all its derivatives."""
    rows = cases.reference_rows(terms)
    texts = bidding.enumerate_texts(auction)
    due = texts.probability * rows(texts, auction.values)
    rule = cases.mechanism_of(auction.mechanism)
    args = (rule, auction.bids, auction.values, 1.0)
    program = compiled(auction.table, terms)
    found = [program(*args, row) for row in np.eye(len(terms))]
    worth = np.array([value for value, _ in found])
    assert_within(worth, due.sum(1), tolerance * np.abs(due).sum(1))
    for of in cases.numbers_of(auction.mechanism):
        if of in ("influence", "order"):
            slopes = [cases.slope_in(of, slope[0]) for _, slope in found]
        else:
            which = {"bids": 1, "values": 2, "temperature": 3}[of]
            slopes = [slope[which] for _, slope in found]
        kind = {"one_sided": one_sided and of == "bids"}
        expected, size = bidding.gradient(auction, rows, of, **kind)
        assert_within(slopes, expected, tolerance * np.maximum(size, 1e-30))


# A program takes five seconds to compile.
QUICK = [("double", "end token", mechanism) for mechanism in PLAIN]
QUICK += [("single", "no context", mechanism) for mechanism in PLAIN[-3:]]
EVERY = list(itertools.product(("single", "double"), ALL_TABLES, PLAIN))
EVERY += itertools.product(("single", "double"), ("end token", "no context"), MYERSON)
SLOW = [
    pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in QUICK
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("precision", "table", "mechanism"), QUICK + SLOW, ids=name)
def test_definition(precision, table, mechanism):
    with jax.enable_x64(precision == "double"):
        compare(under(ALL_TABLES[table], mechanism), TOLERANCES[precision])


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", PLAIN, ids=name)
@pytest.mark.parametrize("table", ALL_TABLES)
def test_the_reference_steps_over_no_kink(table, mechanism):
    """Of a total variation where `q` crosses `p`: shorter steps agree."""
    auction, rows = under(ALL_TABLES[table], mechanism), cases.reference_rows()
    for of in cases.numbers_of(mechanism):
        found, size = bidding.gradient(auction, rows, of)
        again, _ = bidding.gradient(auction, rows, of, step=0.02)
        assert_within(again, found, 1e-10 * np.maximum(size, 1e-30))


@pytest.mark.parametrize("of", [PLAIN[0], PLAIN[-2]], ids=name)
def test_at_a_bid_of_zero(of, x64):
    """The derivative there is one-sided."""
    auction = under(TABLES["end token"], of)
    auction = replace(auction, bids=np.array([0.0, 1.0, 0.7]))
    compare(auction, 1e-7, one_sided=True)


UNDEFINED = [m for m in PLAIN if m.rule in ("log_linear", -1.0)]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("mechanism", UNDEFINED, ids=name)
def test_undefined_auctions_stop(mechanism, x64):
    auction = cases.apart(mechanism)
    lengths = bidding.enumerate_texts(auction).mask.sum(1)
    assert set(lengths) == {1, 2, 3, 4}
    compare(auction, DOUBLE, cases.FINITE)


def exact(auction, words, **changes):
    """The package's worth of one term."""
    args = {"bids": auction.bids, "values": auction.values} | changes
    return ta.bidding.exact(
        cases.mechanism_of(auction.mechanism),
        cases.pool_of(auction.table),
        args["bids"],
        cases.term(ta.bidding, words),
        values=args["values"],
        num_tokens=auction.table.num_tokens,
    )


@pytest.mark.parametrize("words", ["welfare forward_kl", "utility 1 forward_kl"])
def test_worth_is_infinite_where_an_infinite_context_is_reached(words):
    auction = cases.apart(PLAIN[2])
    assert bidding.exact(auction, cases.term(bidding, words)) == -np.inf
    assert exact(auction, words) == -jnp.inf


def test_an_infinite_context_out_of_reach_does_not_count():
    """Nobody says token 2, after which a forward KL is infinite."""
    auction = cases.apart(PLAIN[2])
    weights = cases.APART.copy()
    weights[:, 0] = [[2, 1, 0], [1, 2, 0], [1, 1, 0]]
    weights[:, 1] = [[1, 2, 0], [2, 2, 0], [1, 3, 0]]
    with np.errstate(divide="ignore"):
        log_probs = np.log(weights / weights.sum(-1, keepdims=True))
    auction = replace(auction, table=replace(auction.table, log_probs=log_probs))
    found = exact(auction, "welfare forward_kl")
    due = bidding.exact(auction, cases.term(bidding, "welfare forward_kl"))
    assert due < -0.1
    np.testing.assert_allclose(found, float(due), rtol=SINGLE)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("words", ["utility 0 total_variation", "reward 1"])
def test_rows_are_auctions(words):
    """The worth of many is their mean."""
    auction = under(TABLES["end token"], PLAIN[5])
    bids = auction.bids * np.array([[1.0], [0.5], [2.0]])
    bids[1] = bids[1, ::-1]
    each = [float(exact(auction, words, bids=row)) for row in bids]
    found = exact(auction, words, bids=bids)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)
    values = auction.values * np.array([[1.0], [3.0]])
    each = [float(exact(auction, words, values=row)) for row in values]
    found = exact(auction, words, values=values)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)


def test_a_reward_of_too_many_texts_is_refused():
    auction = instance(7, (3, 4, 4), 40)
    with pytest.raises(ValueError, match="num_tokens") as caught:
        exact(auction, "reward 1")
    assert len(str(caught.value)) < 500
