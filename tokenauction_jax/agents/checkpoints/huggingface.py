"""Checkpoints as Hugging Face directories: configuration, safetensors and tokenizer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tokenauction_jax.agents.checkpoints.families import family, read_config
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError,
    Settings,
    TokenId,
    check_files,
    is_file,
    parse,
    read_json,
    read_text,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.tokenizer_files import from_directory
from tokenauction_jax.agents.checkpoints.weights import Tensor, named_tensors
from tokenauction_jax.agents.models.config import DecoderConfig

# The files of a repository that are needed, as glob patterns.
FILES: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
)

_FLOATS = ("F64", "F32", "F16", "BF16")


class _Ends(Settings):
    """The tokens that end a text, in both configurations."""

    eos_token_id: TokenId | list[TokenId] | None = None

    def ids(self) -> list[int]:
        value = self.eos_token_id
        return value if isinstance(value, list) else [] if value is None else [value]


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, whether they exist or not."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return [directory / "model.safetensors"]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index.name} has no weight_map: get it again")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(
                f"{index.name}: weight_map has {name!r}: give the name of a file beside"
            )
    return [directory / name for name in sorted(set(names.values()))]


def _needed(directory: Path) -> list[Path]:
    return [
        directory / "config.json",
        directory / "tokenizer.json",
        *weight_files(directory),
    ]


def missing_files(directory: Path) -> list[str]:
    """The names of needed files that a directory lacks."""
    return [path.name for path in _needed(directory) if not is_file(path)]


def read_directory(
    directory: Path,
) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, tensors by the decoder's names, and tokenizer of a directory.

    Raises:
      CheckpointError: If a file is missing, damaged or not supported.
    """
    _refuse_pickles(directory)
    check_files(*_needed(directory))
    raw = read_json(directory / "config.json")
    config = read_config(raw)
    naming, tensors = family(raw).naming, {}
    for path in weight_files(directory):
        file = Safetensors(path)
        tensors |= named_tensors(naming, config, file.names, file.tensor)
    if config.tied_embeddings and "head" in tensors:
        if _equal(tensors["head"], tensors.get("embedding")):
            del tensors["head"]
        else:  # What the file holds counts.
            config = dataclasses.replace(config, tied_embeddings=False)
    return config, tensors, _read_tokenizer(directory, raw)


def _equal(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape:
        return False
    return np.array_equal(one.read(), other.read())


def _refuse_pickles(directory: Path) -> None:
    """Says what to do with weights that only run code can read."""
    if any(is_file(path) for path in weight_files(directory)):
        return
    names = [path.name for path in sorted(directory.glob("pytorch_model*.bin"))]
    if names:
        raise CheckpointError(
            f"the weights are in {names[0]}, a format that can run code: convert them "
            "with transformers, AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )


class Safetensors:
    """A file of tensors, of which only the names and shapes are read at first.

    Attributes:
      names: The names of the tensors.
    """

    def __init__(self, path: Path):
        check_files(path)
        try:
            self._file = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            remedy = "it is damaged or not a safetensors file, get it again"
            raise CheckpointError(f"{path.name}: {error}: {remedy}") from None
        self.names: list[str] = list(self._file.keys())

    def tensor(self, name: str) -> Tensor:
        """One of the tensors.

        Raises:
          CheckpointError: If its numbers are not floats.
        """
        entry = self._file.get_slice(name)
        if entry.get_dtype() not in _FLOATS:
            raise CheckpointError(
                f"tensor {name[:80]} has the type {entry.get_dtype()}: it must be one "
                f"of {', '.join(_FLOATS)}"
            )
        shape = tuple(entry.get_shape())
        return Tensor(name, shape, lambda: self._file.get_tensor(name))


def _read_tokenizer(directory: Path, raw: Mapping[str, Any]) -> Tokenizer:
    generation = directory / "generation_config.json"
    ends = parse(_Ends, read_json(generation, optional=True), generation.name).ids()
    template = directory / "chat_template.jinja"
    return from_directory(
        read_text(directory / "tokenizer.json"),
        read_json(directory / "tokenizer_config.json", optional=True),
        read_text(template) if template.exists() else None,
        [*ends, *parse(_Ends, raw, "config.json").ids()],
        added_tokens=read_json(directory / "added_tokens.json", optional=True),
        special_tokens_map=read_json(
            directory / "special_tokens_map.json", optional=True
        ),
    )
