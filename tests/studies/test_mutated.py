"""Configurations that make no sense: refused in one line, before time is spent."""

import contextlib
import time

import mutations
import pytest

from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.scenario import (
    ScenarioError,
    read_scenario,
    validate_scenario,
)
from tokenauction_jax.studies.config import StudyError
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.reading import read_study, validate_study

# Seconds of the processor that no refusal may take.
_SOON = 3.0

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


@contextlib.contextmanager
def soon():
    start = time.process_time()
    yield
    assert time.process_time() - start < _SOON


def check_refusal(message):
    assert message
    assert len(message) < 500
    assert message.isprintable()


def each_mutation(content):
    for place in mutations.places(content):
        for value in mutations.VALUES:
            yield mutations.with_value(content, place, value)


def test_every_value_of_a_scenario_may_be_anything():
    assert validate_scenario(SCENARIO)
    for content in each_mutation(SCENARIO):
        with soon():
            try:
                validate_scenario(content)
            except ScenarioError as error:
                check_refusal(str(error))


def check_study(content):
    """Refused in one line, or with plans, values and bids that float32 holds."""
    with soon():
        try:
            study = validate_study(content)
        except StudyError as error:
            check_refusal(str(error))
            return
    cells = study.cells()
    if cells[0].setting.has_texts:
        return
    built = population.build([cell.setting for cell in cells[:2]])
    make_plan(study, built)
    for amounts in (x for one in built for x in one.draw(0, 4)):
        assert (amounts[amounts != 0] > 1e-31).all()
        assert (amounts < 1e31).all()
        assert amounts.any(axis=1).all()


@pytest.mark.sweep(2)
@pytest.mark.parametrize("content", STUDIES, ids=range(len(STUDIES)))
def test_every_value_of_a_study_may_be_anything(content):
    assert validate_study(content)
    for changed in each_mutation(content):
        check_study(changed)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("content", STUDIES[:-1], ids=range(len(STUDIES) - 1))
def test_every_level_of_a_factor_may_be_anything(content):
    for place in mutations.places(content):
        key = ".".join(map(str, place))
        for value in mutations.VALUES:
            check_study(content | {"factors": {key: [value]}})
            check_study(content | {"factors": {key: [1.0, value]}})


@pytest.mark.parametrize("content", STUDIES, ids=range(len(STUDIES)))
def test_any_key_may_be_missing_or_another(content):
    for place in mutations.places(content):
        check_study(mutations.without(content, place))
    for name in mutations.TEXTS:
        check_study(content | {name: 1})
        check_study(content | {"factors": {name: [1]}})
        check_study(content | {"agents": content.get("agents", {}) | {name: 1}})


SENSELESS = {
    "values.amounts": ("fixed", [1e-46, 1e308, -1.0, True, "1.5", [1.0, 1e-31, 1.0]]),
    "values.median": ("log_normal", [0.0, 1e-46, 1e308, 1e-31, 1.1e30, False]),
    "values.sigma": ("log_normal", [-1.0, 7.1, 1e7]),
    "values.shape": ("gamma", [0.0, 1e-9, 1e7]),
    "values.mean": ("gamma", [1e29, 1e-31]),
    "values.high": ("uniform", [1e-46, 1e31]),
    "values.share": ("share", [1e-46, 1.5, True]),
    "bids.factor": ("shaded", [1e-300, 1e300, -1.0, "1"]),
    "agents.concentration": ("dirichlet", [0.0, 1e-5, 1e39, True]),
    "agents.vocab_size": ("dirichlet", [1, 1e30, 2**31, 10**30, True]),
    "agents.num_agents": ("dirichlet", [0, 65, 2**31, 2.0, True]),
    "agents.exponent": ("zipf", [-1.0, 101.0]),
    "sampling.temperature": (None, [0.0, 1e-7, 1e7, True, "0.5"]),
    "sampling.top_p": (None, [0.0, 1e-46, 1.1]),
    "rule.influence": (None, [0.0, 1e-300, 1e300, 1e-4, 1001.0, True]),
    "rule.order": (None, [1e308, -1e308, 1001.0, float("nan"), True]),
    "stop.half_width": (None, [0.0, 1e-46, 1e308]),
    "seed": (None, [-1, 2**32, 1.0, True]),
    "num_tokens": (None, [0, 2**17, 1.0, True]),
    "num_auctions": (None, [0, 2**31, 1.0, True]),
}


@pytest.mark.parametrize("key", SENSELESS)
def test_numbers_that_make_no_sense_are_refused_by_their_key(key):
    kind, values = SENSELESS[key]
    *section, name = key.split(".")
    for value in values:
        content = {name: value} | ({} if kind is None else {"kind": kind})
        if section == ["rule"]:
            content |= {"aggregation": "power_mean", "payment": "pay_your_bid"}
        content = {section[0]: content} if section else content
        with pytest.raises(StudyError, match=section[0] if section else name) as caught:
            validate_study(content)
        check_refusal(str(caught.value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("bid", False), ("bid", "1.5"), ("bid", 1e-46), ("bid", 1e308)),
        *(("value", True), ("sampling", {"temperature": 1e-7}), ("bid", -1.0)),
        *(("num_tokens", True), ("num_auctions", 3.0), ("seed", "1")),
        *(("rules", ["power_mean(1e308)"]), ("rules", [{"influence": 1e300}])),
    ],
    ids=str,
)
def test_scenarios_are_as_strict(key, value):
    agent = {"name": "A", "prompt": "a"}
    own = key in ("bid", "value", "sampling")
    content = {"query": "q", "agents": [agent | ({key: value} if own else {})]}
    with pytest.raises(ScenarioError, match=key.removesuffix("s")):
        validate_scenario(content if own else content | {key: value})


TOO_LARGE = {
    "agents": {"agents": {"num_agents": 2**31}},
    "tokens": {"agents": {"vocab_size": 2**31}},
    "probabilities": {"agents": {"num_agents": 60, "vocab_size": 2**20}},
    "chains": {"agents": {"kind": "markov", "vocab_size": 2**15}},
    "cells": {"factors": {"seed": list(range(400)), "num_tokens": list(range(1, 401))}},
    "levels": {"factors": {"seed": list(range(160_000))}},
    "table": {"agents": {"kind": "table", "probs": [[0.5, 0.5]] * 100}},
    "sigma": {"values": {"sigma": 1e7}},
    "median": {"values": {"median": 1e29, "sigma": 2.0}},
    "bids": {"values": {"median": 1e29, "sigma": 0.0}, "bids": {"kind": "shaded"}}
    | {"factors": {"bids.factor": [1.0, 100.0]}},
    "weight": {"bids": {"kind": "weight", "weight": 0.1, "amounts": [1.0] * 3}}
    | {"rule": {"aggregation": "linear", "influence": 0.01}},
    "silence": {"values": {"kind": "fixed", "amounts": [1.0, 0.0, 0.0]}}
    | {"bids": {"kind": "shaded", "factor": 0.0, "agents": [0]}},
    "name": {"rule": "power_mean(1e308)"},
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_soon(name):
    with soon(), pytest.raises(StudyError) as caught:
        validate_study(TOO_LARGE[name])
    check_refusal(str(caught.value))


TEXTS = {
    "brackets": "x = " + "[" * 500 + "]" * 500,
    "braces": "x = " + "{a=" * 500 + "1" + "}" * 500,
    "some brackets": "seed = " + "[" * 100 + "]" * 100,
    "dots": ".".join("a" * 900) + " = 1",
    "digits": "seed = " + "1" * 5000,
    "hexadecimal": "seed = 0x" + "f" * 5000,
    "NUL": "seed = 1\0",
    "surrogate": 'name = "\\ud800"',
    "bytes": b"\xff\xfe",
    "long": "seed = 1\n" + "# a\n" * 10**5 + "sed = 2",
    "lists": "[agents]\nkind = 'table'\nprobs = [\n" + "[1, 2],\n" * 10**4 + "]",
    "text": 'sed = """\n' + "a\n" * 10**5 + '"""',
    "keys": "".join(f"k{i} = 1\n" for i in range(2000)),
    "half": "[agents",
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_make_no_sense_are_refused_soon(tmp_path, name):
    path = tmp_path / f"{'x' * 200}.toml"
    given = TEXTS[name]
    path.write_bytes(given if isinstance(given, bytes) else given.encode())
    for read, error in ((read_study, StudyError), (read_scenario, ScenarioError)):
        with soon(), pytest.raises(error) as caught:
            read(str(path))
        check_refusal(str(caught.value))
