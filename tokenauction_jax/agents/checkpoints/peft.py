"""Adapters as directories in the format of Hugging Face's PEFT."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jax.typing import DTypeLike
from safetensors.numpy import save

from tokenauction_jax import files
from tokenauction_jax.agents.checkpoints.families import FAMILIES
from tokenauction_jax.agents.checkpoints.huggingface import Safetensors
from tokenauction_jax.agents.checkpoints.namings import LLAMA
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError,
    Settings,
    Size,
    check_files,
    parse,
    read_json,
)
from tokenauction_jax.agents.checkpoints.weights import Tensor
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.agents.models.layers import wide
from tokenauction_jax.agents.models.lora import Adapter, Factors, adapted

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Options that change what is computed or the base's weights.
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


class _Config(Settings):
    """What is used of an `adapter_config.json`; other values compute something else."""

    r: Size
    lora_alpha: float = pydantic.Field(ge=0, le=1e6)
    use_rslora: bool | None = False
    peft_type: Literal["LORA"] = "LORA"
    bias: Literal["none"] = "none"
    init_lora_weights: Literal[True, False, "gaussian", "eva", "orthogonal"] = True

    @property
    def scale(self) -> float:
        """What the updates are multiplied with."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


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
        check_files(folder / CONFIG, folder / TENSORS)
        config = _read_config(read_json(folder / CONFIG))
        adapter = _read_factors(folder / TENSORS, config, model.embedding.dtype)
        adapted(model, adapter)
    except ValueError as error:
        raise CheckpointError(f"adapter {folder}: {error}") from None
    return adapter


def check_family(model_type: str) -> None:
    """Refuses families whose maps are joined in files, where PEFT changes them.

    Raises:
      CheckpointError: If the adapters of a family cannot be kept.
    """
    joined = FAMILIES[model_type].naming.modules.values()
    if not all(isinstance(module, str) for module in joined):
        raise CheckpointError(
            f"adapters of {model_type} cannot be kept in files, where its queries, "
            "keys and values are one map: train all weights, or another model"
        )


def _refuse_gpt2(model: Decoder) -> None:
    if model.config.learned_positions:
        raise ValueError(
            "adapters of GPT-2 cannot be kept in files, where its queries, keys and "
            "values are one map: use a Llama, Qwen2 or Qwen3 model"
        )


def _read_config(raw: Mapping[str, Any]) -> _Config:
    for key in _UNUSED:
        if raw.get(key):
            remedy = "merge the adapter in PEFT and load the merged model"
            given = reprlib.repr(raw[key])
            raise CheckpointError(f"unsupported {key} {given}: {remedy}")
    return parse(_Config, raw, CONFIG)


def _read_factors(path: Path, config: _Config, dtype: DTypeLike) -> Adapter:
    file = Safetensors(path)
    found: dict[str, dict[str, Tensor]] = {}
    for name in file.names:
        match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight", name)
        places = match and LLAMA.parameters(f"{match[1]}.weight")
        if not match or not places:
            raise CheckpointError(f"tensor {name} has no place in the model")
        tensor = file.tensor(name)
        if len(tensor.shape) != 2 or tensor.shape[match[2] == "B"] != config.r:
            remedy = "the files belong to different adapters"
            raise CheckpointError(
                f"tensor {name} is {tensor.shape}, {CONFIG} has r {config.r}: {remedy}"
            )
        found.setdefault(places[0].removesuffix(".weight"), {})[match[2]] = tensor
    factors = {}
    for place, pair in found.items():
        if len(pair) < 2:
            raise CheckpointError(f"{place} has lora_{next(iter(pair))} only")
        down, up = (pair[part].read().astype(wide(dtype)) for part in "AB")
        factors[place] = Factors(jnp.asarray(down), jnp.asarray(config.scale * up))
    if not factors:
        raise CheckpointError(f"{path.name} has no tensors: get it again")
    return Adapter(factors)
