"""`tokenauction audit`, also of rules that are defined in a file."""

import json
import re

import pytest
from command_line import refusal

from tokenauction_jax.cli.main import main

RULES = """
import tokenauction_jax as ta


@ta.record
class Doubled:
    name = "doubled"
    monotone = False

    def weights(self, bids):
        return ta.linear().weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(2.0).log_prob(bids, log_probs) + 0.5


@ta.record
class Cheap:
    name = "cheap"

    def log_prob(self, rewards, log_weights):
        return ta.replies.best_of().log_prob(rewards, log_weights)

    def sample(self, key, rewards, log_weights):
        return ta.replies.best_of().sample(key, rewards, log_weights)

    def expected(self, rewards, log_weights):
        return ta.replies.best_of().expected(rewards, log_weights) / 2

    def realized(self, rewards, log_weights, reply):
        return self.expected(rewards, log_weights)


@ta.record
class Broken(Cheap):
    def expected(self, rewards, log_weights):
        raise RuntimeError("no such price")


def free(aggregation):
    return ta.myerson(aggregation, ta.total_variation())


number = 3
"""


@pytest.fixture
def rules(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text(RULES)
    return file


def test_audit_of_a_rule_of_ones_own(capsys, rules, tmp_path):
    out = tmp_path / "audit.json"
    small = ["--num-instances", "64", "--vocab-size", "3", "--out", str(out)]
    main(["audit", f"{rules}:Doubled", "--payment", "pay_your_bid", *small])
    printed = capsys.readouterr().out
    assert "doubled: 64 random auctions of 3 agents and 3 tokens" in printed
    assert "payment pay_your_bid" in printed
    assert "Counterexample(property='well formed'" in printed
    (audit,) = json.loads(out.read_text())
    first = audit["findings"][0]
    assert (first["property"], first["verdict"]) == ("well formed", "fails")
    assert "monotone aggregation" in audit["definitions"]


def test_audit_of_rules_on_replies(capsys, rules, tmp_path):
    out = tmp_path / "audit.json"
    small = ["--num-instances", "64", "--num-candidates", "3", "--out", str(out)]
    main(["audit", f"{rules}:Cheap", "best_of", *small])
    printed = capsys.readouterr().out
    assert "cheap: 64 random auctions of 3 agents and 3 candidates" in printed
    assert "the rule" in printed
    assert "ReplyCounterexample(property='truthfulness'" in printed
    cheap, best = json.loads(out.read_text())
    verdicts = {f["property"]: f["verdict"] for f in cheap["findings"]}
    assert verdicts["truthfulness"] == "fails"
    assert verdicts["individual rationality"] == "holds"
    assert {f["verdict"] for f in best["findings"]} == {"holds"}
    assert (best["rule"], best["num_candidates"]) == ("best_of", 3)
    assert "utility" not in best["definitions"]["well formed"]


def test_gains_of_misreported_distributions(capsys, rules, tmp_path):
    """Of given rules, and by default of all mechanisms that there are."""
    out = tmp_path / "gains.json"
    small = ["--num-instances", "64", "--vocab-size", "3"]
    given = ["linear", "best_of", f"{rules}:Cheap", "--payment"]
    assert "its own payments" in refusal(
        capsys, "audit", "--distributions", *given, "clarke"
    )
    main(["audit", "--distributions", *small, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "relative to what is at stake" in printed
    rows = json.loads(out.read_text())
    told = {(row["rule"], row["payment"], row["valuation"]) for row in rows}
    assert len(rows) == len(told) == 4 * 3 + 3
    gaining = {row["rule"]: row["gaining"] for row in rows if row["payment"] is None}
    assert gaining["mosaic(tau=1)"] == gaining["best_of"] == 0
    assert gaining["single_winner"] > 0
    assert re.search(r"linear \+ second_price +total_variation +\d+%", printed)
    assert re.search(r"best_of +0% +0 +0\s", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["linaer"], r"'linaer' is not a rule \(.* did you mean 'linear'"),
        (["best_off"], r"is not a rule \(linear.*did you mean 'best_of'"),
        (["best_of(1)"], "is not a rule on replies"),
        (["best_of", "--payment", "clarke"], "its own payments: leave out --payment"),
        (["best_of", "--influence", "2"], "takes no influence"),
        (["mosaic", "--num-candidates", "1"], "num_candidates must be an integer from"),
        (["--distributions", "RULES:Broken"], "cheap: RuntimeError: no such price"),
        (["--distributions", "--num-agents", "1"], "num_agents must be an integer"),
        (["power_mean"], "needs its order, as in power_mean"),
        (["power_mean(x)"], "could not convert"),
        (["linear", "--payment", "first_price"], "is not a payment"),
        (["log_linear", "--payment", "second_price"], "needs a monotone aggregation"),
        (["linear", "--influence", "-1"], "influence: input should be greater"),
        (["linear", "--num-agents", "1"], "num_agents must be an integer from 2 to 64"),
        (["linear", "--bid-ratio", "0.5"], "bid_ratio must be from 1 to 1e.50"),
        (["RULES:number"], r"is not an Aggregation \(log_prob, monotone"),
        (["RULES:missing"], "AttributeError"),
        (["nowhere.py:rule"], "FileNotFoundError"),
        (["linear", "--payment", "RULES:Doubled"], "called with"),
        (["linear", "--out", "/nowhere/audit.json"], "is not a folder"),
    ],
)
def test_bad_arguments_of_the_audit(capsys, rules, arguments, message):
    arguments = [word.replace("RULES", str(rules)) for word in arguments]
    assert re.search(message, refusal(capsys, "audit", *arguments))
