"""The decoder against `transformers`, and its paths against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from tiny_decoder import CONFIG, LAYER, OTHER_VARIANTS, VARIANTS, log_probs, make

from tokenauction_jax.agents.models.config import (
    DecoderConfig,
    LayerConfig,
    NormConfig,
    Rotary,
)
from tokenauction_jax.agents.models.decoder import Decoder


def texts(shape, seed=2):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(CONFIG.vocab_size, size=shape), jnp.int32)


prefill, decode = nnx.jit(Decoder.prefill), nnx.jit(Decoder.decode)
read = nnx.jit(Decoder.__call__)


def step_by_step(model, prompts, lengths, text):
    """Logits `(A, n, T + 1, V)` after the prompts and each token of `text (A, T)`."""
    logits, memory = prefill(model, prompts, lengths, lengths + text.shape[1])
    cache = model.empty_cache(text.shape[0], prompts.shape[0], text.shape[1])
    out = [jnp.broadcast_to(logits, (text.shape[0], *logits.shape))]
    for step in range(text.shape[1]):
        read = jnp.broadcast_to(text[:, step, None], cache[0].keys.shape[:2])
        logits, cache = decode(model, read, jnp.array(step), memory, cache)
        out.append(logits)
    return jnp.stack(out, axis=2)


ALL_VARIANTS = VARIANTS | OTHER_VARIANTS


@pytest.mark.sweep(6)
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_steps_with_cache_equal_one_pass_over_the_whole_text(variant):
    """Of prompts and texts within and beyond the windows."""
    model = make(**ALL_VARIANTS[variant])
    prompts, lengths = texts((3, 9)), jnp.array([9, 4, 1])
    text = texts((2, 5), seed=3)
    stepped = step_by_step(model, prompts, lengths, text)
    for auction in range(2):
        for agent, length in enumerate([9, 4, 1]):
            whole = np.concatenate([prompts[agent, :length], text[auction]])
            # Angles may depend on the length, padding included.
            expected = jax.nn.log_softmax(read(model, whole[None]))[0, length - 1 :]
            found = special.log_softmax(stepped[auction, agent], axis=-1)
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_padding_of_a_prompt_does_not_matter():
    model, lengths = make(), jnp.array([3, 7])
    prompts, text = texts((2, 7)), texts((2, 4), seed=3)
    other = prompts.at[0, 3:].set(5)
    expected = step_by_step(model, prompts, lengths, text)
    np.testing.assert_array_equal(
        step_by_step(model, other, lengths, text), expected, strict=True
    )


def test_a_window_is_of_so_many_tokens_the_present_one_included():
    model, tokens = make(num_layers=1, window=3), np.arange(8)
    before = log_probs(model, tokens)
    for place in range(8):
        changed = log_probs(model, np.where(np.arange(8) == place, 60, tokens))
        moved = (changed != before).any(1)
        near = (np.arange(8) >= place) & (np.arange(8) < place + 3)
        np.testing.assert_array_equal(moved, near)


def test_an_auction_does_not_depend_on_its_neighbours():
    model, lengths = make(), jnp.array([3, 7])
    prompts, text = texts((2, 7)), texts((5, 4), seed=3)
    together = step_by_step(model, prompts, lengths, text)
    alone = step_by_step(model, prompts, lengths, text[3:4])
    np.testing.assert_allclose(together[3:4], alone, atol=1e-5)


def test_every_field_of_the_configuration_matters():
    """A field that nothing reads would give the same parameters and logits."""
    turn = LAYER.rotary
    long = dataclasses.replace(turn, long_frequencies=(0.5, 0.1, 0.02), long_beyond=3)
    changes = {
        DecoderConfig: {
            "vocab_size": 62,
            "context_length": 65,
            "width": 32,
            "layers": CONFIG.layers[:1],
            "norm": NormConfig("layer"),
            "learned_positions": True,
            "embedding_scale": 2.0,
            "logit_scale": 2.0,
            "logit_cap": 1.0,
            "tied_embeddings": False,
        },
        LayerConfig: {
            "num_heads": 6,
            "num_kv_heads": 4,
            "head_dim": 8,
            "mlp_width": 41,
            "window": 3,
            "rotary": None,
            "norms": "both",
            "qk_norm": "head",
            "activation": "gelu",
            "gated": False,
            "parallel": True,
            "score_scale": 1.0,
            "score_cap": 0.5,
            "residual_scale": 0.5,
            "qkv_bias": True,
            "output_bias": True,
            "mlp_bias": True,
        },
        NormConfig: {"kind": "layer", "epsilon": 1e-2, "offset": 0.5},
        Rotary: {
            "frequencies": (1.0, 0.5, 0.01),
            "scale": 1.5,
            "long_frequencies": None,
            "long_beyond": 20,
        },
    }
    for record, fields in changes.items():
        assert set(fields) == {field.name for field in dataclasses.fields(record)}
        for name, value in fields.items():
            base = {"learned_positions": True} if name == "context_length" else {}
            if record is NormConfig:
                changed = {"norm": NormConfig(**{name: value})}
            elif record is Rotary:
                base = {"rotary": turn if name == "frequencies" else long}
                changed = {
                    "rotary": dataclasses.replace(base["rotary"], **{name: value})
                }
            elif name == "layers":
                changed = {"num_layers": 1}
            else:
                changed = {name: value}
            assert not _same(make(**base), make(**base | changed)), name


def _same(one, other):
    """Whether models have parameters of the same shapes, and the same logits."""
    shapes = [
        jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(model)))
        for model in (one, other)
    ]
    tokens = np.arange(6)
    return shapes[0] == shapes[1] and jnp.array_equal(
        log_probs(one, tokens), log_probs(other, tokens)
    )


def test_bfloat16_parameters_give_float32_logits():
    exact, rounded = make(), make(jnp.bfloat16)
    prompts, lengths = texts((2, 7)), jnp.array([3, 7])
    logits, memory = prefill(rounded, prompts, lengths)
    assert logits.dtype == jnp.float32
    assert memory.layers[0].keys.dtype == jnp.bfloat16
    stepped = step_by_step(rounded, prompts, lengths, texts((2, 4), seed=3))
    assert stepped.dtype == jnp.float32
    expected = step_by_step(exact, prompts, lengths, texts((2, 4), seed=3))
    assert jnp.abs(stepped - expected).max() < 0.1 * jnp.abs(expected).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_do_not_drift_in_double_precision(dtype):
    model = make(dtype)
    text = texts((2, 4), seed=3)
    stepped = step_by_step(model, texts((2, 7)), jnp.array([3, 7]), text)
    assert stepped.dtype == dtype
    cache = model.empty_cache(1, 1, 1)
    assert cache[0].keys.dtype == dtype


def test_float32_products_are_exact_on_accelerators():
    model = make()
    graph, state = nnx.split(model)
    forward = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))
    products = [
        equation.params["precision"]
        for equation in forward(state, texts((1, 4))).jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) > 2 * 9
    highest = jax.lax.Precision.HIGHEST
    assert all(precision == (highest, highest) for precision in products)


def test_gradients_are_finite():
    graph, state = nnx.split(make(qk_norm="head"))

    def loss(state):
        model = nnx.merge(graph, state)
        return jax.nn.log_softmax(model(texts((2, 7)))).sum()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(state))
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)
    assert all((gradient != 0).any() for gradient in gradients)


def test_smollm2_agrees_with_transformers(
    smollm2, smollm2_oracle, oracle_logits, long_prompt
):
    """Within 2e-3 over the top 1,000 tokens, in one pass and with a cache."""
    tokenizer = smollm2.tokenizer
    tokens = tokenizer.encode_prompt(long_prompt)
    assert len(tokens) >= 60
    expected = jax.nn.log_softmax(oracle_logits(smollm2_oracle, tokens))
    forward = nnx.jit(Decoder.__call__)
    whole = jax.nn.log_softmax(forward(smollm2.model, jnp.array([tokens])))[0]
    lengths = jnp.array([len(tokens) - 8])
    text = jnp.array([tokens[-8:]])
    stepped = step_by_step(smollm2.model, jnp.array([tokens[:-8]]), lengths, text)
    stepped = jax.nn.log_softmax(stepped)[0, 0]
    for ours, theirs in ((whole, expected), (stepped, expected[-9:])):
        top = jnp.argsort(-theirs, axis=-1)[:, :1000]
        error = jnp.take_along_axis(jnp.abs(ours - theirs), top, axis=-1)
        assert error.max() < 2e-3
