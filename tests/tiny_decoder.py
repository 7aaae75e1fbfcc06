"""Random decoders of every family, small enough to compile in a second."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from tokenauction_jax.agents.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=61,
    context_length=64,
    width=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=40,
    frequencies=(1.0, 0.1, 0.01),
)
# What a family changes in it.
VARIANTS = {
    "llama": {},
    "untied": {"tied_embeddings": False},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 6},
    "gpt2": {
        "norm": "layer",
        "activation": "gelu",
        "frequencies": None,
        "num_kv_heads": 4,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
}


def make(dtype=jnp.float32, seed=0, **changes):
    """A random decoder whose every parameter matters."""
    config = dataclasses.replace(CONFIG, **changes)
    graph, state = nnx.split(Decoder(config, rngs=nnx.Rngs(seed)))
    return nnx.merge(graph, noisy(state, seed + 1, dtype))


def noisy(tree, seed, dtype=jnp.float32):
    """The tree with noise on every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [
        (leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)).astype(dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)
