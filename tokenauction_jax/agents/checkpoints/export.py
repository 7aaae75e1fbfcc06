"""Writing language models as Hugging Face directories, which `transformers` loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save

from tokenauction_jax import files
from tokenauction_jax.agents.checkpoints.huggingface import GPT2, LLAMA, read_config
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import Naming
from tokenauction_jax.agents.models.decoder import Decoder, DecoderConfig

_FUSED = ("query", "key", "value")
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def write_directory(
    folder: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    *,
    dtype: DTypeLike | None = None,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Writes configuration, tokenizer and weights into a folder, made if needed.

    Every file appears whole or not at all, the weights last.

    Args:
      folder: Where the files go; others in it stay.
      model: A model of any family that the decoder knows.
      tokenizer: The tokenizer of the model.
      dtype: The type of the weights in the file; None to keep theirs.
      base: The contents of the `config.json` that the model began with, which
        describes the scaling of its rotary embedding, if it has one.

    Raises:
      CheckpointError: If no configuration describes the model, or the files cannot be
        written.
    """
    raw = raw_config(model.config, base or {})
    # `save` writes memory in its order: a transposed view would come out wrong.
    tensors = {
        name: np.ascontiguousarray(array, dtype)
        for name, array in named_arrays(model, raw["model_type"]).items()
    }
    ends = {"eos_token_id": list(tokenizer.end_tokens)} if tokenizer.end_tokens else {}
    raw |= ends | {"dtype": str(next(iter(tensors.values())).dtype)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
        files.write_json(folder / "config.json", raw)
        files.write_json(folder / "generation_config.json", ends)
        weights = save(tensors, {"format": "pt"})
        files.write(folder / "model.safetensors", weights)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None


def named_arrays(model: Decoder, model_type: str) -> dict[str, np.ndarray]:
    """The parameters, named and laid out as in the checkpoints of a family."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    ours = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}
    if model_type != "gpt2":
        return {_tensor(LLAMA, name): array for name, array in ours.items()}
    named: dict[str, list[np.ndarray]] = {}
    for name in sorted(ours, key=_fusing_order):
        # GPT-2 stores the matrices of its layers as `(inputs, outputs)`.
        array = ours[name].T if name.startswith("layers.") else ours[name]
        named.setdefault(f"transformer.{_tensor(GPT2, name)}", []).append(array)
    return {name: np.concatenate(parts, axis=-1) for name, parts in named.items()}


def _fusing_order(parameter: str) -> int:
    return next((i for i, x in enumerate(_FUSED) if f".{x}." in parameter), 0)


def _tensor(naming: Naming, parameter: str) -> str:
    """A checkpoint's name of a parameter of the decoder, the inverse of `Naming`."""
    for theirs, ours in naming.others.items():
        if ours == parameter:
            return theirs
    _, layer, rest = parameter.split(".", 2)
    module, _, kind = rest.rpartition(".")
    for theirs, ours in naming.modules.items():
        block, _, last = ours.rpartition(".")
        fused = last == "qkv" and module in (f"{block}.{x}" for x in _FUSED)
        if module == ours or fused:
            return f"{naming.layer}{layer}.{theirs}.{kind}"
    raise CheckpointError(f"this family of checkpoints has no place for {parameter}")


def raw_config(
    config: DecoderConfig, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The contents of a `config.json` that `read_config` turns into `config`.

    Args:
      config: The shape of the decoder.
      base: The contents of a `config.json` with the same rotary embedding.

    Raises:
      CheckpointError: If there is none, for example for scaled rotary angles without a
        `base` that describes the scaling.
    """
    model_type = _model_type(config)
    raw = {
        "model_type": model_type,
        "architectures": [_ARCHITECTURES[model_type]],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
    }
    if model_type == "gpt2":
        raw |= {
            "n_positions": config.context_length,
            "n_embd": config.width,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.mlp_width,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation_function": "gelu_new",
            "bos_token_id": None,  # The default is a token of the original GPT-2.
        }
    else:
        raw |= {
            "max_position_embeddings": config.context_length,
            "hidden_size": config.width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.mlp_width,
            "rms_norm_eps": config.norm_epsilon,
            "hidden_act": "silu",
            "attention_bias": config.output_bias,
            "mlp_bias": config.mlp_bias,
        }
        rotary = {key: base[key] for key in _ROTARY if base and key in base}
        raw |= rotary or {"rope_theta": _theta(config)}
    if not _same(read_config(raw), config):
        raise CheckpointError(
            "no config.json describes this model: if its rotary embedding is scaled, "
            "load it from a Hugging Face directory"
        )
    return raw


def _model_type(config: DecoderConfig) -> str:
    if config.norm == "layer":
        return "gpt2"
    if config.qk_norm:
        return "qwen3"
    return "qwen2" if config.qkv_bias and not config.output_bias else "llama"


def _theta(config: DecoderConfig) -> float:
    """The base of the rotary angles ``theta^(-2 i / head_dim)``."""
    frequencies = config.frequencies or (1.0,)
    if len(frequencies) == 1:
        return 10000.0
    return float(f"{frequencies[1] ** (-config.head_dim / 2):.9g}")


def _same(one: DecoderConfig, other: DecoderConfig) -> bool:
    """Whether two configurations are equal, up to rounding of angles."""
    angles = [np.array(config.frequencies or ()) for config in (one, other)]
    if angles[0].shape != angles[1].shape or not np.allclose(*angles, rtol=1e-6):
        return False
    plain = [dataclasses.replace(config, frequencies=None) for config in (one, other)]
    return plain[0] == plain[1]
