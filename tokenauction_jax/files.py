"""Files and folders that appear whole or not at all, whatever happens meanwhile."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from tokenauction_jax.outside import OutsideError


class StoreError(OutsideError):
    """Results that cannot be written or read, with what to change in one line."""


class ExistsError(StoreError):
    """A place that holds something already, which is kept."""


def check_new(path: pathlib.Path) -> None:
    """Checks that a file or folder can be made.

    Called before anything runs, so that no run is lost to its last step.

    Raises:
      ExistsError: If `path` exists.
      StoreError: If its parent does not, or cannot be written to.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # If this is wrong, it is told below.
    except OSError as error:  # Such as a name that is too long.
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    else:
        raise ExistsError(f"{path} exists and is kept: choose another place")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"{parent} is not a folder: create it, or choose another")
    if not os.access(parent, os.W_OK):
        raise StoreError(f"{parent} cannot be written to: choose another folder")


def write(path: pathlib.Path, content: Any) -> None:
    """Writes bytes, or text as UTF-8, in place of an earlier file if there is one.

    Raises:
      OSError: If it cannot be written; an earlier file is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.writing")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON; numbers that it does not have (infinity, NaN) become strings.

    Raises:
      OSError: If it cannot be written.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write(path, text + "\n")


@contextlib.contextmanager
def write_folder(
    path: pathlib.Path, *, replace: bool = False
) -> Iterator[pathlib.Path]:
    """A scratch folder that becomes `path` once the block is left without an error.

    Args:
      path: The folder to be; its parent must exist.
      replace: Whether it may take the place of a folder that is there.

    Raises:
      OSError: If it cannot be written.
      ExistsError: If `path` exists by then and may not be replaced.
    """
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
        part = pathlib.Path(scratch) / "new"
        part.mkdir()
        yield part
        if replace and path.exists():
            path.rename(pathlib.Path(scratch) / "earlier")
        check_new(path)
        part.rename(path)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content
