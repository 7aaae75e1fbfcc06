"""Mutations: every small fault of a rule is found, and no rule without one fails."""

import faults
import jax
import pytest

import tokenauction_jax as ta
from tokenauction_jax.auditing import properties as named
from tokenauction_jax.scenarios import names

LINEAR = ta.linear()
SECOND_PRICE = ta.second_price(LINEAR)
TRUTHFUL = named.TRUTHFUL + "total_variation"
PREFERENCES = {named.MONOTONE, named.CONSISTENT, named.STABLE}
SOME = {"num_instances": 256, "valuations": [ta.total_variation()]}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def failures(*rules, **options):
    audit = ta.audit(*rules, **options)
    return {f.property for f in audit.findings if f.verdict == "fails"}


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({}, set()),
        ({"expect": 1.01, "condition": 1.01, "realize": 1.01}, {TRUTHFUL}),
        ({"expect": 0.99, "condition": 0.99, "realize": 0.99}, {TRUTHFUL}),
        ({"expect": 1.01}, {TRUTHFUL, named.MEANS}),
        ({"condition": 1.01, "realize": 1.01}, {named.MEANS}),
        ({"condition": 0.99}, {named.MEANS, named.DRAWS}),
        ({"realize": 1.01}, {named.DRAWS}),
        ({"realize": 0.99}, {named.DRAWS}),
        ({"favour": 1.01}, {TRUTHFUL, named.ORDER}),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_payments_that_are_off_by_one_percent(fault, found):
    payment = faults.Payment(SECOND_PRICE, **fault)
    assert failures(LINEAR, payment, **SOME) == found


def test_a_deficit_where_bids_are_far_apart():
    """Only there: the default range of bids does not reach it."""
    payment = faults.Payment(SECOND_PRICE, refund=0.01)
    assert failures(LINEAR, payment, **SOME) == set()
    found = failures(LINEAR, payment, bid_ratio=1e8, **SOME)
    assert {named.SURPLUS, named.NON_NEGATIVE} <= found


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({}, set()),
        ({"told": 1.01}, {named.WEIGHTS}),
        ({"told": 2.0}, {named.WEIGHTS}),
        ({"kept": 0.99}, {named.WEIGHTS}),
        ({"favour": 1.01}, {named.ORDER, named.WEIGHTS}),
        ({"mass": 1.01}, {named.WELL_FORMED, *PREFERENCES}),
        ({"order": 0.99}, PREFERENCES),
        ({"order": 1.01}, PREFERENCES),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_aggregations_that_are_off_by_one_percent(fault, found):
    assert failures(faults.Aggregation(**fault), num_instances=256) == found


@pytest.mark.parametrize("factor", [1.0, 0.8, 1.25])
def test_samplers_that_run_at_other_bids(factor):
    found = failures(LINEAR, sampler=faults.Sampler(factor))
    assert found == (set() if factor == 1 else {named.SAMPLER_LAW})


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.99, 1.01])
def test_critical_bids_that_are_off_by_one_percent(factor):
    rule = faults.Critical(factor)
    found = failures(rule, ta.second_price(rule), **SOME)
    assert found == (set() if factor == 1 else {named.DRAWS})


@pytest.mark.slow
def test_a_second_audit_compiles_nothing():
    """Of the same rule, and of one with other numbers or made anew."""
    compiled = []

    def count(event, seconds, **_):
        del seconds
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def audit(told, realize):
        rule = faults.Aggregation(told)
        payment = faults.Payment(ta.second_price(ta.linear()), realize=realize)
        ta.audit(rule, payment, **SOME)

    audit(1.0, 1.01)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        audit(1.0, 1.01)
        audit(1.01, 1.02)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled


# By the valuation that each pair is truthful for.
RIGHT = {
    ("linear", "second_price"): "total_variation",
    ("linear", "clarke"): "forward_kl",
    ("log_linear", "clarke"): "reverse_kl",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("aggregation", ["linear", "log_linear", "power_mean(0.5)"])
@pytest.mark.parametrize("payment", names.PAYMENTS)
def test_built_in_rules_have_no_fault(aggregation, payment, seed):
    rule = names.aggregation(aggregation)
    if payment not in names.payments_of(rule):
        pytest.skip("not a payment of this rule")
    found = failures(rule, names.payment(payment, rule), seed=seed)
    right = RIGHT.get((aggregation, payment), payment[len("myerson(") : -1])
    never = {named.WELL_FORMED, named.WEIGHTS, named.ORDER, named.SCALE}
    never |= {named.MEANS, named.DRAWS, named.SAMPLER_LAW}
    never |= {named.NON_NEGATIVE, named.SURPLUS}
    never |= {named.TRUTHFUL + right, named.RATIONAL + right}
    if aggregation == "linear":
        never |= PREFERENCES
    assert not found & never


@pytest.mark.slow
def test_what_is_implied_does_not_contradict():
    """Near order 1 the violations are small, and from ties ``p_i(t) = r(t)`` only."""
    rule = ta.power_mean(0.99)
    found = failures(rule, ta.pay_your_bid(), num_instances=128, valuations=[])
    assert found == {*PREFERENCES, named.PAYMENT_MONOTONE}
