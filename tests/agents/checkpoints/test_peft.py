"""Adapters as files: round trip, agreement with `peft`, bad input."""

import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.agents.checkpoints.load import CheckpointError, load_checkpoint
from tokenauction_jax.agents.checkpoints.peft import (
    check_family,
    load_adapter,
    save_adapter,
)
from tokenauction_jax.agents.models.config import DecoderConfig, LayerConfig, Rotary
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.agents.models.lora import Adapter, attach, merge, new_adapter

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
TOKENS = [5, 200, 17, 3, 99, 120, 4]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny Llama."""
    return write_checkpoint(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def model(base):
    return load_checkpoint(base).model


@pytest.fixture(scope="module")
def adapter(model):
    fresh = new_adapter(jax.random.key(0), model, 3)
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [
        0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.map(jnp.add, fresh, jax.tree.unflatten(tree, noise))


@pytest.fixture
def folder(adapter, model, tmp_path):
    """A saved adapter to damage."""
    save_adapter(tmp_path, adapter, model, "somebody/llama")
    return tmp_path


def log_probs(model):
    return jax.nn.log_softmax(model(jnp.array([TOKENS])))[0]


def change(folder, **options):
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | options))


def change_tensors(folder, changes):
    """Adds and replaces tensors, and drops those that change to None."""
    tensors = load_file(folder / TENSORS) | changes
    kept = {name: array for name, array in tensors.items() if array is not None}
    save_file(kept, folder / TENSORS)


def test_a_round_trip_is_exact(folder, adapter, model):
    back = load_adapter(folder, model)
    assert back.factors.keys() == adapter.factors.keys()
    for one, two in zip(jax.tree.leaves(back), jax.tree.leaves(adapter), strict=True):
        np.testing.assert_array_equal(one, two, strict=True)


def test_files_are_named_as_peft_names_them(folder):
    assert f"{QUERY}.lora_A.weight" in load_file(folder / TENSORS)
    raw = json.loads((folder / CONFIG).read_text())
    assert raw["base_model_name_or_path"] == "somebody/llama"
    assert raw["target_modules"] == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    ]


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"lora_alpha": 6}, 2),
        ({"lora_alpha": 1.5}, 0.5),
        ({"lora_alpha": 3, "use_rslora": True}, 3**0.5),
    ],
    ids=str,
)
def test_alpha_scales_the_update(folder, adapter, model, options, scale):
    change(folder, **options)
    back = load_adapter(folder, model)
    for path, (down, up) in adapter.factors.items():
        np.testing.assert_array_equal(back.factors[path].down, down)
        np.testing.assert_allclose(back.factors[path].up, scale * up, rtol=1e-6)


def test_half_precision_files_load_in_single_precision(folder, adapter, model):
    tensors = load_file(folder / TENSORS)
    change_tensors(
        folder, {name: array.astype(jnp.bfloat16) for name, array in tensors.items()}
    )
    leaves = jax.tree.leaves(load_adapter(folder, model))
    for one, two in zip(leaves, jax.tree.leaves(adapter), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, two, rtol=2**-8)


@pytest.fixture(scope="module")
def theirs(oracle, base):
    """Loads the base in `transformers`; `peft` changes what it wraps."""
    return lambda: oracle.LlamaForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def peft():
    """`peft`; tests that need it skip without."""
    return pytest.importorskip("peft")


@pytest.fixture
def quiet_peft(peft):
    """`peft`, which calls what `transformers` deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield peft


def test_peft_reads_what_we_write(
    folder, adapter, model, quiet_peft, theirs, oracle_logits
):
    wrapped = quiet_peft.PeftModel.from_pretrained(theirs(), folder).eval()
    expected = jax.nn.log_softmax(jnp.asarray(oracle_logits(wrapped, TOKENS)))
    assert jnp.abs(expected - log_probs(model)).max() > 1
    ours = log_probs(attach(model, adapter))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_peft_writes(
    model, quiet_peft, theirs, oracle_logits, tmp_path, rslora
):
    config = quiet_peft.LoraConfig(
        r=4,
        lora_alpha=2,
        use_rslora=rslora,
        target_modules=["q_proj", "v_proj", "up_proj"],
        layers_to_transform=[1],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    pytest.importorskip("torch").manual_seed(0)  # PEFT draws the adapter's weights
    wrapped = quiet_peft.get_peft_model(theirs(), config).eval()
    wrapped.save_pretrained(tmp_path)
    expected = jax.nn.log_softmax(jnp.asarray(oracle_logits(wrapped, TOKENS)))
    assert jnp.abs(expected - log_probs(model)).max() > 0.1  # It matters.
    adapter = load_adapter(tmp_path, model)
    assert len(adapter.factors) == 3
    np.testing.assert_allclose(log_probs(merge(model, adapter)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "LOHA"}, r"unsupported peft_type 'LOHA' \(known: LORA\)"),
        ({"bias": "all"}, "unsupported bias 'all'"),
        ({"init_lora_weights": "pissa"}, "unsupported init_lora_weights 'pissa'"),
        ({"use_dora": True}, "unsupported use_dora True: merge the adapter in PEFT"),
        ({"modules_to_save": ["lm_head"]}, "unsupported modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "unsupported rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "unsupported alpha_pattern"),
        ({"fan_in_fan_out": True}, "unsupported fan_in_fan_out"),
        ({"r": 4}, r"lora_A.weight is \(3, \d+\).*has r 4: .*different adapters"),
        ({"r": 0}, "r: .*greater than or equal to 1, got 0"),
        ({"r": True}, "r: .*valid integer, got True"),
        ({"lora_alpha": None}, "lora_alpha: .*valid number, got None"),
        ({"lora_alpha": float("nan")}, "lora_alpha: .*finite number, got nan"),
        ({"use_rslora": "no"}, "use_rslora: .*valid boolean, got 'no'"),
    ],
    ids=str,
)
def test_options_that_change_more_are_refused(folder, model, options, message):
    change(folder, **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(folder, model)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lm_head.weight", (257, 16), "tensor lm_head.weight has no place"),
        (f"{QUERY}.lora_magnitude_vector", (16,), "magnitude_vector has no place"),
        (f"{QUERY}.lora_B.weight", None, "layers.0.attention.query has lora_A only"),
        (f"{QUERY}.lora_B.weight", (16, 2), r"lora_B.weight is \(16, 2\).*has r 3"),
        (
            f"{QUERY}.lora_B.weight",
            (8, 3),
            r"\(3, 16\) and \(8, 3\) for the weight \(16, 16\) of layers.0.attention",
        ),
    ],
    ids=str,
)
def test_tensors_without_a_place_are_refused(folder, model, name, shape, message):
    array = None if shape is None else np.ones(shape, np.float32)
    change_tensors(folder, {name: array})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(folder, model)
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_is_refused(folder, model):
    save_file({}, folder / TENSORS)
    with pytest.raises(CheckpointError, match="has no tensors: get it again"):
        load_adapter(folder, model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG, None, "adapter_config.json missing: get the complete files"),
        (TENSORS, None, "adapter_model.safetensors missing"),
        (CONFIG, b"{", "adapter_config.json: .*get it again"),
        (CONFIG, b"[]", "not a JSON object"),
        (TENSORS, b"version https://git-lfs", "not a safetensors file"),
    ],
)
def test_damaged_files_give_one_clear_line(folder, model, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(folder, model)
    assert "\n" not in str(caught.value)


def decoder(num_layers=1, mlp_width=24, learned_positions=False):
    rotary = Rotary((1.0, 0.5, 0.1, 0.01))
    layer = LayerConfig(
        num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=mlp_width, rotary=rotary
    )
    config = DecoderConfig(
        vocab_size=61,
        context_length=32,
        width=16,
        layers=(layer,) * num_layers,
        learned_positions=learned_positions,
    )
    return Decoder(config, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "changes layers.1.*which the model does not have"),
        ({"num_layers": 2, "mlp_width": 20}, r"for the weight \(.*20.*\) of layers"),
        ({"learned_positions": True}, "GPT-2 cannot be kept in files.*use a Llama"),
    ],
    ids=str,
)
def test_adapters_of_other_models_are_refused(folder, adapter, changes, message):
    other = decoder(**changes)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(folder, other)
    with pytest.raises(ValueError, match=message):
        save_adapter(folder, adapter, other, "somebody/llama")


def test_adapters_of_several_ranks_are_not_saved(adapter, model, tmp_path):
    other = new_adapter(jax.random.key(0), model, 2, targets=["mlp.up"])
    mixed = Adapter(adapter.factors | other.factors)
    with pytest.raises(ValueError, match=r"ranks \[2, 3\]: give it one rank"):
        save_adapter(tmp_path, mixed, model, "somebody/llama")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"ranks \[\]"):
        save_adapter(tmp_path, Adapter({}), model, "somebody/llama")


def test_a_folder_that_cannot_be_written(adapter, model, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CheckpointError, match=r"cannot write .*file"):
        save_adapter(tmp_path / "file", adapter, model, "somebody/llama")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("kind", ["int8", "bool", "uint16", "complex64"])
def test_factors_that_are_no_floats(folder, model, kind):
    name = f"{QUERY}.lora_A.weight"
    array = load_file(folder / TENSORS)[name]
    try:
        change_tensors(folder, {name: array.astype(kind)})
    except SafetensorError:
        pytest.skip(f"this safetensors writes no {kind}")
    with pytest.raises(CheckpointError, match="has the type"):
        load_adapter(folder, model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_pipes_are_not_opened(folder, model, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        load_adapter(folder, model)


def test_families_whose_maps_are_joined_are_refused_before_training():
    for name in ("phi3", "gpt_neox", "gpt2"):
        with pytest.raises(CheckpointError, match=f"adapters of {name} cannot"):
            check_family(name)
    for name in ("llama", "gemma3_text", "olmo3", "granite"):
        check_family(name)
