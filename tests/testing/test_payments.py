"""Payments: what is right passes, and each impostor fails as it should."""

from typing import ClassVar

import faults
import impostors
import jax.numpy as jnp
import pytest
from impostors import rejection, slow

import tokenauction_jax as ta
from tokenauction_jax import testing

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


@pytest.mark.parametrize(
    ("payment", "rule"),
    [
        (ta.pay_your_bid(), ta.power_mean(0.5)),
        (ta.clarke(LINEAR), LINEAR),
        slow(ta.clarke(LOG_LINEAR), LOG_LINEAR),
        slow(ta.myerson(LOG_LINEAR, ta.reverse_kl()), LOG_LINEAR),
    ],
    ids=lambda rule: rule.name,
)
def test_built_in_payments_pass(payment, rule):
    testing.check_payment(payment, rule)


def test_the_second_price_passes():
    testing.check_second_price(ta.second_price(LINEAR), LINEAR)


@pytest.mark.slow
def test_a_monotone_rule_of_a_user_passes():
    """Its second price is found by quadrature and bisection."""
    rule = impostors.Wrapped(2.0)
    testing.check_aggregation(rule)
    testing.check_second_price(ta.second_price(rule), rule)
    testing.check_stable_sampler(ta.stable_sample, rule)


@pytest.mark.slow
@pytest.mark.parametrize("influence", [0.7, 1.0, 2.0])
def test_a_payment_is_not_blamed_for_derivatives_of_its_aggregation(influence):
    """A power at a bid of 0 and a logarithm of 0 have none."""
    rule = faults.Power(influence)
    rejection("the gradient of", testing.check_aggregation, rule)
    testing.check_second_price(ta.second_price(rule), rule)


def test_gradients_that_are_no_numbers_are_rejected():
    def change(bids):
        return bids + jnp.sqrt(bids - bids)

    match = "the gradient of expected in bids is infinite or NaN in 64 of 64"
    rejection(match, testing.check_payment, impostors.Charged(change), LINEAR)


def test_a_lottery_is_a_payment():
    testing.check_payment(impostors.Lottery(1.0, 1.0, 1.0), LINEAR)


def test_a_lottery_is_not_deterministic():
    @ta.record
    class Certain(impostors.Lottery):
        deterministic: ClassVar[bool] = True

    match = "deterministic is True, but realized differs"
    rejection(match, testing.check_payment, Certain(1.0, 1.0, 1.0), LINEAR)


@pytest.mark.parametrize(
    ("factors", "match"),
    [
        ((-1.0, 1.0, 1.0), "the negative part of expected is -"),
        ((1.0, 1.0, float("nan")), "realized is NaN in"),
        ((1.1, 1.0, 1.0), "the mean of conditional, against expected, is"),
        ((1.0, 1.0, 1.5), "mean of realized less conditional, in bids, for token"),
        ((1.0, 1.0, 1.02), "mean of realized less conditional, .* over all tokens"),
        ((1.0, 1.0, 0.98), "mean of realized less conditional, .* over all tokens"),
    ],
    ids=str,
)
def test_payments_that_disagree_with_themselves_are_rejected(factors, match):
    lottery = impostors.Lottery(*factors)
    message = rejection(match, testing.check_payment, lottery, LINEAR)
    assert "\n  bids = [" in message
    assert "\n  probabilities = [[" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda bids: bids.at[0].multiply(2), "in another order is"),
        (lambda bids: bids + bids**2, "with scaled bids is"),
        (lambda bids: bids + jnp.inf, "the infinite part of conditional is inf"),
        (lambda bids: bids.mean() - bids, "the negative part of conditional is -"),
    ],
    ids=["order", "scale", "infinite", "negative"],
)
def test_payments_with_a_favourite_or_a_unit_are_rejected(change, match):
    payment = impostors.Charged(change)
    message = rejection(match, testing.check_payment, payment, LINEAR)
    assert ("order = [" in message) == ("order" in match)
    assert ("scale = " in message) == ("scale" in match)


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_realized_second_prices_that_are_off_by_one_percent_are_rejected(factor):
    payment = faults.Payment(ta.second_price(LINEAR), realize=factor)
    match = "mean of realized less conditional, .* is off by [01].[0-9]+%"
    rejection(match, testing.check_payment, payment, LINEAR)


def test_rounding_is_not_negative():
    """Its payments were -1.7e-16 where the agents agree, and rejected."""

    def change(bids):
        return jnp.where(bids < bids.max(), bids, -1e-16 * bids)

    testing.check_payment(impostors.Charged(change), LINEAR)


def test_a_payment_belongs_to_an_aggregation():
    payment = ta.second_price(LINEAR)
    rejection("was built for 'linear'", testing.check_payment, payment, LOG_LINEAR)


def test_the_price_at_a_fixed_share_is_rejected():
    payment = impostors.SharePreserving(LINEAR)
    match = "expected, against the mean critical bid, is"
    rejection(match, testing.check_second_price, payment, LINEAR)


def test_a_price_with_the_right_mean_only_is_rejected():
    payment = impostors.LogLinearSecondPrice(LINEAR)
    match = "how often the critical bid is within own bids"
    rejection(match, testing.check_second_price, payment, LINEAR)


def test_a_second_price_of_log_linear_is_rejected():
    payment = impostors.LogLinearSecondPrice(LOG_LINEAR)
    match = "'log_linear': not monotone: a rising bid"
    rejection(match, testing.check_second_price, payment, LOG_LINEAR)
