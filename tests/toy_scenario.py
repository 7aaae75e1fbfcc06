"""A scenario whose agents are tables, for tests of what is done with its results."""

import numpy as np

import tokenauction_jax as ta
from tokenauction_jax.scenarios.population import Cast
from tokenauction_jax.scenarios.scenario import validate_scenario
from tokenauction_jax.studies import sweep

TABLE = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
END = 3


class Letters:
    """A tokenizer of four tokens, the last of which ends a text."""

    end_tokens = (END,)

    def pieces(self, tokens):
        return ["Ab $"[token] for token in tokens]

    def decode(self, tokens):
        return "".join(self.pieces(tokens))


def scenario(**changes):
    agents = [
        {"name": "A", "prompt": "a", "bid": 1.0, "value": 2.0},
        {"name": "B", "prompt": "b", "bid": 3.0},
    ]
    content = {"query": "q", "agents": agents, "num_auctions": 40, "num_tokens": 6}
    return validate_scenario(content | changes)


def run(chosen, shares=None, table=TABLE, listen=None):
    """The runs and the results of a sweep of tables."""
    with np.errstate(divide="ignore"):
        pool = ta.agents.tabular(np.log(table), end_token=END)
    cast = Cast(pool, Letters(), chosen.mentions)
    return sweep.run_sweep(chosen, cast, shares, listen)
