"""At every bound of a number auctions are defined, and their measures finite."""

import pytest

import tokenauction_jax as ta
from tokenauction_jax.studies.reading import validate_study

pytestmark = pytest.mark.usefixtures("one_device")

BASE = {"num_auctions": 32, "num_tokens": 2, "keep_auctions": 0}
DIRICHLET = {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4}
FIXED = {"kind": "fixed", "amounts": [1.0, 1.0]}
EXTREMES = {
    "agents": [
        *({"kind": "dirichlet", "concentration": x} for x in (1e-4, 1e6)),
        *({"kind": "zipf", "exponent": x} for x in (0.0, 100.0)),
        *({"kind": "markov", "concentration": x} for x in (1e-4, 1e6)),
        *({"kind": "table", "probs": [[x, 1 - x], [0.5, 0.5]]} for x in (0.0, 1e-30)),
    ],
    "values": [
        *({"kind": "fixed", "amounts": x} for x in (1e-30, 1e30, [1e-30, 1e30])),
        *({"kind": "share", "share": x} for x in (0.0, 1e-30, 1.0)),
        *({"kind": "uniform", "low": 0.0, "high": x} for x in (1e-27, 1e30)),
        *({"kind": "log_normal", "sigma": x} for x in (0.0, 7.0)),
        *({"kind": "gamma", "shape": x} for x in (0.1, 1e6)),
    ],
    "bids": [
        *({"kind": "shaded", "factor": x} for x in (1e-3, 1e3)),
        *({"kind": "capped", "cap": x} for x in (1e-30, 1e30)),
        *({"kind": "fixed", "amounts": x} for x in (1e-30, 1e30, [1e-30, 1e30])),
        *({"kind": "weight", "weight": x, "amounts": [1.0, 1.0]} for x in (0.0, 1.0)),
        {"kind": "weight", "weight": 1e-25, "amounts": [1.0, 1.0]},
    ],
    "sampling": [
        *({"temperature": x} for x in (1e-6, 1e6)),
        *({name: x} for name in ("top_p", "min_p") for x in (1e-30, 1.0)),
        *({"top_k": x} for x in (1, 2**31 - 1)),
    ],
    "rule": [
        *({"mechanism": "mosaic", "tau": x, "num_replies": 2} for x in (1e-30, 1e30)),
        *({"mechanism": "segment", "relevance": x} for x in (1e-28, 1e28)),
        *({"aggregation": "linear", "influence": x} for x in (1e-3, 1e3)),
        *(
            {"aggregation": "power_mean", "order": x, "payment": "pay_your_bid"}
            for x in (-1e3, -1e-30, 0.0, 1e-30, 1e3)
        ),
    ],
    "seed": [2**32 - 1],
}


# Those that compile for more than 20 seconds are slow.
SLOW = {"sampling", "agents"}
NAMES = [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in EXTREMES]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", NAMES)
def test_auctions_at_the_bounds_are_defined(name):
    for value in EXTREMES[name]:
        content = BASE | {"agents": DIRICHLET, "values": FIXED, name: value}
        if name == "agents":
            sizes = {} if value["kind"] == "table" else DIRICHLET
            content[name] = sizes | value
        found = ta.studies.run(validate_study(content))
        assert not found.statistics.undefined.any(), value
        assert (found.summary[["n", "infinite", "nan"]].sum(axis=1) == 32).all(), value
