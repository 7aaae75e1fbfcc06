"""Files and settings from outside: read within bounds, refused by name and key."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from tokenauction_jax.outside import OutsideError

# The largest tokenizers in use have 35 MB; Python needs 20 times the size of JSON.
_LARGEST_TEXT, _LARGEST_JSON = 2**27, 2**24


class CheckpointError(OutsideError):
    """A checkpoint that is missing, damaged, not supported or cannot be written."""


class Settings(pydantic.BaseModel):
    """What is read of a configuration; other keys are ignored.

    Types are strict: `"no"` is no boolean and `2.0` no count.
    """

    model_config = pydantic.ConfigDict(
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )


Size = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
# Records of layers are made before it is known how many the weights have.
Layers = Annotated[int, pydantic.Field(ge=1, le=2**14)]
TokenId = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
Epsilon = Annotated[float, pydantic.Field(gt=0, le=1)]
# Below 1, for a base as for a divisor, angles grow without bound.
Base = Annotated[float, pydantic.Field(ge=1)]

_S = TypeVar("_S", bound=Settings)


def parse(kind: type[_S], raw: Mapping[str, Any], name: str) -> _S:
    """The settings in the contents of a file.

    Raises:
      CheckpointError: If there is something wrong; it names the first such key.
    """
    try:
        return kind.model_validate(raw)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
    key, given = problem["loc"][0], reprlib.repr(problem["input"])
    if problem["type"] == "missing":
        raise CheckpointError(f"{name} has no {key!r}: get it again")
    if problem["type"] == "literal_error":
        known = problem.get("ctx", {}).get("expected", "")
        known = known.replace("'", "").replace(" or ", ", ")
        raise CheckpointError(f"{name}: unsupported {key} {given} (known: {known})")
    wanted = problem["msg"][0].lower() + problem["msg"][1:]
    raise CheckpointError(f"{name}: {key}: {wanted}, got {given}")


def is_file(path: Path) -> bool:
    """Whether there is a regular file; pipes and devices may never end.

    Unlike `Path.is_file`, it answers for folders that cannot be read, too.
    """
    return os.path.isfile(path)


def check_files(*paths: Path) -> None:
    """Refuses what is missing, not a regular file or only the pointer to one."""
    missing = [path.name for path in paths if not os.path.exists(path)]
    if missing:
        raise CheckpointError(f"{', '.join(missing)} missing: get the complete files")
    for path in paths:
        if not is_file(path):
            raise CheckpointError(f"{path.name} is not a regular file")
        if _is_pointer(path):
            raise CheckpointError(
                f"{path.name} is a Git LFS pointer: run git lfs pull in its folder"
            )


def _is_pointer(path: Path) -> bool:
    """Whether Git left the address of a large file in its place."""
    try:
        with open(path, "rb") as file:
            start = file.read(200)
    except OSError:
        return False  # Whoever reads the file says what is wrong.
    return start.startswith(b"version https://git-lfs") and b"\noid sha256:" in start


def read_text(path: Path, largest: int = _LARGEST_TEXT) -> str:
    """The contents of a text file of up to `largest` bytes.

    Raises:
      CheckpointError: If it is missing, too large, or not UTF-8.
    """
    check_files(path)
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise ValueError(f"larger than {largest >> 20} MiB")
        return data.decode()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}: get it again") from None


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it is `optional` and missing.

    Raises:
      CheckpointError: If the file cannot be read or holds something else.
    """
    if optional and not os.path.exists(path):
        return {}
    text = read_text(path, _LARGEST_JSON)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: {error}: get it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: not a JSON object: get it again")
    return value
