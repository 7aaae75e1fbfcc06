"""Checkpoints as GGUF files: one file with configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tokenauction_jax.agents.checkpoints.gguf_file import read_gguf
from tokenauction_jax.agents.checkpoints.gguf_tokenizer import from_gguf
from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Epsilon,
    Settings,
    Size,
    parse,
)
from tokenauction_jax.agents.checkpoints.rotary import rotary_frequencies
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import Naming, Tensor, named_tensors
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


class _Hyperparameters(Settings):
    """The numbers of a model, without the architecture's name before each key.

    Options that change the model and that the decoder does not know must be 0.
    """

    context_length: Size
    embedding_length: Size
    block_count: Size
    feed_forward_length: Size
    heads: Size = Field(alias="attention.head_count")
    kv_heads: Size | None = Field(None, alias="attention.head_count_kv")
    head_dim: Size | None = Field(None, alias="attention.key_length")
    value_length: Size | None = Field(None, alias="attention.value_length")
    rotated: Size | None = Field(None, alias="rope.dimension_count")
    theta: Base = Field(10000.0, alias="rope.freq_base")
    scaling: str = Field("none", alias="rope.scaling.type")
    factor: float = Field(1.0, alias="rope.scaling.factor")
    layer_epsilon: Epsilon | None = Field(None, alias="attention.layer_norm_epsilon")
    rms_epsilon: Epsilon | None = Field(None, alias="attention.layer_norm_rms_epsilon")
    experts: Literal[0] = Field(0, alias="expert_count")
    window: Literal[0] = Field(0, alias="attention.sliding_window")


def read_file(path: Path) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, tensors by the decoder's names, and tokenizer of a GGUF file.

    Raises:
      CheckpointError: If the file is damaged, or holds a model or a tokenizer that is
        not supported.
    """
    metadata, stored = read_gguf(path)
    config = read_config(metadata, stored)
    convert = _unpermuted(config.head_dim)
    plain = metadata["general.architecture"] != "llama"
    convert = (lambda _, tensor: tensor) if plain else convert
    tensors = named_tensors(_NAMING, list(stored), stored.__getitem__, convert)
    return config, tensors, from_gguf(metadata)


def architecture(metadata: Mapping[str, Any]) -> str:
    """The architecture of a file, which must be one that the decoder knows."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"unknown architecture {name!r} (known: {known})")
    return name


def read_config(
    metadata: Mapping[str, Any], stored: Mapping[str, Tensor]
) -> DecoderConfig:
    """The decoder's shape, from the metadata and the names of the tensors.

    Raises:
      CheckpointError: If the decoder does not compute the model exactly, or the
        metadata lack a number or have one that makes no sense.
    """
    name = architecture(metadata)
    prefix = f"{name}."
    values = {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }
    numbers = parse(_Hyperparameters, values, name)
    heads, width = numbers.heads, numbers.embedding_length
    gpt2 = name == "gpt2"
    epsilon = numbers.layer_epsilon if gpt2 else numbers.rms_epsilon
    if epsilon is None:
        raise CheckpointError(f"{name} has no epsilon: convert the file again")
    vocabulary = stored.get("token_embd.weight")
    if vocabulary is None:
        raise CheckpointError("no tensor token_embd.weight: the file is incomplete")
    head_dim = _head_dim(numbers)
    return DecoderConfig(
        vocab_size=vocabulary.shape[0],
        context_length=numbers.context_length,
        width=width,
        num_layers=numbers.block_count,
        num_heads=heads,
        num_kv_heads=numbers.kv_heads or heads,
        head_dim=head_dim,
        mlp_width=numbers.feed_forward_length,
        norm="layer" if gpt2 else "rms",
        norm_epsilon=epsilon,
        activation="gelu" if gpt2 else "silu",
        frequencies=None if gpt2 else _frequencies(numbers, stored, head_dim),
        qkv_bias=gpt2 or "blk.0.attn_q.bias" in stored,
        output_bias="blk.0.attn_output.bias" in stored,
        mlp_bias="blk.0.ffn_up.bias" in stored,
        qk_norm="blk.0.attn_q_norm.weight" in stored,
        tied_embeddings="output.weight" not in stored,
    )


def _head_dim(numbers: _Hyperparameters) -> int:
    """The size of a head, which values and rotary angles must share."""
    size = numbers.head_dim
    if size is None and numbers.embedding_length % numbers.heads:
        raise CheckpointError(
            f"an embedding_length of {numbers.embedding_length} is no multiple of "
            f"attention.head_count {numbers.heads}"
        )
    size = size or numbers.embedding_length // numbers.heads
    for key, given in (
        ("attention.value_length", numbers.value_length),
        ("rope.dimension_count", numbers.rotated),
    ):
        if given not in (None, size):
            raise CheckpointError(f"unsupported {key} {given}: it must be {size}")
    return size


def _frequencies(
    numbers: _Hyperparameters, stored: Mapping[str, Tensor], head_dim: int
) -> tuple[float, ...]:
    kind = numbers.scaling
    scaling: dict[str, Any] = {"rope_type": "default" if kind == "none" else kind}
    if kind == "linear":
        scaling |= {"factor": numbers.factor}
    frequencies = rotary_frequencies(numbers.theta, head_dim, scaling, "rope.scaling")
    divisors = stored.get("rope_freqs.weight")
    if divisors is None:
        return frequencies
    # Llama 3 files have the scaling as divisors.
    if divisors.shape != (head_dim // 2,):
        raise CheckpointError(f"rope_freqs.weight is {divisors.shape}: get it again")
    values = divisors.read()
    if not (np.isfinite(values) & (values >= 1e-3)).all():
        raise CheckpointError("rope_freqs.weight must be positive: get it again")
    return tuple((np.array(frequencies) / values).tolist())


def _unpermuted(head_dim: int) -> Callable[[str, Tensor], Tensor]:
    """Undoes the order of rows that llama.cpp's interleaved rotation needs.

    It pairs neighbouring rows of a head, while the decoder pairs its first half with
    its second.
    """

    def convert(parameter: str, tensor: Tensor) -> Tensor:
        module = parameter.rpartition(".")[0]
        if not module.endswith(("attention.query", "attention.key")):
            return tensor

        def read() -> np.ndarray:
            array = tensor.read()
            pairs = array.reshape(-1, head_dim // 2, 2, *array.shape[1:])
            return pairs.swapaxes(1, 2).reshape(array.shape)

        return tensor._replace(read=read)

    return convert
