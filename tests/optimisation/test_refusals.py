"""What a file may have wrong, in one line that says where and what to do."""

import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.optimisation import OptimisationError, reading

GOOD = {
    "agents": {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4},
    "values": {"kind": "fixed", "amounts": [2.0, 1.0]},
    "num_tokens": 2,
    "num_auctions": 8,
}
PACING = {"kind": "pacing", "budgets": 1.0}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"goal": {"kind": "equlibrium"}}, "goal.kind: unknown kind 'equlibrium', did"),
        ({"goal": {"num_step": 3}}, "goal.num_step: unknown key, did you mean 'num_st"),
        ({"goal": {"tolerance": 0.0}}, r"goal.tolerance: .* greater than or equal"),
        ({"goal": {"num_steps": 0}}, r"goal.num_steps: .* greater than or equal to 1"),
        ({"goal": {"num_steps": True}}, "goal.num_steps: .* valid integer"),
        ({"goal": {"optimizer": "adams"}}, "no 'adams' here, did you mean 'adam'"),
        (
            {"goal": {"optimizer": "adam", "dynamics": "averaged"}},
            "goal.dynamics: an optimizer moves all at once",
        ),
        (
            {"goal": {"kind": "best_response", "agent": 2}},
            "is no agent 2, only 2",
        ),
        ({"goal": {"kind": "pacing"}}, "goal.budgets: field required"),
        ({"goal": {**PACING, "budgets": -1.0}}, "goal.budgets: .* or equal to 0"),
        ({"goal": {**PACING, "budgets": np.inf}}, "goal.budgets: .* finite number"),
        ({"goal": {**PACING, "budgets": 0.0}}, "goal.budgets: 0 buys nothing"),
        ({"goal": {**PACING, "budgets": [1.0]}}, "1 numbers, expected one or 2"),
        ({"goal": {**PACING, "agents": [3]}}, "goal.agents: there is no agent 3"),
        ({"goal": PACING, "objective": "mentions"}, "pacing is for utility"),
        ({"objective": "mentions"}, "only language models mention anyone"),
        ({"known": {"bids": [1.0]}}, "known.bids: 1 numbers, expected 2"),
        (
            {"agents": {"kind": "dirichlet", "num_agents": 1}, "values": [1.0]},
            "nobody to",
        ),
        ({"valuation": "kl"}, "valuation: no 'kl' here"),
        ({"factors": {"seed": [1, 2]}}, "factors: unknown key"),
        ({"num_auctions": 0}, "num_auctions: .* greater than or equal to 1"),
        ({"values": {"kind": "fixed", "amounts": [1.0]}}, "values.amounts: 1 numbers"),
    ],
)
def test_contents(change, match):
    with pytest.raises(OptimisationError, match=match) as caught:
        reading.validate(GOOD | change)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500


def test_everything_at_once_with_lines(tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text('num_token = 3\n[goal]\nkind = "equilibrium"\ntolerance = -1.0\n')
    with pytest.raises(OptimisationError) as caught:
        reading.read(file)
    line = str(caught.value)
    assert "line 1: num_token: unknown key, did you mean 'num_tokens'?" in line
    assert "line 4: goal.tolerance:" in line


def test_files():
    with pytest.raises(OptimisationError, match="no file 'contst': did you mean 'con"):
        reading.read("contst")


def test_names_of_pools_with_a_reference():
    pool = ta.agents.dirichlet(3, 4, 1.0)
    agents = {"kind": "pool", "pool": pool, "names": ["a", "b"]}
    with pytest.raises(OptimisationError, match="a reference has no use here"):
        reading.validate(GOOD | {"agents": agents})


def test_values_without_a_factor():
    values = np.ones((8, 2))
    values[3, 1] = 0
    with pytest.raises(OptimisationError, match="values: 0 has no factor"):
        ta.optimisation.run(GOOD | {"values": values})


@pytest.mark.slow
def test_rewards_that_are_not_finite():
    """What comes up while it runs ends in one line, too."""

    @ta.record
    class Odd:
        name = "odd"

        def value(self, log_q, log_p):
            return log_q.sum() * np.nan + log_p.sum()

    with pytest.raises(OptimisationError, match="payoffs are NaN"):
        ta.optimisation.run(GOOD | {"valuation": Odd()})
