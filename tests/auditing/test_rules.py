"""Rules as one pytree: jit must take any object and tell any two classes apart."""

import dataclasses

import jax
import numpy as np

import tokenauction_jax as ta
from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import random_instances
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.rules import Rules

INSTANCES = random_instances(0, 32, 3, 4)


@dataclasses.dataclass
class Unhashable:
    """Linear aggregation as a plain object that equals others."""

    influence: float
    name = "unhashable"
    monotone = True

    def weights(self, bids):
        return ta.linear(self.influence).weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(self.influence).log_prob(bids, log_probs)


def test_numbers_of_pytrees_are_leaves():
    rules = Rules(ta.linear(2.0), ta.second_price(ta.linear(2.0)), sampler=print)
    assert jax.tree.leaves(rules) == [2.0, 2.0]
    doubled = jax.tree.map(lambda x: 2 * x, rules)
    assert doubled.aggregation.influence == doubled.payment.aggregation.influence == 4
    assert (doubled.sampler, len(doubled.valuations)) == (print, 3)


def test_plain_objects_are_known_by_identity():
    one, other = Unhashable(1.0), Unhashable(1.0)
    assert one == other
    assert jax.tree.structure(Rules(one)) == jax.tree.structure(Rules(one))
    assert jax.tree.structure(Rules(one)) != jax.tree.structure(Rules(other))
    margins = search.evaluate(aggregation_margins, Rules(one), INSTANCES)
    assert np.nanmax(margins[properties.MONOTONE]) <= 1e-5


def test_classes_of_one_structure_are_told_apart():
    """JAX's own registration gives both the same tree structure."""
    members = {name: getattr(ta.linear(), name) for name in ("weights", "log_prob")}
    members |= {"name": "twin", "monotone": False}
    one, other = (
        jax.tree_util.register_dataclass(dataclasses.dataclass(type(name, (), members)))
        for name in ("One", "Other")
    )
    assert jax.tree.structure(one()) == jax.tree.structure(other())
    assert jax.tree.structure(Rules(one())) != jax.tree.structure(Rules(other()))
