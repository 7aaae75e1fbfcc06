"""The audit of rules on replies finds what is wrong with one, and nothing else."""

import json
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import replies as reference

import tokenauction_jax as ta
from tokenauction_jax.auditing import ReplyCounterexample, properties, search
from tokenauction_jax.auditing.properties import replies as named
from tokenauction_jax.auditing.reply_instances import random_reply_instances
from tokenauction_jax.auditing.rules import ReplyRules

SMALL = {"num_instances": 128, "num_candidates": 4}
MOSAIC, BEST_OF = ta.replies.mosaic(1.0), ta.replies.best_of()
SINGLE_WINNER = ta.replies.single_winner()
NEVER = {
    *(properties.WELL_FORMED, named.SAMPLE_LAW, named.MEANS, properties.ORDER),
    named.SCALE,
}


def failures(rule, **options):
    audit = ta.audit(rule, **{**SMALL, **options})
    return {f.property for f in audit.findings if f.verdict == "fails"}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("rule", "seed"),
    [
        (MOSAIC, 0),
        (BEST_OF, 0),
        *(slow(rule, seed) for rule in (MOSAIC, BEST_OF) for seed in (1, 2, 3)),
        *(slow(ta.replies.mosaic(tau), 0) for tau in (0.1, 30.0)),
    ],
)
def test_clarke_pivots_hold_in_all(rule, seed):
    audit = ta.audit(rule, seed=seed, **SMALL)
    assert {f.property for f in audit.findings} == set(named.DEFINITIONS)
    for finding in audit.findings:
        # A temperature is money: its rewards are not scaled.
        unit = finding.property == named.SCALE and rule.name == "mosaic"
        assert finding.verdict == ("not checked" if unit else "holds")
        assert finding.holds_on == finding.instances
        assert finding.instances == 0 if unit else finding.instances > 100
        assert finding.counterexample is None
        assert finding.worst < 1e-3


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_a_single_winner_is_not_truthful(seed):
    audit = ta.audit(SINGLE_WINNER, seed=seed, **SMALL)
    found = {f.property for f in audit.findings if f.verdict == "fails"}
    assert {named.TRUTHFUL, named.RATIONAL} <= found
    assert not found & NEVER
    for name in found:
        finding = audit.finding(name)
        example = finding.counterexample
        again = eval(repr(example), {"ReplyCounterexample": ReplyCounterexample})
        assert again == example
        assert again.violation(SINGLE_WINNER) >= 0.05 * finding.worst
    lie = audit.finding(named.TRUTHFUL).counterexample
    assert (len(lie.rewards), len(lie.reports)) == (2, 1)
    assert len(lie.weights) <= 2
    assert lie.violation(BEST_OF) <= 1e-6
    assert lie.violation(MOSAIC) <= 1e-6


def test_report_is_plain_json():
    audit = ta.audit(BEST_OF, **SMALL)
    content = json.loads(json.dumps(audit.to_dict()))
    assert content["rule"] == "best_of"
    assert set(content["definitions"]) == set(named.DEFINITIONS)
    with pytest.raises(KeyError, match="truthfulness"):
        audit.finding("truth")
    assert ta.audit(BEST_OF, **SMALL).findings == audit.findings


DEFINED = {
    "mosaic": (
        MOSAIC,
        lambda r, w: reference.mosaic_law(r, w, 1),
        lambda r, w: reference.mosaic_expected(r, w, 1),
    ),
    "single_winner": (
        SINGLE_WINNER,
        lambda r, w: np.arange(w.size) == reference.single_winner(r)[0],
        lambda r, w: reference.single_winner(r)[1],
    ),
}


@pytest.mark.parametrize("name", DEFINED)
def test_gains_by_definition(name):
    """Truthfulness and individual rationality, in float64."""
    rule, law, pays = DEFINED[name]
    instances = random_reply_instances(5, 48, 3, 4)
    rules = ReplyRules(rule)
    margins = search.evaluate(named.reply_margins, rules, instances)
    climbed = search.evaluate(named.reply_incentive_margins, rules, instances)
    for number in range(48):
        one = jax.tree.map(lambda x, k=number: np.asarray(x)[k], instances)
        rewards, weights = one.rewards.astype(float), one.log_weights.astype(float)
        agent, sizes = one.agent, np.abs(rewards).max(1)

        def utility(report, rewards=rewards, weights=weights, agent=agent):
            reported = rewards.copy()
            reported[agent] = report
            chances = np.asarray(law(reported, weights), float)
            charged = float(np.asarray(pays(reported, weights), float)[agent])
            return chances @ rewards[agent], charged

        truth = utility(rewards[agent])

        def gain(worth, paid, truth=truth, sizes=sizes, agent=agent):
            terms = sizes[agent] + abs(paid) + abs(truth[1]) + 1e-3 * sizes.sum()
            return (worth - paid - truth[0] + truth[1]) / terms

        best = max(gain(*utility(report)) for report in one.reports.astype(float))
        alone = gain(utility(np.zeros(4))[0], 0.0)
        for found in (margins, climbed):
            assert found[named.TRUTHFUL][number] == pytest.approx(best, abs=1e-4)
            assert found[named.RATIONAL][number] == pytest.approx(alone, abs=1e-4)


@ta.record
class Changed:
    """Best of M, or MOSAIC, but for faults.

    Attributes:
      rule: What is right.
      expect: On all mean payments.
      realize: On all realized ones.
      favour: On what the first agent is taken to report.
      fee: In money, of everyone, always.
      mass: What chances add up to.
      flat: The temperature of the draws.
    """

    rule: Any
    expect: Any = 1.0
    realize: Any = 1.0
    favour: Any = 1.0
    fee: Any = 0.0
    mass: Any = 1.0
    flat: Any = 1.0
    name: ClassVar[str] = "changed"

    def _taken(self, rewards):
        return jnp.asarray(rewards).at[0].multiply(self.favour)

    def log_prob(self, rewards, log_weights):
        log_p = self.rule.log_prob(self._taken(rewards), log_weights)
        return log_p + jnp.log(self.mass)

    def sample(self, key, rewards, log_weights):
        log_p = self.rule.log_prob(self._taken(rewards), log_weights)
        return jax.random.categorical(key, log_p / self.flat)

    def expected(self, rewards, log_weights):
        pays = self.rule.expected(self._taken(rewards), log_weights)
        return self.expect * pays + self.fee

    def realized(self, rewards, log_weights, reply):
        pays = self.rule.realized(self._taken(rewards), log_weights, reply)
        return self.expect * self.realize * pays + self.fee


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({}, set()),
        ({"realize": 1.01}, {named.MEANS}),
        ({"favour": 1.1}, {named.TRUTHFUL, properties.ORDER}),
        ({"fee": 0.1}, {named.RATIONAL, named.SILENT, named.ALONE}),
        (
            {"fee": -0.1},
            {
                *(named.SILENT, named.ALONE),
                *(properties.NON_NEGATIVE, properties.SURPLUS),
            },
        ),
        ({"mass": 1.01}, {properties.WELL_FORMED}),
        ({"flat": 1.5}, {named.SAMPLE_LAW}),
        ({"expect": 0.5}, {named.TRUTHFUL}),
        ({"expect": 1.5}, {named.TRUTHFUL}),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_faults_are_found(fault, found):
    """One compiled program for all: their sizes are leaves."""
    told = failures(Changed(MOSAIC, **fault))
    assert found <= told
    if not fault or "flat" in fault or "realize" in fault:
        assert told == found


class Plain:
    """Best of M as an object that is no pytree, and that the subclasses spoil."""

    def log_prob(self, rewards, log_weights):
        return BEST_OF.log_prob(rewards, log_weights)

    def sample(self, key, rewards, log_weights):
        return BEST_OF.sample(key, rewards, log_weights)

    def expected(self, rewards, log_weights):
        return BEST_OF.expected(rewards, log_weights)

    def realized(self, rewards, log_weights, reply):
        return BEST_OF.realized(rewards, log_weights, reply)


class WrongShape(Plain):
    def expected(self, rewards, log_weights):
        return super().expected(rewards, log_weights).sum()


class Raises(Plain):
    def realized(self, rewards, log_weights, reply):
        raise RuntimeError("no such candidate")


class NoDraw(Plain):
    def sample(self, key, rewards, log_weights):
        return jnp.float32(0.0)


class NotTraceable(Plain):
    def log_prob(self, rewards, log_weights):
        return np.log(np.asarray(rewards)[0])


class NotANumber(Plain):
    def expected(self, rewards, log_weights):
        return jnp.where(rewards[:, 0] > 0, jnp.nan, 0.0)


class Beyond(Plain):
    def sample(self, key, rewards, log_weights):
        return jnp.asarray(rewards.shape[1])


class Impossible(Plain):
    def sample(self, key, rewards, log_weights):
        return jnp.argmin(rewards.sum(0))


def test_a_plain_object_is_audited():
    audit = ta.audit(Plain(), **SMALL)
    assert audit.rule == "Plain"
    assert audit.finding(named.SCALE).verdict == "not checked"
    assert {f.verdict for f in audit.findings} == {"holds", "not checked"}


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        (WrongShape(), r"expected returns float32\[\], not floating\[3\]"),
        (Raises(), "RuntimeError: no such candidate"),
        (NoDraw(), r"sample returns float32\[\], not integer\[\]"),
        (NotTraceable(), "TracerArrayConversionError"),
    ],
)
def test_a_rule_that_does_not_run_is_named(rule, note):
    (finding,) = ta.audit(rule, **SMALL).findings
    assert (finding.property, finding.verdict) == (properties.WELL_FORMED, "fails")
    assert len(finding.counterexample.rewards) == 3
    with pytest.raises(AssertionError, match=note):
        assert not finding.note


@pytest.mark.parametrize("rule", [NotANumber(), Beyond(), Impossible()])
def test_a_rule_that_is_not_well_formed_is_named(rule):
    finding = ta.audit(rule, **SMALL).finding(properties.WELL_FORMED)
    assert finding.verdict == "fails"
    assert finding.holds_on < finding.instances
    assert finding.counterexample.violation(rule) > 1


@pytest.mark.parametrize(
    ("rules", "arguments", "message"),
    [
        (
            [BEST_OF, ta.pay_your_bid()],
            {},
            "best_of is a rule on replies, .* give none",
        ),
        ([BEST_OF], {"sampler": print}, "give none"),
        ([BEST_OF], {"valuations": []}, "give none"),
        ([BEST_OF], {"num_candidates": 1}, "num_candidates must be an integer from 2"),
        ([BEST_OF], {"num_candidates": 2**20}, "numbers: ask for fewer"),
        ([BEST_OF], {"num_agents": 1}, "num_agents must be"),
        ([object()], {}, "aggregation must follow Aggregation"),
    ],
)
def test_bad_arguments(rules, arguments, message):
    with pytest.raises(ValueError, match=message):
        ta.audit(*rules, **arguments)
