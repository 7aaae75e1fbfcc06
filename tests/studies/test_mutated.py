"""Configurations that make no sense: refused in one line, before time is spent."""

import time

import mutations
import pytest

from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.scenario import ScenarioError, validate_scenario
from tokenauction_jax.studies.config import StudyError
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.reading import validate_study

# Seconds that no configuration may take, on a busy machine.
_SOON = 5.0

SCENARIO = {
    "query": "q",
    "description": "d",
    "model": "m",
    "rules": [
        {"aggregation": "linear", "payment": "clarke", "influence": 1.0},
        {"aggregation": "power_mean", "order": 0.5, "payment": "pay_your_bid"},
        "log_linear",
    ],
    "valuation": "forward_kl",
    "num_auctions": 3,
    "num_tokens": 4,
    "seed": 1,
    "agents": [
        {
            "name": "A",
            "prompt": "p",
            "bid": 1.0,
            "value": 2.0,
            "model": "m",
            "adapter": "a",
            "mentions": ["A", "B"],
            "sampling": {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1},
        },
        {"name": "B", "prompt": "p"},
    ],
}
COMMON = {
    "name": "x",
    "description": "d",
    "num_auctions": 100,
    "num_tokens": 4,
    "valuation": "forward_kl",
    "reference": "mean",
    "keep_auctions": 3,
    "seed": 1,
    "rule": {"aggregation": "linear", "influence": 2.0, "payment": "second_price"},
    "sampling": {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1},
    "stop": {"half_width": 0.1, "measure": "welfare", "agent": 0},
}
AGENTS = [
    {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4, "concentration": 0.5},
    {"kind": "zipf", "num_agents": 2, "vocab_size": 4, "exponent": 1.0},
    {
        "kind": "markov",
        "num_agents": 2,
        "vocab_size": 4,
        "concentration": 0.5,
        "table_seed": 3,
    },
    {"kind": "table", "probs": [[0.5, 0.5], [0.1, 0.9]]},
    {"kind": "scenario", "scenario": "hawaii", "model": "m", "reference_prompt": "p"},
]
VALUES = [
    {"kind": "fixed", "amounts": [1.0, 2.0]},
    {"kind": "share", "share": 0.3, "total": 2.0},
    {"kind": "uniform", "low": 0.1, "high": 2.0, "correlation": 0.5},
    {"kind": "log_normal", "median": 1.0, "sigma": 0.5, "correlation": 0.5},
    {"kind": "gamma", "mean": 1.0, "shape": 2.0, "correlation": 0.5},
]
BIDS = [
    {"kind": "truthful"},
    {"kind": "shaded", "factor": 0.5, "agents": [0]},
    {"kind": "fixed", "amounts": [1.0, 2.0]},
    {"kind": "weight", "weight": 0.3, "amounts": [1.0, 2.0]},
    {"kind": "fixed", "amounts": 1.0},
]
FACTORS = {
    "values.correlation": [0.0, 0.5],
    "rule": ["linear", {"influence": 3.0}],
    "bids": [{"kind": "truthful"}, {"kind": "shaded"}],
    "seed": [1, 2],
}
STUDIES = [
    COMMON | {"agents": agents, "values": values, "bids": bids}
    for agents, values, bids in zip(AGENTS, VALUES, BIDS, strict=True)
]
STUDIES.append({"num_auctions": 9, "factors": FACTORS})


def check_refusal(message):
    assert message
    assert len(message) < 500
    assert message.isprintable()


def each_mutation(content):
    for place in mutations.places(content):
        for value in mutations.VALUES:
            yield place, value, mutations.with_value(content, place, value)


def test_every_value_of_a_scenario_may_be_anything():
    assert validate_scenario(SCENARIO)
    for place, value, content in each_mutation(SCENARIO):
        start = time.perf_counter()
        try:
            validate_scenario(content)
        except ScenarioError as error:
            check_refusal(str(error))
        assert time.perf_counter() - start < _SOON, (place, value)


@pytest.mark.parametrize("content", STUDIES, ids=range(len(STUDIES)))
def test_every_value_of_a_study_may_be_anything(content):
    assert validate_study(content)
    for place, value, changed in each_mutation(content):
        start = time.perf_counter()
        try:
            study = validate_study(changed)
        except StudyError as error:
            check_refusal(str(error))
        else:
            if study.cells()[0].setting.has_texts:
                continue
            # What is not refused has plans, bids and values in float32's range.
            population_ = population.build([x.setting for x in study.cells()[:1]])
            make_plan(study, population_)
            for amounts in population_[0].draw(0, 4):
                assert (amounts[amounts != 0] >= 1e-31).all(), (place, value)
                assert (amounts <= 1.1e30).all(), (place, value)
        assert time.perf_counter() - start < _SOON, (place, value)
