import numpy as np
import pytest

from tokenauction_jax.scenarios.scenario import (
    ScenarioError,
    builtin_scenarios,
    read_scenario,
    shifted_bids,
    validate_scenario,
)

AGENTS = [{"name": "A", "prompt": "{query} a"}, {"name": "B", "prompt": "{query} b"}]


def scenario(**changes):
    return {"query": "Where to?", "agents": AGENTS} | changes


def test_built_in_scenarios_are_valid():
    assert set(builtin_scenarios()) == {"hawaii", "rivals"}
    for name in builtin_scenarios():
        read = read_scenario(name)
        assert len(read.agents) == 2
        assert all(agent.sampling.top_k == 50 for agent in read.agents)
        assert all(agent.sampling.top_p is None for agent in read.agents)


def test_defaults_follow_the_design():
    read = validate_scenario(scenario())
    rules = [rule.build() for rule in read.rules]
    assert [rule.aggregation.name for rule in rules] == ["linear", "log_linear"]
    assert [rule.payment.name for rule in rules] == ["second_price", "clarke"]
    assert read.valuation == "total_variation"


def test_value_defaults_to_the_bid():
    agents = [AGENTS[0] | {"bid": 2.0}, AGENTS[1] | {"bid": 3.0, "value": 0.5}]
    assert validate_scenario(scenario(agents=agents)).values.tolist() == [2.0, 0.5]


def test_rules_take_numbers():
    rules = [
        "linear",
        {"aggregation": "power_mean", "order": 0.5, "payment": "pay_your_bid"},
        {"aggregation": "linear", "influence": 2.0},
    ]
    read = validate_scenario(scenario(rules=rules))
    names = [rule.name for rule in read.rules]
    assert names == ["linear", "power_mean(0.5)", "linear(influence=2)"]
    assert read.rules[2].build().payment.aggregation.influence == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qery": "x"}, r"qery: unknown key, did you mean 'query'\?"),
        (
            {"agents": [{"name": "A", "promt": "a", "prompt": "b"}]},
            r"agents\[0\].promt: unknown key, did you mean 'prompt'\?",
        ),
        (
            {"agents": [AGENTS[0] | {"sampling": {"topk": 3}}]},
            r"agents\[0\].sampling.topk: unknown key, did you mean 'top_k'\?",
        ),
        (
            {"rules": [{"aggregation": "linear", "zzz": 1}]},
            r"rules\[0\].zzz: unknown key, keys are aggregation, payment, order",
        ),
        ({"num_tokens": 0}, "num_tokens: .*greater than or equal to 1"),
        ({"num_tokens": "many"}, "num_tokens: .*integer"),
        ({"agents": []}, "agents: .*at least 1"),
        ({"agents": [AGENTS[0] | {"bid": -1}]}, r"agents\[0\].bid: .*equal to 0"),
        ({"agents": [AGENTS[0] | {"bid": float("nan")}]}, r"agents\[0\].bid: .*finite"),
        ({"agents": [AGENTS[0] | {"bid": 0}]}, "bids must not all be zero"),
        ({"agents": [AGENTS[0], AGENTS[0]]}, "different names"),
        (
            {"rules": ["quadratic"]},
            r"rules\[0\].aggregation: no 'quadratic' here, choices are linear",
        ),
        ({"rules": ["power_mean"]}, "'power_mean' needs its order, as in"),
        (
            {"rules": [{"aggregation": "power_mean", "order": 0.5}]},
            "no default payment",
        ),
        (
            {"rules": [{"aggregation": "log_linear", "payment": "second_price"}]},
            "needs a monotone aggregation",
        ),
        (
            {"rules": [{"aggregation": "log_linear", "influence": 2}]},
            "clarke needs influence 1",
        ),
    ],
)
def test_wrong_scenarios_say_what_to_change(changes, message):
    with pytest.raises(ScenarioError, match=message):
        validate_scenario(scenario(**changes))


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(ScenarioError, match=r"num_tokens.*seed.*colour"):
        validate_scenario(scenario(num_tokens=-1, seed=-2, colour="red"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ScenarioError, match=r"no scenario 'nowhere'.*hawaii, rivals"):
        read_scenario("nowhere")
    broken = tmp_path / "broken.toml"
    broken.write_text("query = 1 2")
    with pytest.raises(ScenarioError, match=r"cannot read .*line 1"):
        read_scenario(str(broken))
    broken.write_bytes(b"query = '\xff'")
    with pytest.raises(ScenarioError, match="cannot read"):
        read_scenario(str(broken))
    with pytest.raises(ScenarioError, match="cannot read"):
        read_scenario(str(tmp_path))


@pytest.mark.parametrize("influence", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_shifted_bids(share, influence):
    bids = np.array([1.0, 2.0, 6.0])
    shifted = shifted_bids(bids, share, influence)
    powers = shifted**influence
    np.testing.assert_allclose(powers[0] / powers.sum(), share, atol=1e-12)
    np.testing.assert_allclose(shifted.sum(), bids.sum())
    np.testing.assert_allclose(3 * shifted[1], shifted[2], atol=1e-12)


def test_shifted_bids_of_silent_others_are_equal():
    np.testing.assert_allclose(
        shifted_bids(np.array([3.0, 0, 0]), 0.5), [1.5, 0.75, 0.75]
    )
    with pytest.raises(ScenarioError, match="at least two agents"):
        shifted_bids(np.array([1.0]), 0.5)
