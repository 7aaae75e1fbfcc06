"""Files whose answers are known, and those of objects."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.optimisation import reading

KNOWN = sorted(pathlib.Path(__file__).parents[2].glob("docs/known_answers/*.toml"))


def test_known_answers_are_there():
    assert len(KNOWN) >= 8
    assert set(reading.builtin_optimisations()) == {"airline", "contest"}
    for name in reading.builtin_optimisations():
        assert reading.read(name).description


def test_contest():
    found = ta.optimisation.run("contest")
    assert found.converged
    assert found.as_known
    np.testing.assert_allclose(found.bids, [4 / 9, 2 / 9], rtol=1e-5)
    np.testing.assert_allclose(found.answers["payoff"], [-10 / 9, -8 / 9], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", KNOWN, ids=lambda file: file.stem)
def test_known_answers(file):
    found = ta.optimisation.run(file)
    assert found.as_known
    assert found.converged


@ta.record
class Half:
    """Pays half of what it bids."""

    name = "half"

    def expected(self, bids, log_probs):
        del log_probs
        return 0.5 * jnp.asarray(bids)

    def conditional(self, bids, log_probs, token):
        del token
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        del key, token
        return self.expected(bids, log_probs)


def test_objects_of_ones_own():
    """Whoever pays half of its bid bids twice as much."""
    pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    found = ta.optimisation.run(
        ta.optimisation.Optimisation(
            agents=pool,
            values=[2.0, 1.0],
            rule=ta.Mechanism(ta.linear(), Half()),
            num_tokens=1,
            num_auctions=1,
        )
    )
    np.testing.assert_allclose(found.bids, [8 / 9, 4 / 9], rtol=1e-4)


def test_it_is_what_the_functions_find():
    """The best response of the file is that of `bidding.best_response`."""
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    pool = ta.agents.markov(jax.random.key(3), 2, 3, 0.5)
    game = {"values": [2.0, 1.0], "num_tokens": 3, "num_auctions": 50}
    found = ta.optimisation.run(
        {
            "agents": pool,
            "rule": mechanism,
            "goal": {"kind": "best_response", "agent": 1},
            "seed": 7,
            **game,
        }
    )
    other = ta.bidding.best_response(
        *(jax.random.key(7), mechanism, pool, game["values"], 1),
        valuation=ta.total_variation(),
        **game,
    )
    np.testing.assert_allclose(found.answers["bid"], [other.bid], rtol=1e-6)
    np.testing.assert_allclose(found.answers["gain"], [other.gain], atol=1e-6)
    np.testing.assert_allclose(found.answers["gain_error"], [other.gain_error], 1e-4)
    tried = found.estimates.query("stage == 'search'").sort_values("bid")
    np.testing.assert_allclose(tried["mean"], other.payoffs, rtol=1e-5)


def test_pacing_spends_what_the_multipliers_say():
    """Whoever pays its bid spends `m w` a token."""
    found = ta.optimisation.run(
        {
            "agents": {"kind": "dirichlet", "num_agents": 3, "vocab_size": 4},
            "values": [2.0, 1.0, 1.0],
            "rule": {"aggregation": "linear", "payment": "pay_your_bid"},
            "num_tokens": 16,
            "num_auctions": 40,
            "goal": {"kind": "pacing", "budgets": [4.0, 50.0], "agents": [0, 1]},
        }
    )
    assert found.converged
    np.testing.assert_allclose(found.bids, [4 / 32, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(found.answers["spend"], [4, 16, 16], rtol=1e-5)
    texts = found.estimates.query("quantity == 'spent' and agent == 0")
    for stage, own in texts.groupby("stage"):
        spent = own.sort_values("position")["mean"].to_numpy()
        assert (np.diff(spent) >= 0).all(), stage
        assert spent[-1] <= 4 + 1e-5
        # Paid for every token in full until the budget is gone.
        if stage == "unpaced":
            due = np.minimum(2.0 * np.arange(1, 17), 4.0)
            np.testing.assert_allclose(spent, due, rtol=1e-5)
        if stage == "paced":
            np.testing.assert_allclose(spent, np.arange(1, 17) / 4, rtol=1e-5)


@pytest.mark.slow
def test_pacing_of_factors():
    """Drawn values: one multiplier for all of an agent's values."""
    content = {
        "agents": {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4},
        "values": {"kind": "log_normal"},
        "rule": {"aggregation": "linear", "payment": "pay_your_bid"},
        "num_tokens": 8,
        "num_auctions": 400,
        "goal": {"kind": "pacing", "budgets": 3.0, "agents": [0], "tolerance": 0.1},
    }
    found = ta.optimisation.run(content)
    chosen = reading.validate(content)
    values, _ = chosen.population.draw(0, 400)
    # The same values are drawn for search and measurement; only draws differ.
    np.testing.assert_allclose(found.bids[0], 3 / (8 * values[:, 0].mean()), rtol=1e-5)
    assert found.bids[1] == 1
