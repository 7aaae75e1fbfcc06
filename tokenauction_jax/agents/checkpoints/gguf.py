"""Checkpoints as GGUF files: one file with configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from tokenauction_jax.agents.checkpoints.text import Tokenizer, from_gguf
from tokenauction_jax.agents.checkpoints.weights import (
    CheckpointError,
    Naming,
    Tensor,
    named_tensors,
    rotary_frequencies,
)
from tokenauction_jax.agents.models.decoder import DecoderConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")

_NAMING = Naming(
    layer="blk.",
    modules={
        "attn_norm": "attention_norm",
        "attn_q": "attention.query",
        "attn_k": "attention.key",
        "attn_v": "attention.value",
        "attn_qkv": "attention.qkv",
        "attn_output": "attention.output",
        "attn_q_norm": "attention.query_norm",
        "attn_k_norm": "attention.key_norm",
        "ffn_norm": "mlp_norm",
        "ffn_gate": "mlp.gate",
        "ffn_up": "mlp.up",
        "ffn_down": "mlp.down",
    },
    others={
        "token_embd.weight": "embedding",
        "position_embd.weight": "positions",
        "output_norm.weight": "norm.weight",
        "output_norm.bias": "norm.bias",
        "output.weight": "head",
    },
    ignored=r"rope_freqs\.weight",  # Part of the configuration.
)


def read_file(path: Path) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, tensors by the decoder's names, and tokenizer of a GGUF file.

    Raises:
      CheckpointError: If the file is damaged, or holds a model or a tokenizer that is
        not supported.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        remedy = "it is incomplete or not a GGUF file, get it again"
        raise CheckpointError(f"{path.name}: {error}: {remedy}") from None
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        config = read_config(metadata, stored)
        tokenizer = from_gguf(metadata)
    except KeyError as error:
        remedy = "convert it again with a current converter"
        raise CheckpointError(f"{path.name} has no {error}: {remedy}") from None
    convert = partial(_unpermuted, config=config)
    plain = metadata["general.architecture"] != "llama"
    convert = (lambda _, array: array) if plain else convert
    read = partial(_values, stored)
    return config, named_tensors(_NAMING, list(stored), read, convert), tokenizer


def architecture(metadata: Mapping[str, Any]) -> str:
    """The architecture of a file, which must be one that the decoder knows."""
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"unknown architecture {name!r} (known: {known})")
    return name


def read_config(
    metadata: Mapping[str, Any], stored: Mapping[str, gguf.ReaderTensor]
) -> DecoderConfig:
    """The decoder's shape, from the metadata and the names of the tensors.

    Raises:
      CheckpointError: If the decoder does not compute the model exactly.
      KeyError: If the metadata lacks a number.
    """
    name = architecture(metadata)
    prefix = f"{name}."
    values = {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }
    _refuse_unsupported(values)
    heads, width = values["attention.head_count"], values["embedding_length"]
    head_dim = values.get("attention.key_length", width // heads)
    gpt2 = name == "gpt2"
    epsilon = "layer_norm_epsilon" if gpt2 else "layer_norm_rms_epsilon"
    return DecoderConfig(
        vocab_size=int(stored["token_embd.weight"].shape[-1]),
        context_length=values["context_length"],
        width=width,
        num_layers=values["block_count"],
        num_heads=heads,
        num_kv_heads=values.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=values["feed_forward_length"],
        norm="layer" if gpt2 else "rms",
        norm_epsilon=values[f"attention.{epsilon}"],
        activation="gelu" if gpt2 else "silu",
        frequencies=None if gpt2 else _frequencies(values, stored, head_dim),
        qkv_bias=gpt2 or "blk.0.attn_q.bias" in stored,
        output_bias="blk.0.attn_output.bias" in stored,
        mlp_bias="blk.0.ffn_up.bias" in stored,
        qk_norm="blk.0.attn_q_norm.weight" in stored,
        tied_embeddings="output.weight" not in stored,
    )


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Refuses options that the decoder does not know and that change the model."""
    for key in ("expert_count", "attention.sliding_window"):
        if values.get(key):
            raise CheckpointError(f"unsupported {key} {values[key]}: it must be 0")
    for key in ("attention.head_count", "attention.head_count_kv"):
        if isinstance(values.get(key), list):
            raise CheckpointError(f"unsupported {key} that differs between layers")
    size = values.get("attention.key_length")
    for key in ("attention.value_length", "rope.dimension_count"):
        if size is not None and values.get(key, size) != size:
            raise CheckpointError(f"unsupported {key} {values[key]}: must be {size}")


def _frequencies(
    values: Mapping[str, Any], stored: Mapping[str, gguf.ReaderTensor], head_dim: int
) -> tuple[float, ...]:
    if values.get("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(f"unsupported rope.dimension_count: must be {head_dim}")
    kind = values.get("rope.scaling.type", "none")
    scaling = {"rope_type": "default" if kind == "none" else kind}
    scaling |= {"factor": values.get("rope.scaling.factor", 1.0)}
    theta = values.get("rope.freq_base", 10000.0)
    frequencies = np.array(rotary_frequencies(theta, head_dim, scaling))
    if "rope_freqs.weight" in stored:  # Llama 3 files have the scaling as divisors.
        frequencies = frequencies / _values(stored, "rope_freqs.weight")
    return tuple(frequencies.tolist())


def _values(stored: Mapping[str, gguf.ReaderTensor], name: str) -> np.ndarray:
    tensor = stored[name]
    try:
        return dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        kind = tensor.tensor_type.name
        remedy = "convert the model with another quantisation"
        raise CheckpointError(f"{name}: unknown type {kind}: {remedy}") from None


def _unpermuted(parameter: str, array: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """Undoes the order of rows that llama.cpp's interleaved rotation needs.

    It pairs neighbouring rows of a head, while the decoder pairs its first half with
    its second.
    """
    if not parameter.rpartition(".")[0].endswith(("attention.query", "attention.key")):
        return array
    pairs = array.reshape(-1, config.head_dim // 2, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
