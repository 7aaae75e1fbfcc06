"""What is right passes the checks, and each impostor fails the one that it should."""

import impostors
import jax
import jax.numpy as jnp
import pytest

import tokenauction_jax as ta
from tokenauction_jax import testing
from tokenauction_jax.auditing import Counterexample

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def rejection(match, check, *args):
    """The message of a check that fails, as `match` says."""
    with pytest.raises(AssertionError, match=match) as caught:
        check(*args)
    return str(caught.value)


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


def test_the_stable_sampler_passes():
    testing.check_stable_sampler(ta.stable_sample, LINEAR)


@pytest.mark.slow
def test_a_monotone_rule_of_a_user_passes():
    """Its second price is found by quadrature and bisection."""
    rule = impostors.Wrapped(2.0)
    testing.check_aggregation(rule)
    testing.check_second_price(ta.second_price(rule), rule)
    testing.check_stable_sampler(ta.stable_sample, rule)


def naive_log_linear(log_q, bids, log_probs):
    """0 * log 0 without care."""
    return jax.nn.log_softmax(((bids / bids.sum())[:, None] * log_probs).sum(0))


def naive_linear(log_q, bids, log_probs):
    """The logarithm of 0 has an infinite slope."""
    return jnp.log((LINEAR.weights(bids)[:, None] * jnp.exp(log_probs)).sum(0))


def moody(log_q, bids, log_probs):
    """Does something else when it is traced."""
    return log_q if isinstance(bids, jax.core.Tracer) else log_q[::-1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda q, b, p: q[1:], r"log_prob returns float32\[7\], not float32\[8\]"),
        (lambda q, b, p: q + 0.01, "the sum of probabilities is 1.01"),
        (naive_log_linear, "log_prob is NaN in"),
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


def test_numbers_must_be_leaves():
    baked = impostors.Baked(2.0)
    rejection("'influence' is not a leaf", testing.check_aggregation, baked)


def test_rules_must_be_pytrees_with_all_members():
    plain = type("Plain", (type(LINEAR),), {})(1.0)
    rejection("no pytree: decorate its class", testing.check_aggregation, plain)
    valuation = ta.total_variation()
    rejection("no Aggregation: it has no", testing.check_aggregation, valuation)


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


def test_a_lottery_is_a_payment():
    testing.check_payment(impostors.Lottery(1.0, 1.0, 1.0), LINEAR)


@pytest.mark.parametrize(
    ("factors", "match"),
    [
        ((-1.0, 1.0, 1.0), "the negative part of expected is -"),
        ((1.0, 1.0, float("nan")), "realized is NaN in"),
        ((1.1, 1.0, 1.0), "the mean of conditional, against expected, is"),
        ((1.0, 1.0, 1.5), "mean of realized less conditional, in bids, for token"),
        ((1.0, 1.0, 1.04), "mean of realized less conditional, .* over all tokens"),
    ],
    ids=str,
)
def test_payments_that_disagree_with_themselves_are_rejected(factors, match):
    lottery = impostors.Lottery(*factors)
    message = rejection(match, testing.check_payment, lottery, LINEAR)
    assert "\n  bids = [" in message
    assert "\n  probabilities = [[" in message


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


def unmoved(key, aggregation, agent, own_bids, bids, log_probs):
    """The law at one bid for all own bids."""
    token = jax.random.categorical(key, aggregation.log_prob(bids, log_probs))
    return jnp.full(own_bids.shape, token)


def first_listed(key, aggregation, agent, own_bids, bids, log_probs):
    """The law at the first own bid for all of them."""
    bids = bids.at[agent].set(own_bids[0])
    return unmoved(key, aggregation, agent, own_bids, bids, log_probs)


def one_number(key, aggregation, agent, own_bids, bids, log_probs):
    return jnp.zeros(())


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (impostors.shared_gumbel, "shared_gumbel is not stable: in [1-8]"),
        (impostors.shared_inverse_cdf, "shared_inverse_cdf is not stable: in [1-8]"),
        (unmoved, "the frequency of tokens by unmoved"),
        (first_listed, "first_listed depends on the order of own bids"),
        (one_number, r"returns float32\[8192\], not integer\[8192, 6\]"),
    ],
)
def test_poor_samplers_are_rejected(sampler, match):
    message = rejection(match, testing.check_stable_sampler, sampler, LINEAR)
    assert "\n  own_bids = [" in message


def test_log_linear_has_no_stable_sampler():
    call = testing.check_stable_sampler, ta.stable_sample, LOG_LINEAR
    rejection("no stable sampler exists", *call)


def by_number(places, first, size):
    return places + first


def as_is(log_probs, tokens):
    return log_probs


def test_pools_pass():
    testing.check_pool(testing.random_pool(jax.random.key(0), 3, 5))
    table = testing.random_log_probs(jax.random.key(1), 2, 8)
    testing.check_pool(ta.agents.tabular(table, end_token=7))
    testing.check_pool(impostors.RandomPool(0, by_number, as_is))


@pytest.mark.parametrize(
    ("start", "number", "answer", "match"),
    [
        (0, lambda k, first, size: k + first + 9 * size, as_is, "in a smaller batch"),
        (0, lambda k, first, size: k, as_is, "with a later first_auction"),
        (
            0,
            by_number,
            lambda p, tokens: jax.nn.log_softmax(p * tokens.sum()),
            "beside other texts",
        ),
        (0, by_number, lambda p, tokens: p + 1, "from normalised ones, by 0.[5-9]"),
        (0, by_number, lambda p, tokens: p + jnp.nan, "from normalised ones, by nan"),
        (0, by_number, lambda p, tokens: p[:, 0], r"returns float32\[4, 5\]"),
        (False, by_number, as_is, r"the state changes its layout: .*bool\[\]"),
        ("0", by_number, as_is, "step by step raises TypeError"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_poor_pools_are_rejected(start, number, answer, match):
    pool = impostors.RandomPool(start, number, answer)
    assert "'RandomPool'" in rejection(match, testing.check_pool, pool)


def test_a_rule_is_no_pool():
    rejection("'linear' is no AgentPool: it has no", testing.check_pool, LINEAR)
