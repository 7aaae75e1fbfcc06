import doctest
import importlib

import jax
import pytest

MODULES = (
    *("agents.tabular", "mechanism.aggregation", "mechanism.incentives"),
    *("mechanism.stable", "simulation.rollout", "testing", "testing.fakes"),
    *("testing.policies", "testing.rules", "outside"),
    *("bidding.gradients", "bidding.enumeration", "bidding.objectives"),
    *("bidding.responses", "bidding.equilibrium", "bidding.mentions"),
    *("bidding.anarchy", "replies.rules", "replies.candidates"),
    *("plots.audits", "plots.bids", "plots.results", "plots.sweeps"),
    *("plots.texts", "plots.tokens"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"tokenauction_jax.{name}")
    with jax.numpy_rank_promotion("allow"):
        results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
