"""A scenario whose agents are tables, for tests of what is done with its results."""

import numpy as np

import tokenauction_jax as ta
from tokenauction_jax.scenarios import runner
from tokenauction_jax.scenarios.scenario import validate_scenario

TABLE = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
END = 3


def scenario(**changes):
    agents = [
        {"name": "A", "prompt": "a", "bid": 1.0, "value": 2.0},
        {"name": "B", "prompt": "b", "bid": 3.0},
    ]
    content = {"query": "q", "agents": agents, "num_auctions": 40, "num_tokens": 6}
    return validate_scenario(content | changes)


def pool(table=TABLE):
    with np.errstate(divide="ignore"):
        return ta.agents.tabular(np.log(table), end_token=END)


def cells(chosen, shares=None, table=TABLE):
    return list(runner.run_scenario(chosen, pool(table), shares))
