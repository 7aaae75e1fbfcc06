"""Rules by name: one table for commands, scenarios and studies."""

import pytest

import tokenauction_jax as ta
from tokenauction_jax.scenarios import names
from tokenauction_jax.scenarios.rules import Rule
from tokenauction_jax.scenarios.scenario import validate_scenario
from tokenauction_jax.studies.reading import validate_study


def test_names_are_those_of_the_objects():
    for name in names.AGGREGATIONS:
        rule = names.aggregation(name)
        assert name.startswith(rule.name)
        for payment in names.payments_of(rule):
            assert payment.startswith(names.payment(payment, rule).name)
    for name in names.VALUATIONS:
        assert names.valuation(name).name == name


@pytest.mark.parametrize(
    ("rule", "payments"),
    [
        (ta.linear(), ("pay_your_bid", "second_price", "clarke")),
        (ta.linear(2.0), ("pay_your_bid", "second_price")),
        (ta.log_linear(), ("pay_your_bid", "clarke")),
        (ta.power_mean(0.5), ("pay_your_bid",)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_payments_that_a_rule_has(rule, payments):
    found = names.payments_of(rule)
    assert tuple(x for x in found if "myerson" not in x) == payments
    assert sum("myerson" in x for x in found) == 3


def test_a_new_rule_is_one_row_for_all(monkeypatch):
    """Commands, scenarios and studies take it by its name alone."""
    row = names._Aggregation(ta.power_mean, "pay_your_bid", "order", "2.0")
    table = {**names._AGGREGATIONS, "hyper": row}
    monkeypatch.setattr(names, "_AGGREGATIONS", table)
    monkeypatch.setattr(names, "AGGREGATIONS", (*names.AGGREGATIONS, "hyper(2.0)"))
    assert names.aggregation("hyper(3)").order == 3
    agents = [{"name": "A", "prompt": "a"}]
    rules = {"rules": ["hyper(3)", {"aggregation": "hyper", "order": 4.0}]}
    chosen = validate_scenario({"query": "q", "agents": agents} | rules)
    assert [x.build().aggregation.order for x in chosen.rules] == [3, 4]
    study = validate_study({"factors": {"rule": ["hyper(3)", "linear"]}})
    mechanism = study.cells()[0].setting.rule.build()
    assert (mechanism.aggregation.order, mechanism.payment.name) == (3, "pay_your_bid")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("linear(2)"), "is not an aggregation"),
        (Rule("linear", order=1.0), "takes no order, only power_mean do"),
        (Rule("power_mean"), "needs its order, as in power_mean"),
        (Rule("power_mean(x)"), "could not convert"),
        (Rule("power_mean(0.5)"), "no default payment"),
        (Rule("linear", "myerson(total)"), "is not a valuation"),
        (Rule(ta.linear(), ta.pay_your_bid(), influence=2.0), "sets its own numbers"),
        (Rule(ta.linear(2.0), ta.second_price(ta.linear())), "build both from one"),
    ],
    ids=lambda x: x.name if isinstance(x, Rule) else "",
)
def test_rules_that_make_no_sense(rule, message):
    with pytest.raises(names.RuleError, match=message):
        rule.build()


OWN = """
import jax.numpy as jnp
import tokenauction_jax as ta


@ta.record
class Free:
    tau: float = 1.0

    def log_prob(self, rewards, log_weights):
        return ta.replies.mosaic(self.tau).log_prob(rewards, log_weights)

    def sample(self, key, rewards, log_weights):
        return ta.replies.mosaic(self.tau).sample(key, rewards, log_weights)

    def expected(self, rewards, log_weights):
        return jnp.zeros(len(rewards))

    def realized(self, rewards, log_weights, reply):
        return jnp.zeros(len(rewards))


def best():
    return ta.replies.best_of()


blend = ta.linear()
number = 3
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def test_rules_on_replies(own):
    for name in names.REPLY_RULES:
        assert names.is_reply_rule(name)
        assert isinstance(names.reply_rule(name), ta.replies.ReplyMechanism)
    assert names.reply_rule("mosaic").tau == 1
    assert names.rule(" mosaic(2.5) ").tau == 2.5
    assert names.rule(f"{own}:Free").tau == 1
    assert names.reply_rule(f"{own}:best").name == "best_of"
    assert names.rule("power_mean(0.5)", 2.0).influence == 2
    assert names.rule(f"{own}:blend").name == "linear"
    for name in ("linear", "mosiac", f"{own}:blend", f"{own}:number"):
        assert not names.is_reply_rule(name)


@pytest.mark.parametrize(
    ("name", "influence", "message"),
    [
        ("mosiac", 1, r"not a rule \(linear.*best_of.*did you mean 'mosaic\(1\)'"),
        ("best_of(2)", 1, "not a rule on replies"),
        ("mosaic(x)", 1, "could not convert"),
        ("mosaic(0)", 1, "tau: input should be greater than or equal to 1e-30"),
        ("mosaic(nan)", 1, "tau: "),
        ("single_winner", 2, "takes no influence"),
        ("OWN:Free", 2, "takes no influence"),
        ("OWN:number", 1, r"nor a ReplyMechanism \(expected, log_prob, realized"),
        ("OWN:missing", 1, "AttributeError"),
    ],
)
def test_rules_that_are_none(own, name, influence, message):
    with pytest.raises(names.RuleError, match=message):
        names.rule(name.replace("OWN", str(own)), influence)
