"""Aggregations and valuations: what is right passes, what is wrong is named."""

import faults
import impostors
import jax
import jax.numpy as jnp
import pytest
from impostors import rejection, slow

import tokenauction_jax as ta
from tokenauction_jax import testing
from tokenauction_jax.auditing import Counterexample

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


@pytest.mark.parametrize(
    "rule",
    [
        LINEAR,
        LOG_LINEAR,
        ta.power_mean(0.5),
        slow(ta.linear(0.5)),
        slow(ta.linear(20)),
        slow(ta.log_linear(2)),
        slow(ta.power_mean(0)),
        slow(ta.power_mean(-1, 2)),
    ],
    ids=repr,
)
def test_built_in_aggregations_pass(rule):
    testing.check_aggregation(rule)


@pytest.mark.parametrize(
    "valuation",
    [ta.total_variation(), ta.forward_kl(), ta.reverse_kl()],
    ids=lambda rule: rule.name,
)
def test_built_in_valuations_pass(valuation):
    testing.check_valuation(valuation)


def naive_log_linear(log_q, bids, log_probs):
    """0 * log 0 without care."""
    return jax.nn.log_softmax(((bids / bids.sum())[:, None] * log_probs).sum(0))


def naive_linear(log_q, bids, log_probs):
    """The logarithm of 0 has an infinite slope."""
    return jnp.log((LINEAR.weights(bids)[:, None] * jnp.exp(log_probs)).sum(0))


def sometimes_nan(log_q, bids, log_probs):
    """XLA fuses this with the exp of a check, which may lose the NaN."""
    q = LINEAR.weights(bids) @ jnp.exp(log_probs)
    return jnp.where(bids[0] > bids[1], jnp.nan, jnp.log(q))


def moody(log_q, bids, log_probs):
    """Does something else when it is traced."""
    return log_q if isinstance(bids, jax.core.Tracer) else log_q[::-1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda q, b, p: q[1:], r"log_prob returns float32\[7\], not float32\[8\]"),
        (lambda q, b, p: q + 0.01, "the sum of probabilities is 1.01"),
        (naive_log_linear, "log_prob is NaN in"),
        (sometimes_nan, "log_prob is NaN in"),
        (lambda q, b, p: q - jnp.inf, "undefined, though every agent has every token"),
        (
            lambda q, b, p: jnp.log(jnp.exp(p).mean(0)),
            "probabilities with a lone bidder",
        ),
        (
            lambda q, b, p: LINEAR.log_prob(b.at[0].multiply(2), p),
            "probabilities in another order",
        ),
        (lambda q, b, p: LINEAR.log_prob(b + b**2, p), "probabilities with scaled"),
        (lambda q, b, p: q if b[0] > 0 else p[0], "log_prob raises Tracer"),
        (moody, "log_prob compiled under vmap, not as it is, is"),
        (naive_linear, "the gradient of log_prob in bids is infinite or NaN"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_poor_aggregations_are_rejected(change, match):
    message = rejection(match, testing.check_aggregation, impostors.Changed(change))
    assert "'changed': " in message
    assert "\n  bids = [" in message
    assert "\n  probabilities = [[" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda weights: 2 * weights - 1 / 3, "the negative part of weights is -0.3"),
        (lambda weights: 1.1 * weights, "the sum of weights is 1.1"),
        (lambda weights: weights**0 / weights.size, "the weight of a zero bidder is"),
        (lambda weights: weights[::-1], "the weight of a zero bidder is"),
    ],
    ids=["negative", "sum", "flat", "reversed"],
)
def test_poor_weights_are_rejected(change, match):
    weighed = impostors.Weighed(change)
    rejection(match, testing.check_aggregation, weighed)


@pytest.mark.parametrize("fault", [{"told": 1.01}, {"told": 2.0}], ids=str)
def test_weights_that_are_not_in_use_are_rejected(fault):
    match = "probabilities at other bids of the same weight is"
    rejection(match, testing.check_aggregation, faults.Aggregation(**fault))


def drawn(change):
    """A rule's own `sample`, right but for a change of what it returns."""

    def sample(key, bids, log_probs):
        return change(*LOG_LINEAR.sample(key, bids, log_probs))

    return impostors.Sampled(LOG_LINEAR, sample)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, q: (t + 8, q), "a token that does not exist"),
        (lambda t, q: (t, q + 0.01), "the probability of the token of sample"),
        (lambda t, q: (t, jnp.nan * q), "has NaN in a defined auction"),
        (
            lambda t, q: (t, jnp.where(jnp.isinf(q), 0.0, q)),
            "or a number in an undefined one",
        ),
    ],
    ids=["foreign", "off", "NaN", "undefined"],
)
def test_poor_draws_are_rejected(change, match):
    rejection(match, testing.check_aggregation, drawn(change))


def test_draws_from_logits_are_checked():
    """Tokens that are right only of what is normalised."""

    def sample(key, bids, logits):
        token, _ = LINEAR.sample(key, bids, logits)
        return token, LINEAR.log_prob(bids, jax.nn.log_softmax(logits))[token]

    rule = impostors.SampledFromLogits(LINEAR, sample)
    match = "the frequency of tokens by sample_from_logits"
    rejection(match, testing.check_aggregation, rule)


def test_draws_of_another_law_are_rejected():
    """Those of equal bids, which tell how likely they should have been."""

    def sample(key, bids, log_probs):
        token, _ = LINEAR.sample(key, jnp.ones_like(bids), log_probs)
        return token, LINEAR.log_prob(bids, log_probs)[token]

    rule = impostors.Sampled(LINEAR, sample)
    rejection("the frequency of tokens by sample", testing.check_aggregation, rule)


def test_numbers_must_be_leaves():
    baked = impostors.Baked(2.0)
    rejection("'influence' is not a leaf", testing.check_aggregation, baked)


def test_rules_must_be_pytrees_with_all_members():
    plain = type("Plain", (type(LINEAR),), {})(1.0)
    rejection("not a pytree: decorate its class", testing.check_aggregation, plain)
    valuation = ta.total_variation()
    rejection(
        "does not implement Aggregation: it has no",
        testing.check_aggregation,
        valuation,
    )


def test_claims_are_searched():
    """The message holds a counterexample that can be used again."""
    boast = impostors.Boast()
    message = rejection("not monotone: a rising", testing.check_aggregation, boast)
    example = eval(message.splitlines()[-1], {"Counterexample": Counterexample})
    assert example.violation(boast) > 0.05


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda value: value[None], r"value returns float32\[1\], not float32\[\]"),
        (lambda value: -value, "the positive part of value is"),
        (lambda value: value - 1, "value of what is preferred is -1, expected 0"),
        (lambda value: 0 * value / value, "value is NaN in"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_poor_valuations_are_rejected(change, match):
    rejection(match, testing.check_valuation, impostors.Valued(change))
