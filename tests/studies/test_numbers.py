"""What becomes of numbers that are none, and in which precision a study runs."""

import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta


def test_nans_of_a_valuation_of_ones_own_are_not_hidden():
    @ta.record
    class Broken:
        name = "broken"

        def value(self, log_q, log_p):
            return jnp.where(log_q[0] > log_p[0], jnp.nan, -1.0)

    agents = ta.agents.dirichlet(2, 4, 1.0)
    study = ta.studies.Study(
        agents=agents, values=[1.0, 2.0], num_tokens=1, num_auctions=64,
        valuation=Broken(),
    )  # fmt: skip
    found = ta.studies.run(study).summary.query("valuation == 'broken'")
    welfare = found.query("measure == 'welfare'").iloc[0]
    assert welfare["nan"] == 64
    assert welfare["n"] == welfare["infinite"] == 0
    utility = found.query("measure == 'utility'")
    assert utility["nan"].sum() == 64  # Each token has one agent that wanted less.


@pytest.mark.sweep(1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "agents",
    [
        {"kind": "table", "probs": [[0.9, 0.1], [0.2, 0.8]]},
        {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4},
    ],
    ids=["table", "dirichlet"],
)
def test_in_double_precision_a_study_is_so_throughout(agents):
    """Also where a `with` says so, which holds for the thread that runs the study."""
    study = ta.studies.Study(
        agents=agents,
        values={"kind": "log_normal"},
        num_tokens=2,
        num_auctions=16,
        factors={"rule": ["log_linear"]},
    )
    auctions = ta.studies.run(study).auctions
    assert auctions is not None
    for name in ("values", "bids", "attribution"):
        assert np.stack(auctions[name].iloc[0]).dtype == np.float64, name
    numbers = auctions[[name for name in auctions.columns if "/" in name]]
    assert set(numbers.dtypes) == {np.dtype(np.float64)}
    # More digits than float32 has, in what is measured and what it is measured of.
    for found in (numbers["welfare/total_variation"], np.stack(auctions["values"])):
        assert (np.asarray(found) != np.asarray(found, np.float32)).any()
    assert (numbers["optimum_shortfall/reverse_kl"] == 0).all()
