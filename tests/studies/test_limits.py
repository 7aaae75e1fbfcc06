"""What is said to bound a measure bounds it in every auction of a real study."""

import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.measures import Column
from tokenauction_jax.studies.plan import compared_bounds

pytestmark = pytest.mark.usefixtures("one_device")
RULES = [
    {"aggregation": "linear", "payment": "second_price"},
    {"aggregation": "linear", "payment": "pay_your_bid"},
    {"aggregation": "log_linear", "payment": "clarke"},
    {"aggregation": "log_linear", "payment": "myerson(total_variation)"},
]
VALUES = [
    {"kind": "fixed", "amounts": [2.0, 1.0]},
    {"kind": "uniform", "low": 0.5, "high": 3.0},
    {"kind": "log_normal", "sigma": 2.0},
]
BIDS = [
    {"kind": "truthful"},
    {"kind": "fixed", "amounts": [0.5, 4.0]},
    {"kind": "shaded", "factor": 3.0},
]
TABLE = {"kind": "table", "probs": [[0.7, 0.2, 0.1], [0.0, 0.4, 0.6]]}
# Sums of float32 numbers that are equal may differ by so much of their size.
ROUNDING = 1e-5


def run(agents, rules, **others):
    return ta.studies.run(
        {
            "agents": agents,
            "num_tokens": 2,
            "num_auctions": 200,
            "keep_auctions": 200,
            "factors": {"rule": rules, "values": VALUES, "bids": BIDS},
        }
        | others
    )


def cells_of(found):
    """Of each cell, its bounds and the measures `(A, M)` of its auctions."""
    keys = [column.key for column in found.columns]
    for cell, auctions in found.auctions.groupby("cell"):
        yield found.plan.bounds.take(cell), auctions[keys].to_numpy(np.float64)


@pytest.fixture(scope="module")
def tables(one_device):
    return run(TABLE, RULES)


@pytest.fixture(scope="module")
def drawn(one_device):
    # Small concentrations: values come near the ends of what they lie between.
    agents = {"num_agents": 2, "vocab_size": 3, "concentration": 0.05}
    return run(agents, RULES[:1])


@pytest.mark.sweep(1)
@pytest.mark.parametrize("study", ["tables", "drawn"])
def test_no_auction_is_beyond_its_bounds(study, request):
    for bounds, auctions in cells_of(request.getfixturevalue(study)):
        check(auctions, bounds)


def check(auctions, bounds):
    """That measures `(A, M)` lie within bounds, and do not vary where they cannot."""
    finite = np.isfinite(auctions)
    slack = ROUNDING * np.abs(np.where(finite, auctions, 0)).max(axis=0, initial=1)
    least = np.where(finite, auctions, np.inf).min(axis=0)
    most = np.where(finite, auctions, -np.inf).max(axis=0)
    assert (least >= bounds.low - slack).all()
    assert (most <= bounds.high + slack).all()
    assert (most - least <= slack)[bounds.constant].all()


def test_what_never_varies_is_known_to_be_constant(tables):
    """In cells of tables and fixed values, where it is finite."""
    for cell, (bounds, auctions) in enumerate(cells_of(tables)):
        if tables.cells[cell]["values"].startswith("fixed"):
            finite = np.isfinite(auctions).all(axis=0)
            assert (bounds.constant >= (auctions == auctions[0]).all(0))[finite].all()


def number(rule, values, bids):
    """Of a cell of `tables`, by the places of its levels."""
    return (rule * len(VALUES) + values) * len(BIDS) + bids


# Truthful bids of two agents with fixed values of 2 and 1, or uniform ones up to 3, or
# log-normal ones; two tokens, of three.
@pytest.mark.parametrize(
    ("rule", "values", "measure", "ends"),
    [
        (0, 0, Column("revenue"), (0, 6)),
        (0, 1, Column("revenue"), (0, 12)),
        (0, 2, Column("revenue"), (0, np.inf)),
        (0, 1, Column("payment", agent=1), (0, 6)),
        (1, 0, Column("revenue"), (6, 6)),
        (1, 1, Column("revenue"), (0, 12)),
        (2, 1, Column("revenue"), (0, np.inf)),
        (3, 1, Column("expected_payment", agent=0), (0, 6)),
        (0, 1, Column("welfare", "total_variation"), (-12, 0)),
        (0, 1, Column("welfare", "forward_kl"), (-np.inf, 0)),
        (0, 2, Column("welfare", "total_variation"), (-np.inf, 0)),
        (0, 1, Column("minimum_welfare", "total_variation"), (-6, 0)),
        (0, 1, Column("utility", "total_variation", 0), (-12, 0)),
        (1, 0, Column("utility", "total_variation", 0), (-8, -4)),
        (0, 2, Column("length"), (2, 2)),
        (0, 2, Column("entropy"), (0, np.log(3))),
        (0, 2, Column("weight", agent=0), (0, 1)),
    ],
)
def test_bounds_are_those_of_the_study(tables, rule, values, measure, ends):
    bounds = tables.plan.bounds.take(number(rule, values, 0))
    place = tables.columns.index(measure)
    assert (bounds.low[place], bounds.high[place]) == pytest.approx(ends)


def test_differences_lie_between_those_of_the_bounds(tables):
    found = compared_bounds(tables.plan.bounds, tables.study.comparisons)
    values = np.stack([auctions for _, auctions in cells_of(tables)])
    for place, comparison in enumerate(tables.study.comparisons):
        one, other = np.array(comparison.pairs).T
        with np.errstate(invalid="ignore"):
            difference = (values[one] - values[other]).mean(0)
        check(difference, found.take(place))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # Another payment changes no text; other values do not if bids are fixed.
        ((0, 1, 0), (1, 1, 0), [True, True, False]),
        ((0, 1, 1), (0, 2, 1), [True, False, True]),
        ((0, 1, 1), (0, 1, 0), [False, False, False]),
        ((0, 1, 0), (2, 1, 0), [False, False, False]),
    ],
)
def test_the_same_measures_of_two_cells_differ_by_nothing(tables, one, other, same):
    bounds = tables.plan.bounds
    constant = bounds.take(number(*one)).minus(bounds.take(number(*other))).constant
    measures = Column("log_prob"), Column("welfare", "forward_kl"), Column("revenue")
    assert [constant[tables.columns.index(x)] for x in measures] == same
