"""Checkpoints as GGUF files: one file with configuration, weights and tokenizer.

Their configuration becomes the `config.json` of the same model, so that a model means
the same in both formats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tokenauction_jax.agents.checkpoints.families import FAMILIES, read_config
from tokenauction_jax.agents.checkpoints.family import Family
from tokenauction_jax.agents.checkpoints.gguf_file import read_gguf
from tokenauction_jax.agents.checkpoints.gguf_tokenizer import from_gguf
from tokenauction_jax.agents.checkpoints.namings import GGUF, GGUF_PHI3
from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Epsilon,
    Layers,
    Settings,
    Size,
    parse,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import Tensor, named_tensors
from tokenauction_jax.agents.models.config import DecoderConfig, LayerConfig

# The families' `model_type` by the names of architectures.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "granite": "granite",
    "stablelm": "stablelm",
    "gptneox": "gpt_neox",
    "gpt2": "gpt2",
}
# Their rotation pairs neighbouring rows of a head.
_INTERLEAVED = ("llama", "smollm3", "granite")
# The largest Gemmas scale scores by the width of a head if heads shared the stream.
_LARGEST_GEMMAS = {"gemma2": 46, "gemma3": 62}


class _Hyperparameters(Settings):
    """The numbers of a model, without the architecture's name before each key."""

    context_length: Size
    embedding_length: Size
    block_count: Layers
    feed_forward_length: Size
    heads: Size = Field(alias="attention.head_count")
    kv_heads: Size | None = Field(None, alias="attention.head_count_kv")
    head_dim: Size | None = Field(None, alias="attention.key_length")
    value_length: Size | None = Field(None, alias="attention.value_length")
    layer_epsilon: Epsilon | None = Field(None, alias="attention.layer_norm_epsilon")
    rms_epsilon: Epsilon | None = Field(None, alias="attention.layer_norm_rms_epsilon")
    window: int = Field(0, alias="attention.sliding_window", ge=0, lt=2**31)
    rotated: Size | None = Field(None, alias="rope.dimension_count")
    theta: Base | None = Field(None, alias="rope.freq_base")
    theta_in_windows: Base | None = Field(None, alias="rope.freq_base_swa")
    scaling: str = Field("none", alias="rope.scaling.type")
    factor: Base | None = Field(None, alias="rope.scaling.factor")
    original: Size | None = Field(None, alias="rope.scaling.original_context_length")
    turned_scale: float | None = Field(None, alias="rope.scaling.attn_factor")
    beta_fast: float | None = Field(None, alias="rope.scaling.yarn_beta_fast")
    beta_slow: float | None = Field(None, alias="rope.scaling.yarn_beta_slow")
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    attention_multiplier: float | None = Field(None, alias="attention.scale")
    embedding_multiplier: float | None = Field(None, alias="embedding_scale")
    residual_multiplier: float | None = Field(None, alias="residual_scale")
    logits_scaling: float | None = Field(None, alias="logit_scale")
    use_parallel_residual: bool | None = None
    # Options that change the model and that the decoder does not know.
    experts: Literal[0] = Field(0, alias="expert_count")


def read_file(
    path: Path,
) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer, dict[str, Any]]:
    """Configuration, tensors by the decoder's names, tokenizer and `config.json`.

    Raises:
      CheckpointError: If the file is damaged, or holds a model or a tokenizer that is
        not supported.
    """
    metadata, stored = read_gguf(path)
    name = architecture(metadata)
    raw = raw_config(metadata, stored)
    config = _divided(read_config(raw), stored)
    tensors = named_tensors(
        GGUF_PHI3 if name == "phi3" else GGUF,
        config,
        list(stored),
        stored.__getitem__,
        _converted(config, name),
    )
    return config, tensors, from_gguf(metadata), raw


def architecture(metadata: Mapping[str, Any]) -> str:
    """The architecture of a file, which must be one that the decoder knows."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"unknown architecture {name!r} (known: {known})")
    return name


def raw_config(
    metadata: Mapping[str, Any], stored: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The contents of a `config.json` of the model in a file.

    Raises:
      CheckpointError: If the metadata lack a number or have one that makes no sense.
    """
    name = architecture(metadata)
    prefix = f"{name}."
    values = {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }
    numbers = parse(_Hyperparameters, values, name)
    vocabulary = stored.get("token_embd.weight")
    if vocabulary is None:
        raise CheckpointError("no tensor token_embd.weight: the file is incomplete")
    epsilon = numbers.layer_epsilon or numbers.rms_epsilon
    if epsilon is None:
        raise CheckpointError(f"{name} has no epsilon: convert the file again")
    shared = {
        "model_type": ARCHITECTURES[name],
        "vocab_size": vocabulary.shape[0],
        "tie_word_embeddings": "output.weight" not in stored,
    }
    if name == "gpt2":
        return shared | {
            "n_positions": numbers.context_length,
            "n_embd": numbers.embedding_length,
            "n_layer": numbers.block_count,
            "n_head": numbers.heads,
            "n_inner": numbers.feed_forward_length,
            "layer_norm_epsilon": epsilon,
        }
    if name == "olmo2" and numbers.window:
        shared["model_type"] = "olmo3"
    if name in ("llama", "qwen2", "qwen3", "granite", "smollm3") and numbers.window:
        raise CheckpointError(
            f"unsupported attention.sliding_window {numbers.window} of a {name} file: "
            "use the Hugging Face directory of the model"
        )
    biases = "blk.0.attn_q.bias" in stored or "blk.0.attn_qkv.bias" in stored
    optional = {
        "head_dim": numbers.head_dim,
        "rope_theta": numbers.theta,
        "rope_local_base_freq": numbers.theta_in_windows,
        "attn_logit_softcapping": numbers.attn_logit_softcapping,
        "final_logit_softcapping": numbers.final_logit_softcapping,
        "attention_multiplier": numbers.attention_multiplier,
        "embedding_multiplier": numbers.embedding_multiplier,
        "residual_multiplier": numbers.residual_multiplier,
        "logits_scaling": numbers.logits_scaling,
        "use_parallel_residual": numbers.use_parallel_residual,
        "rope_scaling": _scaling(numbers, stored),
    }
    head_dim = _head_dim(numbers)
    if name in _LARGEST_GEMMAS:
        largest = numbers.block_count == _LARGEST_GEMMAS[name]
        width = numbers.embedding_length // numbers.heads
        optional["query_pre_attn_scalar"] = width if largest else head_dim
    share = _rotated_share(numbers, head_dim)
    family = FAMILIES[shared["model_type"]]
    if share < 1 and not (issubclass(family, Family) and family.partly_rotated):
        raise CheckpointError(
            f"unsupported rope.dimension_count {numbers.rotated}: it must be {head_dim}"
        )
    found = (
        shared
        | {key: value for key, value in optional.items() if value is not None}
        | {
            "max_position_embeddings": numbers.context_length,
            "original_max_position_embeddings": numbers.original
            or numbers.context_length,
            "hidden_size": numbers.embedding_length,
            "num_hidden_layers": numbers.block_count,
            "num_attention_heads": numbers.heads,
            "num_key_value_heads": numbers.kv_heads or numbers.heads,
            "intermediate_size": numbers.feed_forward_length,
            "rms_norm_eps": epsilon,
            "layer_norm_eps": epsilon,
            "sliding_window": numbers.window or None,
            "partial_rotary_factor": share,
            "rotary_pct": share,
            "attention_bias": biases,
            "use_qkv_bias": biases,
            "mlp_bias": "blk.0.ffn_up.bias" in stored,
        }
    )
    known = {"model_type", *family.model_fields}
    return {key: value for key, value in found.items() if key in known}


def _head_dim(numbers: _Hyperparameters) -> int:
    """The size of a head, which values must share."""
    size = numbers.head_dim
    if size is None and numbers.embedding_length % numbers.heads:
        raise CheckpointError(
            f"an embedding_length of {numbers.embedding_length} is no multiple of "
            f"attention.head_count {numbers.heads}"
        )
    size = size or numbers.embedding_length // numbers.heads
    if numbers.value_length not in (None, size):
        raise CheckpointError(
            f"unsupported attention.value_length {numbers.value_length}: it must be "
            f"{size}"
        )
    return size


def _rotated_share(numbers: _Hyperparameters, head_dim: int) -> float:
    """The share of a head that is rotated."""
    rotated = numbers.rotated or head_dim
    if rotated > head_dim:
        raise CheckpointError(
            f"unsupported rope.dimension_count {rotated}: a head has {head_dim} numbers"
        )
    share = rotated / head_dim
    # Readers round the product with the size of a head down.
    return share if int(share * head_dim) == rotated else math.nextafter(share, 1)


def _scaling(
    numbers: _Hyperparameters, stored: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """The `rope_scaling` of a file."""
    parts = [f"rope_factors_{kind}.weight" for kind in ("short", "long")]
    if all(part in stored for part in parts):
        short, long = (stored[part].read().ravel().tolist() for part in parts)
        found = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
        return found | {"attention_factor": numbers.turned_scale}
    if numbers.scaling == "none":
        return None
    if numbers.scaling not in ("linear", "yarn"):
        raise CheckpointError(
            f"unsupported rotary scaling {numbers.scaling!r} of a GGUF file (known: "
            "none, linear, yarn)"
        )
    found = {"rope_type": numbers.scaling, "factor": numbers.factor}
    if numbers.factor is None:
        raise CheckpointError("rope.scaling.factor is missing: convert the file again")
    if numbers.scaling == "linear":
        return found
    if numbers.turned_scale not in (None, 1):
        raise CheckpointError(
            f"unsupported rope.scaling.attn_factor {numbers.turned_scale} of YaRN"
        )
    extra = {
        "original_max_position_embeddings": numbers.original,
        "beta_fast": numbers.beta_fast,
        "beta_slow": numbers.beta_slow,
    }
    return found | {key: value for key, value in extra.items() if value is not None}


def _divided(config: DecoderConfig, stored: Mapping[str, Tensor]) -> DecoderConfig:
    """The configuration with Llama 3's scaling, which files have as divisors."""
    divisors = stored.get("rope_freqs.weight")
    if divisors is None:
        return config
    values = divisors.read()
    if not (np.isfinite(values) & (values >= 1e-3)).all():
        raise CheckpointError("rope_freqs.weight must be positive: get it again")

    def divided(layer: LayerConfig) -> LayerConfig:
        if layer.rotary is None:
            return layer
        plain = np.array(layer.rotary.frequencies)
        if divisors.shape != plain.shape:
            raise CheckpointError(
                f"rope_freqs.weight is {divisors.shape}: get it again"
            )
        frequencies = tuple((plain / values).tolist())
        rotary = dataclasses.replace(layer.rotary, frequencies=frequencies)
        return dataclasses.replace(layer, rotary=rotary)

    layers = {layer: divided(layer) for layer in dict.fromkeys(config.layers)}
    new = tuple(layers[layer] for layer in config.layers)
    return dataclasses.replace(config, layers=new)


def _converted(config: DecoderConfig, name: str) -> Callable[[str, Tensor], Tensor]:
    """The decoder's layout of tensors that a file keeps in another."""
    half, offset = config.layers[0].head_dim // 2, config.norm.offset

    def convert(parameter: str, tensor: Tensor) -> Tensor:
        module, _, kind = parameter.rpartition(".")
        if module.endswith("norm") and kind == "weight" and offset:
            # Files have weights with the offset.
            return tensor._replace(read=lambda: tensor.read() - np.float32(offset))
        if name not in _INTERLEAVED or not module.endswith(
            ("attention.query", "attention.key")
        ):
            return tensor

        def read() -> np.ndarray:
            # The decoder pairs the first half of a head with its second.
            array = tensor.read()
            pairs = array.reshape(-1, half, 2, *array.shape[1:])
            return pairs.swapaxes(1, 2).reshape(array.shape)

        return tensor._replace(read=read)

    return convert
