"""Models whose weights lie on several devices write what they write on one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from tiny_decoder import VARIANTS, configure

import tokenauction_jax as ta
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.simulation.rollout import _rollout

if len(jax.devices()) < 8:
    pytest.skip("needs 8 devices", allow_module_level=True)

MESH = jax.make_mesh((4, 2), ("auctions", "model"), axis_types=(AxisType.Auto,) * 2)
RULE = ta.linear()
MECHANISM = ta.Mechanism(RULE, ta.second_price(RULE))


def pool_of(family, **sizes):
    config = configure(**VARIANTS[family] | sizes)
    prompts = [[1, 2, 3], [4, 5], [6]]
    model, other = (Decoder(config, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    return ta.agents.from_language_model([model, other, model], None, prompts)


def run(pool):
    bids = jnp.asarray([1.0, 2.0, 0.5])
    size = {"num_tokens": 5, "num_auctions": 8}
    return ta.simulate(jax.random.key(0), MECHANISM, pool, bids, **size)


def matrices(pool):
    leaves = jax.tree.leaves([group.weights for group in pool.groups])
    return [leaf for leaf in leaves if leaf.ndim == 2]


# 61 tokens cannot be shared out, but the 24 numbers of their embeddings can.
@pytest.mark.sweep(1)
@pytest.mark.parametrize(("family", "vocab_size"), [("llama", 64), ("gpt2", 61)])
def test_the_texts_are_those_of_one_device(family, vocab_size):
    pool = pool_of(family, vocab_size=vocab_size)
    shared = ta.agents.shard_weights(pool, MESH)
    for leaf in matrices(shared):
        assert {s.data.size for s in leaf.addressable_shards} == {leaf.size // 2}
    wanted = run(pool)
    with jax.set_mesh(MESH):
        found = run(shared)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.payments, wanted.payments, rtol=1e-4, atol=1e-6)
    assert {s.data.shape[0] for s in found.tokens.addressable_shards} == {2}


def test_no_device_gathers_a_weight():
    """Or a model that is larger than a device would not fit after all."""
    pool = ta.agents.shard_weights(pool_of("llama", vocab_size=64, mlp_width=256), MESH)
    bids, first = jnp.ones((8, 3)), jnp.uint32(0)
    args = (jax.random.key(0), MECHANISM, pool, bids, first, (None, None), ())
    with jax.set_mesh(MESH):
        lowered = _rollout.lower(*args, num_tokens=5, block_size=None, most_texts=None)
    program = lowered.compile().as_text()
    moved = re.findall(
        r"= \w+\[([\d,]*)\]\S* (all-[\w-]+|collective-[\w-]+)\(", program
    )
    assert "all-reduce" in {kind for _, kind in moved}  # They do share it out.
    smallest = min(leaf.size // 2 for leaf in matrices(pool))
    for size, kind in moved:
        if kind != "all-reduce":  # Those are of sums, as many as there are texts.
            assert np.prod([int(n) for n in size.split(",") if n]) < smallest


def test_a_mesh_without_the_axis_is_refused():
    with pytest.raises(ValueError, match="axis is 'layers', but the mesh has"):
        ta.agents.shard_weights(pool_of("llama"), MESH, axis="layers")
