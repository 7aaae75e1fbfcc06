"""Auctions over the devices of a mesh are those of one device."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import tokenauction_jax as ta
from tokenauction_jax.bidding import policies
from tokenauction_jax.simulation import meshes

AUCTIONS, AGENTS, TOKENS = 16, 3, 5
RULE = ta.linear()
MECHANISM = ta.Mechanism(RULE, ta.second_price(RULE))
BIDS = np.random.default_rng(0).gamma(2.0, size=(AUCTIONS, AGENTS)).astype(np.float32)
BUDGETS = np.where(BIDS > 1, 2.0, np.inf)
POOL = ta.agents.markov(jax.random.key(1), AGENTS, TOKENS, 0.5)
OFFERS = {
    "bids": BIDS,
    "policies": ta.Bidders([policies.constant(x) for x in BIDS[0]], BUDGETS),
    "policies by auction": ta.Bidders(
        [jax.vmap(policies.constant)(x) for x in BIDS.T], BUDGETS, by_auction=True
    ),
}
SHAPES = {"2": (2, 1), "8": (8, 1), "4 x 2": (4, 2)}


def mesh_of(*shape, names=("auctions", "model"), kind=AxisType.Auto):
    count = int(np.prod(shape))
    if count > len(jax.devices()):
        pytest.skip(f"needs {count} devices")
    devices = np.array(jax.devices()[:count]).reshape(shape)
    return Mesh(devices, names[: len(shape)], axis_types=(kind,) * len(shape))


def entropy(bids, log_probs, log_q, token, weight):
    return {"entropy": weight * -(jnp.exp(log_q) * log_q).sum(), "bids": bids}


def run(pool=POOL, bids=BIDS, count=None, **rest):
    weights = np.linspace(1, 2, count or AUCTIONS, dtype=np.float32)
    watch = {"observe": entropy, "accumulate": entropy, "observe_args": (weights,)}
    key, counted = jax.random.key(0), {"num_tokens": 4, "num_auctions": count}
    return ta.simulate(key, MECHANISM, pool, bids, **counted, **watch, **rest)


def assert_same(found, wanted):
    for name in ("tokens", "mask", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    found, wanted = jax.device_get((found, wanted))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
        *(found, wanted),
    )


@pytest.mark.sweep(3)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bids", OFFERS.values(), ids=OFFERS)
def test_devices_change_nothing(shape, bids):
    wanted = run(bids=bids)
    with jax.set_mesh(mesh_of(*shape)):
        found = run(bids=bids)
    assert len(found.tokens.sharding.device_set) == np.prod(shape)
    rows = {shard.data.shape[0] for shard in found.payments.addressable_shards}
    assert rows == {AUCTIONS // shape[0]}
    assert_same(found, wanted)
    assert len(np.unique(wanted.tokens, axis=0)) > AUCTIONS // 2


def test_each_device_asks_its_pool_for_its_own_auctions(monkeypatch):
    asked = []
    init = type(POOL).init

    def listening(self, num_auctions, **rest):
        asked.append(num_auctions)
        return init(self, num_auctions, **rest)

    monkeypatch.setattr(type(POOL), "init", listening)
    with jax.set_mesh(mesh_of(8)):
        run(block_size=1, first_auction=3)
    assert set(asked) == {1}


def test_auctions_that_lie_on_the_mesh_stay_there():
    mesh = mesh_of(8)
    rows = NamedSharding(mesh, PartitionSpec("auctions"))
    spread = jax.device_put(BIDS, rows)
    assert meshes.is_spread(spread)
    assert not meshes.is_spread(BIDS, jnp.asarray(BIDS))
    with jax.set_mesh(mesh):
        assert not meshes.is_spread(spread)
        assert_same(run(bids=spread), run(bids=BIDS))


@pytest.mark.slow
def test_gradients_and_responses_over_devices():
    problem = jax.random.key(0), MECHANISM, POOL, jnp.asarray([1.0, 2.0, 0.5])
    objective = ta.bidding.revenue() + ta.bidding.utility(1, ta.total_variation())
    values = jnp.asarray([3.0, 2.0, 1.0])
    size = {"num_tokens": 3, "num_auctions": 64}

    def found():
        both = ta.bidding.value_and_grad(*problem, objective, values=values, **size)
        rest = {"values": values, "valuation": ta.total_variation(), **size}
        return both, ta.bidding.best_response(*problem, 1, **rest)

    wanted = found()
    with jax.set_mesh(mesh_of(4, 2)):
        assert_close = np.testing.assert_allclose
        both, best = found()
    for name in ("value", "value_error", "gradient", "gradient_error"):
        assert_close(getattr(both, name), getattr(wanted[0], name), rtol=1e-4)
    for name in ("bid", "gain", "gain_error"):
        assert_close(getattr(best, name), getattr(wanted[1], name), rtol=1e-3)


def test_a_mesh_of_other_axes_is_left_alone():
    wanted = run()
    with jax.set_mesh(mesh_of(8, names=("model",))):
        found = run()
    assert_same(found, wanted)
    # Each device that has it has all of it.
    assert {x.data.shape[0] for x in found.tokens.addressable_shards} == {AUCTIONS}


def test_within_a_map_over_devices_each_has_its_own_auctions():
    """As users shard it: the axis is theirs already."""
    rows = PartitionSpec("auctions")

    def own(bids, first):
        rollout = ta.simulate(
            *(jax.random.key(0), MECHANISM, POOL, bids),
            num_tokens=4,
            first_auction=first[0],
        )
        return rollout.tokens

    mapped = jax.shard_map(
        own, mesh=mesh_of(8), in_specs=(rows, rows), out_specs=rows, check_vma=False
    )
    firsts = np.arange(0, AUCTIONS, 2, dtype=np.uint32)
    np.testing.assert_array_equal(mapped(BIDS, firsts), run().tokens)


def test_devices_must_divide_the_auctions():
    told = "num_auctions is 15, which the 8 devices .* do not divide: take 16, or"
    with jax.set_mesh(mesh_of(8)), pytest.raises(ValueError, match=told):
        run(bids=BIDS[0], count=15)


def test_explicit_axes_are_refused_with_the_remedy():
    told = r"make it with axis_types=\(jax.sharding.AxisType.Auto,\) \* 1"
    mesh = mesh_of(2, kind=AxisType.Explicit)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=told):
        run()


def test_the_example_of_the_page_runs(capsys):
    text = (pathlib.Path(__file__).parents[2] / "docs/scaling.md").read_text()
    (example,) = re.findall(r"```python\n(import jax\n.*?)```", text, re.DOTALL)
    exec(example)
    assert capsys.readouterr().out == f"{[(1000, 16)] * len(jax.devices())}\n"
