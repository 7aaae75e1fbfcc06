"""Files and folders that appear whole or not at all, whatever happens meanwhile."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from tokenauction_jax.outside import OutsideError, shortened

CHECKSUMS = "SHA256SUMS"
LOCK = ".lock"
# Characters of a reason, so that the message stays a line.
_LONGEST = 200


class StoreError(OutsideError):
    """Results that cannot be written or read, with what to change in one line."""


class ExistsError(StoreError):
    """A place that holds something already, which is kept."""


def reason(error: Exception) -> str:
    """What went wrong, in short, without the path that the message names anyway."""
    text = getattr(error, "strerror", None) or str(error)
    return shortened(text, _LONGEST)


def exists(path: pathlib.Path) -> bool:
    """Whether something is at a place, also a link that leads nowhere.

    Raises:
      StoreError: If nothing can be there, such as under a name that is too long.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {path}: {reason(error)}") from None
    return True


def check_new(path: pathlib.Path) -> None:
    """Checks that a file or folder can be made.

    Called before anything runs, so that no run is lost to its last step.

    Raises:
      ExistsError: If `path` exists.
      StoreError: If its parent does not, or cannot be written to.
    """
    if exists(path):
        raise ExistsError(f"{path} exists and is kept: choose another place")
    check_writable(path.absolute().parent)


def check_writable(folder: pathlib.Path) -> None:
    """Raises `StoreError` unless files can be made in a folder."""
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder: create it, or choose another")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: choose another folder")


def check_plain(path: pathlib.Path) -> None:
    """Checks that a file is a plain one: reading a pipe or a device may never end.

    Raises:
      OSError: If it is not, or is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a plain file")


def read(path: pathlib.Path) -> bytes:
    """The bytes of a plain file.

    Raises:
      OSError: If it cannot be read.
    """
    check_plain(path)
    return path.read_bytes()


def checksum(data: Any) -> str:
    """The SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_checksums(folder: pathlib.Path, name: str = CHECKSUMS) -> dict[str, str]:
    """The checksums of a folder's files by their names; none if there is no list.

    Args:
      folder: Which.
      name: Of the list.

    Raises:
      StoreError: If the list is damaged.
    """
    path = folder / name
    try:
        text = read(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line and text.count("\n") == number - 1:
            break  # What follows the last line's end.
        # As `sha256sum -c` takes them.
        entry = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if entry is None or entry[2] in sums:
            raise damaged_list(path, number)
        sums[entry[2]] = entry[1]
    return sums


def damaged_list(path: pathlib.Path, line: int) -> StoreError:
    """The error of a list of checksums that is wrong from a line on."""
    return StoreError(
        f"{path} is damaged from line {line} on: restore it from a copy, or delete "
        "this line and all below it, and resume"
    )


def write_checksums(
    folder: pathlib.Path, sums: Mapping[str, str], name: str = CHECKSUMS
) -> None:
    """Replaces the list of a folder's checksums.

    Args:
      folder: Which.
      sums: By the names of its files.
      name: Of the list.

    Raises:
      OSError: If it cannot be written.
    """
    lines = "".join(f"{total}  {name}\n" for name, total in sums.items())
    write(folder / name, lines)


def scratch_name(name: str) -> str:
    """The name under which a file is written, which a kill may leave behind."""
    return f".{name}.writing"


def write(path: pathlib.Path, content: Any) -> None:
    """Writes bytes, or text as UTF-8, in place of an earlier file if there is one.

    Raises:
      OSError: If it cannot be written; an earlier file is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(scratch_name(path.name))
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
    text = json.dumps(finite(content), indent=2, allow_nan=False)
    write(path, text + "\n")


@contextlib.contextmanager
def lock(folder: pathlib.Path, name: str = LOCK, wait: float = 0.0) -> Iterator[None]:
    """Holds a folder, which is made if it is not there, against other processes.

    Args:
      folder: Which.
      name: Of the file that is locked.
      wait: Seconds to wait for another process; for ever if negative.

    Raises:
      StoreError: If another process holds it, or it cannot be made.
    """
    import filelock  # Brings asyncio, which nothing else needs.

    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The system frees it however the process ends; the file says nothing.
        held = filelock.FileLock(path, timeout=wait).acquire()
    except filelock.Timeout:
        raise StoreError(f"{folder} is being run by another process") from None
    except OSError as error:
        raise StoreError(f"cannot write {path}: {reason(error)}") from None
    with held:
        yield


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


def finite(content: Any) -> Any:
    """Content that JSON takes: tuples as lists, infinity and NaN as strings."""
    if isinstance(content, Mapping):
        return {str(name): finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content
