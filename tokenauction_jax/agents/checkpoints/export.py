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
from tokenauction_jax.agents.checkpoints.families import FAMILIES, family, read_config
from tokenauction_jax.agents.checkpoints.gpt import GPT2
from tokenauction_jax.agents.checkpoints.reading import CheckpointError, parse
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import joined
from tokenauction_jax.agents.models.config import DecoderConfig, Rotary
from tokenauction_jax.agents.models.decoder import Decoder

# Keys of a `config.json` that say how it was written, not what the model is.
_PROVENANCE = ("_name_or_path", "auto_map", "torch_dtype", "transformers_version")


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
      base: The contents of the `config.json` that the model began with; needed for
        what only that describes, such as the scaling of a rotary embedding.

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
    return joined(FAMILIES[model_type].naming, model.config, ours)


def raw_config(
    config: DecoderConfig, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The contents of a `config.json` that `read_config` turns into `config`.

    Rotary embeddings are written both ways that readers know, together in
    `rope_parameters` and apart in `rope_theta` and `rope_scaling`.

    Args:
      config: The shape of the decoder.
      base: The contents of a `config.json` of the same model.

    Raises:
      CheckpointError: If there is none, for example for scaled rotary angles without a
        `base` that describes the scaling.
    """
    tied = {"tie_word_embeddings": config.tied_embeddings}
    raw = dict(base) | tied if base else {}
    if not base or not _same(read_config(raw), config):
        raw = _plain(config) | tied
    if not _same(read_config(raw), config):
        raise CheckpointError(
            "no config.json describes this model: if it is of another family than "
            "Llama, Qwen2, Qwen3 and GPT-2, or its rotary embedding is scaled, load it "
            "from a Hugging Face directory"
        )
    kind = family(raw)
    if not issubclass(kind, GPT2):
        raw |= parse(kind, raw, "config.json").rotary_keys()
    kept = {key: value for key, value in raw.items() if key not in _PROVENANCE}
    return kept | {"architectures": [kind.architecture]}


def _plain(config: DecoderConfig) -> dict[str, Any]:
    """The contents for a model of Llama's, Qwen2's, Qwen3's or GPT-2's shape."""
    layer = config.layers[0]
    if config.learned_positions:
        return {
            "model_type": "gpt2",
            "vocab_size": config.vocab_size,
            "n_positions": config.context_length,
            "n_embd": config.width,
            "n_layer": len(config.layers),
            "n_head": layer.num_heads,
            "n_inner": layer.mlp_width,
            "layer_norm_epsilon": config.norm.epsilon,
            "activation_function": "gelu_new",
            "bos_token_id": None,  # The default is a token of the original GPT-2.
        }
    qwen2 = layer.qkv_bias and not layer.output_bias
    return {
        "model_type": "qwen3" if layer.qk_norm else "qwen2" if qwen2 else "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.width,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": layer.num_heads,
        "num_key_value_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
        "intermediate_size": layer.mlp_width,
        "rms_norm_eps": config.norm.epsilon,
        "hidden_act": "silu",
        "attention_bias": layer.output_bias,
        "mlp_bias": layer.mlp_bias,
        "rope_theta": _theta(layer.rotary),
    }


def _theta(rotary: Rotary | None) -> float:
    """The base of the rotary angles ``theta^(-i / pairs)``."""
    frequencies = rotary.frequencies if rotary else (1.0,)
    if len(frequencies) == 1:
        return 10000.0
    return float(f"{frequencies[1] ** -len(frequencies):.9g}")


def _same(one: DecoderConfig, other: DecoderConfig) -> bool:
    """Whether two configurations are equal, up to rounding of angles."""
    if len(one.layers) != len(other.layers):
        return False
    pairs = {
        (x.rotary, y.rotary) for x, y in zip(one.layers, other.layers, strict=True)
    }
    close = all(_close(*pair) for pair in pairs)
    return close and _unturned(one) == _unturned(other)


def _close(one: Rotary | None, other: Rotary | None) -> bool:
    if one is None or other is None:
        return one is other
    if len(one.frequencies) != len(other.frequencies):
        return False
    near = np.allclose(one.frequencies, other.frequencies, rtol=1e-6, atol=0)
    plain = [dataclasses.replace(x, frequencies=()) for x in (one, other)]
    return near and plain[0] == plain[1]


def _unturned(config: DecoderConfig) -> DecoderConfig:
    layers = (dataclasses.replace(layer, rotary=None) for layer in config.layers)
    return dataclasses.replace(config, layers=tuple(layers))
