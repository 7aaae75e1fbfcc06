import doctest
import math

import pytest
from small_results import small_results

from tokenauction_jax.reports import labels

NAN, INF, DASH = math.nan, math.inf, labels.DASH


def test_examples_in_docstrings():
    found = doctest.testmod(labels)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ((0.43123, 0.41923, 0.44323), ("0.431", "[0.419, 0.443]")),
        ((-0.0004, -0.03, 0.03), ("0.000", "[-0.030, 0.030]")),
        ((123456.7, 123000.0, 124000.0), ("123,457", "[123,000, 124,000]")),
        ((1.234e-9, 1.1e-9, 1.4e-9), ("1.23e-09", "[1.10e-09, 1.40e-09]")),
        ((0.0, -1e-12, 1e-12), ("0.0e+00", "[-1.0e-12, 1.0e-12]")),
        ((2.5, 2.5, 2.5), ("2.5", "[2.5, 2.5]")),
        ((2.5, NAN, NAN), ("2.5", DASH)),
        ((NAN, NAN, NAN), (DASH, DASH)),
        ((2.5, -INF, INF), ("2.5", "[-∞, ∞]")),
        ((-INF, NAN, NAN), ("-∞", DASH)),
    ],
)
def test_the_interval_sets_the_digits(row, shown):
    names = ("mean", "low", "high")
    found = labels.interval(dict(zip(names, row, strict=True)))
    assert found == tuple(text.replace("-", labels.MINUS) for text in shown)


def test_numbers_stand_in_their_order_and_names_in_the_study_s():
    results = small_results("misreport")
    levels = list(labels.cells(results).values())
    factors = [float(level["bids.factor"]) for level in levels[:8]]
    assert factors == sorted(factors)
    rules = list(dict.fromkeys(level["rule"] for level in levels))
    assert rules == results.factors["rule"]


def test_revenue_and_utility_come_from_conditional_payments_if_they_were_taken():
    results = small_results("single")
    assert ("expected_revenue", "") in labels.headline(results)
    assert labels.utility(results) == "expected_utility"
    taken = ~results.summary["measure"].str.startswith("expected")
    results.summary = results.summary[taken]
    assert ("revenue", "") in labels.headline(results)
    assert labels.utility(results) == "utility"


@pytest.mark.parametrize(
    ("levels", "numeric"),
    [(["0", "0.5", "1"], True), (["0", "1"], False), (["1", "2", "x"], False)],
)
def test_a_swept_number_has_three_levels(levels, numeric):
    results = small_results("single", factors={"rule": levels})
    assert labels.numeric(results, "rule") == numeric
