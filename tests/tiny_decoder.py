"""Random decoders of every family, small enough to compile in a second."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenauction_jax.agents.models.decoder import Decoder, DecoderConfig

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
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, state = nnx.split(abstract)
    return nnx.merge(graph, filled(state, seed, dtype))


def filled(abstract, seed, dtype=jnp.float32):
    """A tree of such shapes with random leaves, vectors around one.

    By NumPy: JAX would compile a program for every shape.
    """
    rng = np.random.default_rng(seed)

    def fill(leaf):
        noise = 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(noise + (len(leaf.shape) == 1), dtype)

    return jax.tree.map(fill, abstract)


@nnx.jit
def _log_probs(model, tokens):
    return jax.nn.log_softmax(model(tokens))[0]


def log_probs(model, tokens):
    """Log-probabilities `(P, V)` after each of `P` tokens, without any cache.

    Texts are padded, so that those of all lengths share a program.
    """
    padded = np.zeros((1, -(-len(tokens) // 16) * 16), np.int32)
    padded[0, : len(tokens)] = tokens
    return _log_probs(model, padded)[: len(tokens)]


@jax.jit
def answers(pool, text):
    """Log-probabilities `(T + 1, A, n, V)` before and after each of `text (A, T)`."""
    state = pool.init(len(text), num_tokens=text.shape[1] + 1)
    nothing = jnp.full((len(text), 1), -1, jnp.int32)
    tokens = jnp.concatenate([nothing, text], axis=1)
    return jax.lax.scan(pool.step, state, tokens.T)[1]
