"""Pairing an aggregation with a payment."""

import jax
import jax.numpy as jnp
import pytest

import tokenauction_jax as ta

MATCHING = [
    (ta.linear(), ta.second_price(ta.linear())),
    (ta.linear(2), ta.second_price(ta.linear(2.0))),
    (ta.linear(), ta.clarke(ta.linear())),
    (ta.log_linear(), ta.clarke(ta.log_linear())),
    (ta.power_mean(0.5), ta.pay_your_bid()),
    (ta.log_linear(3.0), ta.pay_your_bid()),
]
MISMATCHED = [
    (ta.log_linear(), ta.second_price(ta.linear())),
    (ta.linear(2.0), ta.second_price(ta.linear())),
    (ta.linear(), ta.second_price(ta.linear(2.0))),
    (ta.linear(), ta.clarke(ta.log_linear())),
    (ta.log_linear(), ta.clarke(ta.linear())),
    (ta.log_linear(2.0), ta.clarke(ta.log_linear())),
    (ta.power_mean(1.0), ta.second_price(ta.linear())),
]


@pytest.mark.parametrize(("aggregation", "payment"), MATCHING)
def test_matching_rules(aggregation, payment):
    mechanism = ta.Mechanism(aggregation, payment)
    assert mechanism.aggregation is aggregation
    assert mechanism.payment is payment


@pytest.mark.parametrize(("aggregation", "payment"), MISMATCHED)
def test_mismatched_rules(aggregation, payment):
    with pytest.raises(ValueError, match=r"payment|aggregation"):
        ta.Mechanism(aggregation, payment)


class Bare:
    """A rule whose class is no record."""

    name, monotone = "bare", True

    def weights(self, bids):
        return bids / bids.sum()

    def log_prob(self, bids, log_probs):
        return log_probs[0]


@pytest.mark.parametrize(
    ("aggregation", "match"),
    [
        (Bare(), "aggregation is not a pytree: decorate its class"),
        (Bare, r"got the class Bare: give one of it, Bare\(\.\.\.\)"),
        (object(), "lacks 'log_prob', 'monotone', 'name', 'weights'"),
        (ta.pay_your_bid(), "lacks 'log_prob', 'monotone', 'weights'"),
    ],
    ids=["no record", "class", "nothing", "payment"],
)
def test_what_is_no_rule_says_why(aggregation, match):
    with pytest.raises(ValueError, match=match):
        ta.Mechanism(aggregation, ta.pay_your_bid())


def test_traced_numbers_pass_but_other_classes_do_not():
    @jax.jit
    def build(influence):
        rule = ta.linear(influence)
        return ta.Mechanism(rule, ta.second_price(rule)).aggregation.influence

    assert build(2.0) == 2.0

    @jax.jit
    def mismatched(influence):
        payment = ta.second_price(ta.linear(influence))
        return ta.Mechanism(ta.log_linear(influence), payment).aggregation.influence

    with pytest.raises(ValueError, match=r"payment|aggregation"):
        mismatched(2.0)


def test_a_mechanism_is_a_pytree_of_its_numbers():
    rule = ta.linear(2.0)
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    leaves, structure = jax.tree.flatten(mechanism)
    assert leaves == [2.0, 2.0]
    assert jax.tree.unflatten(structure, [3.0, 3.0]).payment.aggregation.influence == 3
    # Transformations fill leaves with all sorts of objects while they work.
    jax.tree.map(lambda _: None, mechanism)
    jax.tree.map(lambda _: object(), mechanism)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), mechanism, mechanism)
    assert stacked.aggregation.influence.shape == (2,)


def test_gradients_through_a_mechanism():
    rule = ta.linear(2.0)
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    log_probs = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]]))

    def first_token(mechanism):
        bids = jnp.array([1.0, 2.0])
        return mechanism.aggregation.log_prob(bids, log_probs)[0]

    found = jax.grad(first_token)(mechanism)
    assert isinstance(found, ta.Mechanism)
    assert found.aggregation.influence != 0
    assert found.payment.aggregation.influence == 0
