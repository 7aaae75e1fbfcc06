"""Random decoders of every family, small enough to compile in a second."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenauction_jax.agents.models.config import (
    DecoderConfig,
    LayerConfig,
    NormConfig,
    Rotary,
)
from tokenauction_jax.agents.models.decoder import Decoder

LAYER = LayerConfig(
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=40,
    rotary=Rotary((1.0, 0.1, 0.01)),
)
CONFIG = DecoderConfig(
    vocab_size=61, context_length=64, width=24, layers=(LAYER, LAYER)
)
_OF_LAYERS = {field.name for field in dataclasses.fields(LayerConfig)}
_LONG = Rotary((1.0, 0.1), 1.1, long_frequencies=(0.5, 0.02), long_beyond=8)
# What a family changes in it; `first` in its first layer only.
VARIANTS = {
    "llama": {},
    "untied": {"tied_embeddings": False},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "gpt2": {
        "norm": NormConfig("layer"),
        "activation": "gelu_tanh",
        "gated": False,
        "rotary": None,
        "learned_positions": True,
        "num_kv_heads": 4,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
}
OTHER_VARIANTS = {
    "mistral": {"window": 3},
    "gemma": {
        "first": {"window": 4, "rotary": Rotary((1.0, 0.2, 0.1))},
        "norm": NormConfig(offset=1.0),
        "norms": "both",
        "qk_norm": "head",
        "activation": "gelu_tanh",
        "embedding_scale": 3.0,
        "score_scale": 0.5,
        "score_cap": 2.0,
        "logit_cap": 4.0,
    },
    "smollm3": {"first": {"rotary": None}},
    "olmo3": {"first": {"window": 2}, "norms": "after", "qk_norm": "whole"},
    "phi3": {"rotary": _LONG, "window": 5},
    "granite": {"score_scale": 0.3, "residual_scale": 0.4, "logit_scale": 0.2},
    "neox": {
        "norm": NormConfig("layer"),
        "activation": "gelu",
        "gated": False,
        "parallel": True,
        "num_kv_heads": 4,
        "qkv_bias": True,
        "mlp_bias": True,
    },
}


def configure(**changes):
    """The configuration, changed in the whole, in all layers or in the first."""
    first = changes.pop("first", {})
    count = changes.pop("num_layers", 2)
    in_layers = {key: changes.pop(key) for key in _OF_LAYERS & set(changes)}
    layer = dataclasses.replace(LAYER, **in_layers)
    layers = (dataclasses.replace(layer, **first), *[layer] * (count - 1))
    return dataclasses.replace(CONFIG, layers=layers, **changes)


def make(dtype=jnp.float32, seed=0, **changes):
    """A random decoder whose every parameter matters."""
    config = configure(**changes)
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
