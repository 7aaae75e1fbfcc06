"""Objects of a user's own: found in files, and told apart by their contents."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.scenarios import names, objects

SOURCE = """
from __future__ import annotations

import dataclasses
import jax.numpy as jnp
import tokenauction_jax as ta


@dataclasses.dataclass
class Helper:
    number: float | None = None


@ta.record
class Softened:
    uniform: float = 0.1
    name = "softened"
    monotone = True

    def weights(self, bids):
        return bids / bids.sum()

    def log_prob(self, bids, log_probs):
        mixed = self.weights(bids) @ jnp.exp(log_probs)
        return jnp.log((1 - self.uniform) * mixed + self.uniform / mixed.size)


class Unrecorded(Softened):
    pass


def price(rule):
    assert type(rule) is Softened
    return ta.pay_your_bid()


def mechanism():
    return ta.Mechanism(Softened(), ta.pay_your_bid())


number = 3
whole = ta.Mechanism(Softened(0.2), ta.pay_your_bid())
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_file_is_run_once_for_all_references(file):
    rule = names.aggregation(f"{file}:Softened")
    assert rule.uniform == 0.1
    # A function of the rule finds the same class.
    assert names.payment(f"{file}:price", rule).name == "pay_your_bid"
    other = objects.load(f"{file.parent}/../{file.parent.name}/mine.py:Softened")
    assert other is type(rule)
    file.write_text(SOURCE.replace("0.1", "0.3"))
    assert names.aggregation(f"{file}:Softened").uniform == 0.3


def test_a_mechanism_may_be_one_name(file):
    found = names.mechanism_or_aggregation(f"{file}:whole")
    assert found.aggregation.uniform == 0.2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FILE:number", r"is not an Aggregation \(log_prob, monotone, name, weights\)"),
        ("FILE:missing", "AttributeError"),
        ("nowhere.py:rule", "FileNotFoundError"),
        ("nowhere_at_all:rule", "ModuleNotFoundError"),
    ],
)
def test_names_that_lead_nowhere(file, name, message):
    with pytest.raises(names.RuleError, match=message):
        names.aggregation(name.replace("FILE", str(file)))


def test_a_failing_file_says_what_it_raised(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(names.RuleError, match="ZeroDivisionError"):
            names.aggregation(f"{path}:rule")


def test_references_are_relative_to_the_file_that_has_them(tmp_path):
    content = {
        "rule": {"aggregation": "a.py:x", "payment": "myerson(b.py:y)"},
        "factors": {"rule.aggregation": ["a.py:x", "linear", "json:loads"]},
        "prompt": "see a.py:x",
    }
    assert names.resolved(content, tmp_path) == {
        "rule": {
            "aggregation": f"{tmp_path}/a.py:x",
            "payment": f"myerson({tmp_path}/b.py:y)",
        },
        "factors": {"rule.aggregation": [f"{tmp_path}/a.py:x", "linear", "json:loads"]},
        "prompt": "see a.py:x",
    }


def function(values):
    return values


DIFFERENT = [
    lambda: ta.linear(),
    lambda: ta.linear(2.0),
    lambda: ta.log_linear(),
    lambda: ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]]))),
    lambda: ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]])), end_token=0),
    lambda: ta.agents.tabular(jnp.log(jnp.array([[0.4, 0.6]]))),
    lambda: np.array([1.0, 2.0]),
    lambda: np.array([[1.0, 2.0]]),
    lambda: np.array([1.0, 2.0], np.float32),
    lambda: jax.random.key(0),
    lambda: jax.random.key(1),
    lambda: function,
    lambda: functools.partial(function, values=1.0),
]


def test_fingerprints_tell_objects_apart_by_what_they_compute():
    found = [objects.fingerprint(make()) for make in DIFFERENT]
    again = [objects.fingerprint(make()) for make in DIFFERENT]
    assert found == again
    assert len({str(sorted(x.items())) for x in found}) == len(DIFFERENT)


PROGRAM = """
import tokenauction_jax as ta, jax.numpy as jnp
from tokenauction_jax.scenarios import objects
pool = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]])))
print(objects.fingerprint(pool)["numbers"])
"""


def test_fingerprints_are_those_of_another_process():
    pool = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]])))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == objects.fingerprint(pool)["numbers"]
