"""The checkpoints of a training run, with checksums: the newest whole one counts."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from tokenauction_jax import files
from tokenauction_jax.agents.finetune.trainer import TrainingError
from tokenauction_jax.files import CHECKSUMS


class Checkpoints:
    """A folder of checkpoints, one folder a step.

    A checkpoint counts once its files are listed with their checksums. Orbax notices
    neither a flipped bit nor, without a traceback from each of its threads, a file that
    is cut short: it only ever reads what was found whole.

    Args:
      folder: Where they are, with the list of checksums, which may be empty. If there
        is a whole one, those that are not are removed: Orbax would fail on them.

    Attributes:
      last: The step of the last whole checkpoint, 0 before the first.
      damaged: The folders of those that were finished, and were damaged.

    Raises:
      TrainingError: If the list is missing or damaged, or all checkpoints are.
      OSError: If the folder cannot be read or changed.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        if not files.exists(folder / CHECKSUMS):
            raise TrainingError(
                f"{folder / CHECKSUMS} is missing: restore it from a copy, or begin "
                "another run"
            )
        try:
            self._sums = files.read_checksums(folder)
        except files.StoreError as error:
            raise TrainingError(str(error)) from None
        steps = self._listed()
        # A kill leaves one checkpoint without its lines, the newest.
        unlisted = sorted(set(self._present()) - set(steps))
        if unlisted[:-1] or min(unlisted, default=math.inf) < max(steps, default=0):
            raise TrainingError(
                f"{folder / CHECKSUMS} does not list checkpoint {unlisted[0]}: "
                "restore it from a copy, or begin another run"
            )
        whole = list(filter(self._is_whole, steps))
        self.last = max(whole, default=0)
        self.damaged = [self.path(step) for step in steps if step not in whole]
        if steps and not whole:
            raise TrainingError(
                f"all checkpoints in {folder} are damaged: restore {steps[-1]} from a "
                "copy, or begin another run"
            )
        for step in set(self._present()) - set(whole):
            _remove(self.path(step))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def close(self) -> None:
        """Ends the threads of Orbax."""
        self._manager.close()

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self._folder / str(step)

    def read(self, **parts: ocp.args.CheckpointArgs) -> Mapping[str, Any]:
        """Parts of the last checkpoint.

        Raises:
          TrainingError: If it is of another model.
        """
        try:
            args = ocp.args.Composite(**parts)
            return self._manager.restore(self.last, args=args)
        except Exception as error:  # Orbax raises many types, also other libraries'.
            raise TrainingError(
                f"cannot read {self.path(self.last)} ({reason(error)}): delete this "
                "folder to go on from the checkpoint before"
            ) from None

    def write(self, step: int, **parts: ocp.args.CheckpointArgs) -> None:
        """Adds a checkpoint.

        Raises:
          Exception: Of many types, if it cannot be written.
        """
        args = ocp.args.Composite(**parts)
        self._manager.save(step, args=args, force=True)
        self._manager.wait_until_finished()
        sums = {name: _checksum(self._folder / name) for name in self._found(step)}
        kept = {str(other) for other in self._manager.all_steps() if other != step}
        old = {k: v for k, v in self._sums.items() if k.partition("/")[0] in kept}
        self._sums = old | sums
        files.write_checksums(self._folder, self._sums)
        self.last = step

    def _listed(self) -> list[int]:
        """The steps of all checkpoints that were finished."""
        names = {name.partition("/")[0] for name in self._sums}
        return sorted(int(name) for name in names if name.isdecimal())

    def _found(self, step: int) -> Iterator[str]:
        """The names of the files that a checkpoint has now."""
        for path in sorted(self.path(step).rglob("*")):
            if not path.is_dir():
                yield path.relative_to(self._folder).as_posix()

    def _is_whole(self, step: int) -> bool:
        """Whether a checkpoint has the files that it was written with, and no other."""
        prefix = f"{step}/"
        listed = {k: v for k, v in self._sums.items() if k.startswith(prefix)}
        try:
            return listed == {
                name: _checksum(self._folder / name) for name in self._found(step)
            }
        except OSError:
            return False

    def _present(self) -> list[int]:
        """The steps of all checkpoints that are there, also without being listed."""
        return [int(x.name) for x in self._folder.iterdir() if x.name.isdecimal()]


def reason(error: Exception) -> str:
    """The cause of an error of Orbax, at the end of a long message."""
    line = str(error).strip().split("\n")[0]
    return line if len(line) < 200 else line.rsplit(": ", 1)[-1][:200]


def _checksum(path: Path) -> str:
    files.check_plain(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
