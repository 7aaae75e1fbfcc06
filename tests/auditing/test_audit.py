"""The audit finds what is wrong with a rule, and nothing else."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from impostors import (
    Boast,
    SharesSecondPrice,
    SoftmaxShares,
    shared_gumbel,
    shared_inverse_cdf,
)

import tokenauction_jax as ta
from tokenauction_jax.auditing import Counterexample, properties

SMALL = {"num_instances": 128, "vocab_size": 4}


@pytest.fixture(scope="module")
def linear_audit():
    rule = ta.linear()
    return ta.audit(rule, ta.second_price(rule), **SMALL)


@pytest.fixture(scope="module")
def log_linear_audit():
    rule = ta.log_linear()
    return ta.audit(rule, ta.clarke(rule), **SMALL)


def failures(audit):
    return {f.property for f in audit.findings if f.verdict == "fails"}


def test_linear_with_the_second_price(linear_audit):
    """Design, section 1: truthful and rational under total variation only."""
    assert failures(linear_audit) == {
        kind + valuation
        for kind in (properties.RATIONAL, properties.TRUTHFUL)
        for valuation in ("forward_kl", "reverse_kl")
    }
    for finding in linear_audit.findings:
        assert finding.instances > 50
        if finding.verdict == "holds":
            assert finding.holds_on == finding.instances
            assert finding.counterexample is None


def test_log_linear_with_clarke(log_linear_audit):
    """Not monotone, so not consistent, not stable; truthful under reverse KL."""
    others = ("total_variation", "forward_kl")
    assert failures(log_linear_audit) == {
        properties.MONOTONE,
        properties.CONSISTENT,
        properties.STABLE,
        properties.PAYMENT_MONOTONE,
        *(properties.RATIONAL + valuation for valuation in others),
        *(properties.TRUTHFUL + valuation for valuation in others),
    }


def test_counterexamples_are_small_and_reusable(log_linear_audit):
    rule = ta.log_linear()
    for finding in log_linear_audit.findings:
        if finding.verdict == "holds":
            continue
        example = finding.counterexample
        again = eval(repr(example), {"Counterexample": Counterexample})
        assert again == example
        payment = ta.clarke(rule) if finding.payment else None
        assert again.violation(rule, payment) >= 0.05 * finding.worst
        assert len(example.bids) == 2
        assert len(example.probabilities[0]) <= 3
    monotone = log_linear_audit.finding(properties.MONOTONE).counterexample
    assert monotone.violation(ta.linear()) <= 1e-6


def test_report_is_plain_json(linear_audit):
    content = json.loads(json.dumps(linear_audit.to_dict()))
    assert content["aggregation"] == "linear"
    assert content["environment"]["backend"] == "cpu"
    assert len(content["findings"]) == len(linear_audit.findings)
    with pytest.raises(KeyError, match="monotone aggregation"):
        linear_audit.finding("monotonicity")


@pytest.mark.sweep(1)
@pytest.mark.parametrize("sampler", [shared_gumbel, shared_inverse_cdf])
def test_shared_noise_is_not_stable(sampler):
    audit = ta.audit(ta.linear(), sampler=sampler, num_instances=512, vocab_size=8)
    assert audit.finding(properties.STABLE).worst == 1
    assert audit.finding(properties.SAMPLER_LAW).verdict == "holds"
    assert failures(audit) == {properties.STABLE}


def first_token(key, aggregation, agent, own_bids, bids, log_probs):
    return jnp.zeros(own_bids.shape, int)


def test_a_stable_sampler_must_follow_the_aggregate():
    audit = ta.audit(ta.linear(), sampler=first_token, **SMALL)
    assert failures(audit) == {properties.SAMPLER_LAW}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_softmax_shares_are_no_influence(seed):
    """Who bids nothing has a share, money has a unit, and half a lie pays."""
    rule = SoftmaxShares(1.0)
    payment = SharesSecondPrice(rule)
    valuations = [ta.total_variation()]
    audit = ta.audit(rule, payment, valuations=valuations, seed=seed, **SMALL)
    found = failures(audit)
    assert {properties.WEIGHTS, properties.SCALE} <= found
    assert {
        kind + "total_variation" for kind in (properties.TRUTHFUL, properties.RATIONAL)
    } <= found
    lie = audit.finding(
        properties.TRUTHFUL + "total_variation", "shares_second_price"
    ).counterexample
    assert lie.violation(rule, payment, valuations=valuations) > 0.01


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_log_linear_that_claims_to_be_monotone(seed):
    audit = ta.audit(Boast(), seed=seed, **SMALL)
    found = failures(audit)
    assert {properties.MONOTONE, properties.CONSISTENT, properties.STABLE} <= found
    assert audit.finding(properties.MONOTONE).counterexample.violation(Boast()) > 1e-3


class Plain:
    """A rule that is not a pytree, and that the subclasses spoil."""

    name = "plain"
    monotone = False

    def weights(self, bids):
        return bids / bids.sum()

    def log_prob(self, bids, log_probs):
        return jnp.log(self.weights(bids) @ jnp.exp(log_probs))


class WrongShape(Plain):
    def log_prob(self, bids, log_probs):
        return super().log_prob(bids, log_probs)[:-1]


class Raises(Plain):
    def log_prob(self, bids, log_probs):
        raise RuntimeError("no such auction")


class NotTraceable(Plain):
    def log_prob(self, bids, log_probs):
        return np.log(np.asarray(bids) @ np.exp(np.asarray(log_probs)))


class Unnormalised(Plain):
    def log_prob(self, bids, log_probs):
        return super().log_prob(bids, log_probs) - 0.1


class NotANumber(Plain):
    def log_prob(self, bids, log_probs):
        log_q = super().log_prob(bids, log_probs)
        return jnp.where(bids[0] > bids[1], jnp.nan, log_q)


class Favourite(Plain):
    """The first agent counts twice; all shares are of bids plus one."""

    def weights(self, bids):
        shifted = (bids + 1).at[0].multiply(2)
        return shifted / shifted.sum()


def test_a_plain_object_is_audited():
    audit = ta.audit(Plain(), **SMALL)
    assert failures(audit) == set()
    assert audit.aggregation == "plain"


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        (WrongShape(), r"log_prob returns float32\[3\], not floating\[4\]"),
        (Raises(), "RuntimeError: no such auction"),
        (NotTraceable(), "TracerArrayConversionError"),
    ],
)
def test_a_rule_that_does_not_run_is_named(rule, note):
    audit = ta.audit(rule, ta.pay_your_bid(), **SMALL)
    (finding,) = audit.findings
    assert (finding.property, finding.verdict) == (properties.WELL_FORMED, "fails")
    assert pytest.approx(1) == sum(finding.counterexample.probabilities[0])
    with pytest.raises(AssertionError, match=note):
        assert not finding.note


@pytest.mark.parametrize("rule", [Unnormalised(), NotANumber()])
def test_a_rule_without_probabilities_is_named(rule):
    audit = ta.audit(rule, **SMALL)
    finding = audit.finding(properties.WELL_FORMED)
    assert finding.verdict == "fails"
    assert finding.holds_on < finding.instances
    assert not finding.counterexample.violation(rule) < 0.05


def test_asymmetric_rules_are_named():
    assert {properties.ORDER, properties.SCALE} <= failures(
        ta.audit(Favourite(), **SMALL)
    )


class Refund:
    """Pays back a tenth of the bid on every token but the first."""

    name = "refund"

    def expected(self, bids, log_probs):
        return jnp.asarray(bids)

    def conditional(self, bids, log_probs, token):
        return jnp.where(token == 0, bids, -0.1 * bids)

    def realized(self, key, bids, log_probs, token):
        return self.conditional(bids, log_probs, token)


class OnePrice(Refund):
    """Returns a scalar where there should be one payment an agent."""

    name = "one_price"

    def conditional(self, bids, log_probs, token):
        return jnp.sum(bids)


def test_negative_payments_and_wrong_shapes_are_named():
    audit = ta.audit(ta.linear(), Refund(), OnePrice(), **SMALL)
    negative = audit.finding(properties.NON_NEGATIVE, "refund")
    assert negative.verdict == "fails"
    example = negative.counterexample
    assert example.violation(ta.linear(), Refund()) == pytest.approx(
        negative.worst, rel=0.95
    )
    assert audit.finding(properties.SURPLUS, "refund").verdict == "fails"
    wrong = audit.finding(properties.WELL_FORMED, "one_price")
    assert "conditional returns float32[], not floating[3]" in wrong.note


def test_same_seed_same_findings():
    one, two, other = (
        ta.audit(Favourite(), seed=seed, **SMALL).findings for seed in (3, 3, 4)
    )
    assert one == two != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_agents": 1}, "num_agents must be an integer from 2 to 64, got 1"),
        ({"num_instances": 0}, "num_instances must be"),
        ({"bid_ratio": float("nan")}, "bid_ratio must be from 1 to 1e.50, got nan"),
        ({"vocab_size": 2.5}, "vocab_size must be"),
        ({"num_instances": 10**30}, "num_instances must be an integer from 1 to"),
        ({"num_agents": 65}, "num_agents must be an integer from 2 to 64"),
        ({"vocab_size": 2**20}, "more than 67108864 numbers: ask for fewer"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be an integer from 0"),
        ({"tolerance": float("nan")}, "tolerance must be from 0 to 1, got nan"),
        ({"valuations": [ta.linear()]}, "valuation must follow Valuation"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ta.audit(ta.linear(), **arguments)
    with pytest.raises(ValueError, match="payment must follow Payment"):
        ta.audit(ta.linear(), ta.linear())
