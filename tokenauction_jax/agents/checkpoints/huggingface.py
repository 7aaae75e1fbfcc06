"""Checkpoints as Hugging Face directories: configuration, safetensors and tokenizer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tokenauction_jax.agents.checkpoints.text import Tokenizer, from_directory
from tokenauction_jax.agents.checkpoints.weights import (
    CheckpointError,
    Naming,
    Tensor,
    named_tensors,
    rotary_frequencies,
)
from tokenauction_jax.agents.models.decoder import DecoderConfig

# The files of a repository that are needed, as glob patterns.
FILES: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
)

LLAMA = Naming(
    layer="model.layers.",
    modules={
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output",
        "self_attn.q_norm": "attention.query_norm",
        "self_attn.k_norm": "attention.key_norm",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    },
    others={
        "model.embed_tokens.weight": "embedding",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head",
    },
    ignored=r".*\.rotary_emb\.inv_freq",
)

GPT2 = Naming(
    layer="h.",
    modules={
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.output",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    },
    others={
        "wte.weight": "embedding",
        "wpe.weight": "positions",
        "ln_f.weight": "norm.weight",
        "ln_f.bias": "norm.bias",
        "lm_head.weight": "head",
    },
    ignored=r".*\.attn\.(masked_)?bias",
)


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's shape from the contents of a `config.json`.

    Raises:
      CheckpointError: If the decoder does not compute the model exactly, or a key is
        missing.
    """
    model_type = raw.get("model_type")
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"unknown model_type {model_type!r} (known: {known})")
    if "quantization_config" in raw:
        remedy = "use the unquantised checkpoint or a GGUF file"
        raise CheckpointError(f"quantised safetensors are not supported: {remedy}")
    try:
        return _check_sizes(ARCHITECTURES[model_type](raw))
    except KeyError as error:
        raise CheckpointError(f"config.json has no {error}") from None
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"config.json does not describe a {model_type} model: {error}"
        ) from None


def _check_sizes(config: DecoderConfig) -> DecoderConfig:
    for field in dataclasses.fields(config):
        size = getattr(config, field.name)
        if field.type == "int" and (not isinstance(size, int) or size < 1):
            raise TypeError(f"{field.name} is {size!r}")
    return config


def _llama_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Llama, Qwen2 and Qwen3, which differ in biases and in norms of the heads."""
    model_type, heads = raw["model_type"], raw["num_attention_heads"]
    _require(raw, "hidden_act", ("silu",), "silu")
    _refuse_sliding_window(raw)
    head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
    attention_bias = raw.get("attention_bias", False)
    return DecoderConfig(
        vocab_size=raw["vocab_size"],
        context_length=raw["max_position_embeddings"],
        width=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        mlp_width=raw["intermediate_size"],
        norm_epsilon=raw.get("rms_norm_eps", 1e-6),
        frequencies=_frequencies(raw, head_dim),
        qkv_bias=model_type == "qwen2" or attention_bias,
        output_bias=model_type != "qwen2" and attention_bias,
        mlp_bias=model_type == "llama" and raw.get("mlp_bias", False),
        qk_norm=model_type == "qwen3",
        tied_embeddings=raw.get("tie_word_embeddings", False),
    )


def _gpt2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    gelu = ("gelu_new", "gelu_pytorch_tanh")
    _require(raw, "activation_function", gelu, "gelu_new")
    _require(raw, "scale_attn_weights", (True,), True)
    _require(raw, "scale_attn_by_inverse_layer_idx", (False,), False)
    _require(raw, "add_cross_attention", (False,), False)
    width, heads = raw["n_embd"], raw["n_head"]
    return DecoderConfig(
        vocab_size=raw["vocab_size"],
        context_length=raw["n_positions"],
        width=width,
        num_layers=raw["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        mlp_width=raw.get("n_inner") or 4 * width,
        norm="layer",
        norm_epsilon=raw.get("layer_norm_epsilon", 1e-5),
        activation="gelu",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied_embeddings=raw.get("tie_word_embeddings", True),
    )


ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], DecoderConfig]] = {
    "llama": _llama_config,
    "qwen2": _llama_config,
    "qwen3": _llama_config,
    "gpt2": _gpt2_config,
}


def _require(
    raw: Mapping[str, Any], key: str, known: tuple[object, ...], default: object
) -> None:
    value = raw.get(key, default)
    if value not in known:
        names = ", ".join(map(str, known))
        raise CheckpointError(f"unsupported {key} {value!r} (known: {names})")


def _refuse_sliding_window(raw: Mapping[str, Any]) -> None:
    layers = raw["num_hidden_layers"]
    active = raw.get("use_sliding_window", False) and raw.get("sliding_window")
    active = active and raw.get("max_window_layers", 0) < layers
    kinds = raw.get("layer_types") or ["full_attention"]
    if active or set(kinds) != {"full_attention"}:
        remedy = "use a checkpoint with full attention in every layer"
        raise CheckpointError(f"unsupported sliding-window attention: {remedy}")


def _frequencies(raw: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    # Newer files keep base and scaling together, older ones apart.
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = scaling.get("rope_theta") or raw.get("rope_theta", 10000.0)
    return rotary_frequencies(theta, head_dim, scaling)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, whether they exist or not."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return [directory / "model.safetensors"]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index.name} has no weight_map: get it again")
    names = names.values()
    return [directory / name for name in sorted(set(names))]


def missing_files(directory: Path) -> list[str]:
    """The names of needed files that a directory lacks."""
    needed = [directory / "config.json", directory / "tokenizer.json"]
    needed += weight_files(directory)
    return [path.name for path in needed if not path.exists()]


def read_directory(
    directory: Path,
) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, tensors by the decoder's names, and tokenizer of a directory.

    Raises:
      CheckpointError: If a file is missing, damaged or not supported.
    """
    missing = missing_files(directory)
    if missing:
        raise CheckpointError(f"{', '.join(missing)} missing: get the complete files")
    raw = read_json(directory / "config.json")
    config = read_config(raw)
    tensors = {}
    for path in weight_files(directory):
        tensors |= _read_safetensors(path, raw["model_type"] == "gpt2")
    if config.tied_embeddings:
        tensors.pop("head", None)  # A second copy of the embedding.
    return config, tensors, _read_tokenizer(directory, raw)


def open_safetensors(path: Path) -> safe_open:
    """A file of tensors, with the methods `keys` and `get_tensor`."""
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        remedy = "it is damaged or not a safetensors file, get it again"
        raise CheckpointError(f"{path.name}: {error}: {remedy}") from None


def _read_safetensors(path: Path, gpt2: bool) -> dict[str, Tensor]:
    file = open_safetensors(path)
    names = {name.removeprefix("transformer."): name for name in file.keys()}  # noqa: SIM118
    if not gpt2:
        return named_tensors(LLAMA, list(file.keys()), file.get_tensor)

    def read(name: str) -> np.ndarray:
        return file.get_tensor(names[name])

    return named_tensors(GPT2, list(names), read, _transposed_in_layers)


def _transposed_in_layers(parameter: str, array: np.ndarray) -> np.ndarray:
    """GPT-2 stores the matrices of its layers as `(inputs, outputs)`."""
    return array.T if parameter.startswith("layers.") else array


def _read_tokenizer(directory: Path, raw: Mapping[str, Any]) -> Tokenizer:
    generation = read_json(directory / "generation_config.json", optional=True)
    ends = [*_ids(generation.get("eos_token_id")), *_ids(raw.get("eos_token_id"))]
    template = directory / "chat_template.jinja"
    try:
        return from_directory(
            (directory / "tokenizer.json").read_text(encoding="utf-8"),
            read_json(directory / "tokenizer_config.json", optional=True),
            template.read_text(encoding="utf-8") if template.exists() else None,
            ends,
        )
    except CheckpointError:
        raise
    except Exception as error:  # The tokenizers library raises plain `Exception`.
        raise CheckpointError(f"tokenizer.json: {error}: get it again") from None


def _ids(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it is `optional` and missing."""
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}: get it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: not a JSON object: get it again")
    return value
