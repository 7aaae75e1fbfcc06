"""Derivatives of aggregations, also at zero bids and zero probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation
from reference.compare import gradients, smooth_auction
from reference.definitions import derivative

import tokenauction_jax as ta

INFLUENCES = (0.5, 1.0, 2.0, 3.7)
ORDERS = (-2.0, -1.0, -1e-6, 0.0, 1e-6, 1e-3, 0.5, 1.0, 2.0)


@jax.jit
@jax.grad
def slopes(numbers, coefficients):
    """Of a weighted sum of log-probabilities, in the rule, the bids and the logits."""
    rule, bids, logits = numbers
    return coefficients @ rule.log_prob(bids, jax.nn.log_softmax(logits))


@jax.jit
def by_bids(rule, bids, log_probs):
    return jax.jacrev(lambda bids: rule.log_prob(bids, log_probs))(bids)


@pytest.mark.parametrize("influence", [1.0, 2.0])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients(order, influence, x64):
    """In bids, logits, influence and order, also at order 0 and influence 1."""
    bids, logits = smooth_auction()
    coefficients = np.arange(7.0) - 2
    rule = ta.power_mean(order, influence)
    rule, bid_slope, logit_slope = slopes((rule, bids, logits), coefficients)

    def by_definition(bids, logits, order, influence):
        log_q = aggregation.aggregate(bids, logits, order, influence)
        return (coefficients * log_q).sum()

    expected = gradients(
        by_definition, derivative, bids, logits, order, influence, step=2e-3
    )
    # Near order 0 the definition itself loses digits: 1e-19 / order / step.
    close = {"rtol": 1e-6, "atol": 1e-6} if 0 < abs(order) < 1e-2 else {"rtol": 1e-8}
    np.testing.assert_allclose(bid_slope, expected[0], **close)
    np.testing.assert_allclose(logit_slope, expected[1], **close)
    if abs(order) == 1e-6:  # the derivative is continuous, and exact at order 0
        at_zero = slopes((ta.power_mean(0.0, influence), bids, logits), coefficients)
        np.testing.assert_allclose(rule.order, at_zero[0].order, rtol=1e-4)
    else:
        np.testing.assert_allclose(rule.order, expected[2], **close)
    np.testing.assert_allclose(rule.influence, expected[3], **close)


@pytest.mark.parametrize("name", ["linear", "log_linear"])
def test_gradient_in_influence_of_the_named_rules(name, x64):
    bids, log_probs = smooth_auction()
    for influence in INFLUENCES:
        rule = getattr(ta, name)(influence)
        found, *_ = slopes((rule, bids, log_probs), np.eye(7)[2])

        def by_definition(influence):
            order = {"linear": 1.0, "log_linear": 0.0}[name]
            return aggregation.aggregate(bids, log_probs, order, influence)[2]

        expected = float(derivative(by_definition, influence, 1e-2))
        np.testing.assert_allclose(found.influence, expected, rtol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("influence", [1.0, 2.0])
def test_one_sided_derivative_at_a_zero_bid(order, influence, x64):
    bids, log_probs = smooth_auction()
    bids[1] = 0

    def by_definition(own):
        moved = np.array(bids, np.longdouble)
        moved[1] = own
        return aggregation.aggregate(moved, log_probs, order, influence)

    expected = derivative(by_definition, 0.0, 1e-3, one_sided=True).astype(float)
    close = {"rtol": 1e-5, "atol": 1e-6} if 0 < abs(order) < 1e-2 else {"rtol": 1e-7}
    found = by_bids(ta.power_mean(order, influence), bids, log_probs)[:, 1]
    np.testing.assert_allclose(found, expected, **{"atol": 1e-9, **close})


def test_one_sided_derivative_at_a_zero_bid_of_an_unseen_token():
    """`q(t)` itself has a finite slope where only the zero bidder can produce `t`.

    `exp(log_prob)` cannot carry it, but the weights of the mixture do.
    """
    bids = jnp.array([2.0, 0.0])
    slope = jax.jacrev(ta.linear().weights)(bids)
    np.testing.assert_allclose(slope, [[0, -0.5], [0, 0.5]], rtol=1e-6)


@jax.jit
@jax.grad
def outcome_slope(log_probs, rule, bids):
    q = jnp.exp(rule.log_prob(bids, log_probs))
    return q @ jnp.array([1.0, -2.0, 3.0])


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_is_zero_at_zero_probability(order):
    """`d q / d log p = p d q / d p`."""
    bids = jnp.array([1.0, 0.7, 1.3])
    log_probs = jnp.log(jnp.array([[0.5, 0.5, 0], [0.2, 0, 0.8], [0.4, 0.3, 0.3]]))
    found = outcome_slope(log_probs, ta.power_mean(order), bids)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[np.isneginf(log_probs)], 0)
