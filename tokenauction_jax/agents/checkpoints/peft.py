"""Adapters as directories in the format of Hugging Face's PEFT."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save

from tokenauction_jax import files
from tokenauction_jax.agents.checkpoints.huggingface import (
    LLAMA,
    open_safetensors,
    read_json,
)
from tokenauction_jax.agents.checkpoints.weights import CheckpointError
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.agents.models.layers import wide
from tokenauction_jax.agents.models.lora import Adapter, Factors, adapted

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Other values, and the options below, change what is computed or the base's weights.
_INITIAL = (True, False, "gaussian", "eva", "orthogonal")
_KNOWN = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": _INITIAL}
_UNUSED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


def save_adapter(
    folder: str | Path, adapter: Adapter, model: Decoder, base_name: str
) -> None:
    """Writes an adapter so that `load_adapter` and PEFT can read it.

    Args:
      folder: Where the files go, made if needed; an adapter in it is replaced.
      adapter: An adapter with the same rank in all its maps.
      model: The base.
      base_name: The name by which PEFT finds the base: a hub name or a directory.

    Raises:
      ValueError: If the adapter has several ranks or does not fit the model, or the
        model is a GPT-2.
      CheckpointError: If the files cannot be written.
    """
    _refuse_gpt2(model)
    adapted(model, adapter)
    ranks = {len(factors.down) for factors in adapter.factors.values()}
    if len(ranks) != 1:
        raise ValueError(f"the adapter has the ranks {sorted(ranks)}: give it one rank")
    (rank,) = ranks
    names = {place: name for name, place in LLAMA.modules.items()}
    tensors, targets = {}, set()
    for path, (down, up) in adapter.factors.items():
        _, layer, place = path.split(".", 2)
        name = f"{_PREFIX}{LLAMA.layer}{layer}.{names[place]}"
        tensors[f"{name}.lora_A.weight"] = np.asarray(down)
        tensors[f"{name}.lora_B.weight"] = np.asarray(up)
        targets.add(names[place].rpartition(".")[2])
    config = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": rank,  # The factor alpha / rank is part of `up`.
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / CONFIG, config)
        files.write(folder / TENSORS, save(tensors))
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None


def load_adapter(folder: str | Path, model: Decoder) -> Adapter:
    """Reads an adapter that `save_adapter` or PEFT wrote.

    Args:
      folder: Where `adapter_config.json` and `adapter_model.safetensors` are.
      model: The base, a model of the Llama, Qwen2 or Qwen3 family.

    Returns:
      Factors in the dtype of the model, but at least float32; the scale
      ``alpha / rank`` (``alpha / sqrt(rank)`` with `use_rslora`) is part of `up`.

    Raises:
      CheckpointError: If a file is missing or damaged, an option is not supported, or
        the adapter does not fit the model.
    """
    folder = Path(os.path.expanduser(folder))
    try:
        _refuse_gpt2(model)
        missing = [name for name in (CONFIG, TENSORS) if not (folder / name).exists()]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing: get the complete files")
        rank, scale = _read_config(read_json(folder / CONFIG))
        adapter = _read_factors(folder / TENSORS, rank, scale, model.embedding.dtype)
        adapted(model, adapter)
    except ValueError as error:
        raise CheckpointError(f"adapter {folder}: {error}") from None
    return adapter


def _refuse_gpt2(model: Decoder) -> None:
    if model.config.frequencies is None:
        raise ValueError(
            "adapters of GPT-2 cannot be kept in files, where its queries, keys and "
            "values are one map: use a Llama, Qwen2 or Qwen3 model"
        )


def _read_config(raw: Mapping[str, Any]) -> tuple[int, float]:
    """The rank, and the scale of the updates."""
    for key, known in _KNOWN.items():
        if raw.get(key, known[0]) not in known:
            names = ", ".join(map(str, known))
            raise CheckpointError(f"unsupported {key} {raw[key]!r} (known: {names})")
    for key in _UNUSED:
        if raw.get(key):
            remedy = "merge the adapter in PEFT and load the merged model"
            raise CheckpointError(f"unsupported {key} {raw[key]!r}: {remedy}")
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{CONFIG} has r {rank!r} and lora_alpha {alpha!r}: get it again"
        )
    return rank, alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _read_factors(path: Path, rank: int, scale: float, dtype: DTypeLike) -> Adapter:
    file = open_safetensors(path)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in file.keys():  # noqa: SIM118
        match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight", name)
        parameter = match and LLAMA.parameter(f"{match[1]}.weight")
        if match is None or parameter is None:
            raise CheckpointError(f"tensor {name} has no place in the model")
        place = parameter.removesuffix(".weight")
        array = file.get_tensor(name)
        if array.ndim != 2 or array.shape[match[2] == "B"] != rank:
            remedy = "the files belong to different adapters"
            raise CheckpointError(
                f"tensor {name} is {array.shape}, {CONFIG} has r {rank}: {remedy}"
            )
        found.setdefault(place, {})[match[2]] = array.astype(wide(dtype))
    factors = {}
    for place, pair in found.items():
        if len(pair) < 2:
            raise CheckpointError(f"{place} has lora_{next(iter(pair))} only")
        factors[place] = Factors(jnp.asarray(pair["A"]), jnp.asarray(scale * pair["B"]))
    if not factors:
        raise CheckpointError(f"{path.name} has no tensors: get it again")
    return Adapter(factors)
