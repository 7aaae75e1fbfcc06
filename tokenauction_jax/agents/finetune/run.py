"""The folder of a training run: its settings, checkpoints, and the trained model."""

from __future__ import annotations

import hashlib
import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from tokenauction_jax import files
from tokenauction_jax.agents.finetune.checkpoints import Checkpoints, reason
from tokenauction_jax.agents.finetune.examples import Example
from tokenauction_jax.agents.finetune.trainer import TrainingError, TrainState
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.environment import environment

# Bytes of a checkpoint besides its arrays.
_OVERHEAD = 2_000_000
_ASKED, _HISTORY = "training.json", "perplexity.csv"
_CHECKPOINTS = "checkpoints"
# Characters of settings that differ, so that the message stays a line.
_LONGEST = 300


class RunExistsError(TrainingError):
    """A folder for a new run that exists already, and is kept."""


class TrainingRun:
    """A folder with a run's checkpoints; the previous one survives a failed save.

    Args:
      folder: The folder of the run.
      asked: Everything that the result depends on, as plain values.
      resume: Whether to go on with the run in the folder; else it must not exist.

    Raises:
      RunExistsError: If the folder exists and `resume` is false.
      TrainingError: If the folder does not hold this run, all its checkpoints are
        damaged, or it cannot be written.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, resume: bool = False):
        self.folder = folder.absolute()
        file = self.folder / _ASKED
        # As it will be read back: tuples become lists.
        asked = json.loads(json.dumps(asked))
        content = {"asked": asked, "environment": environment()}
        try:
            if resume:
                _compare(file, asked)
                files.write_json(file, content)
            else:
                self._create(content)
            self._checkpoints = Checkpoints(self.folder / _CHECKPOINTS)
        except OSError as error:
            reason = files.reason(error)
            raise TrainingError(f"cannot write {folder}: {reason}") from None

    def _create(self, content: Mapping[str, Any]) -> None:
        """Makes the folder; a kill leaves all of it or nothing."""
        try:
            files.check_new(self.folder)
            with files.write_folder(self.folder) as part:
                (part / _CHECKPOINTS).mkdir()
                files.write_checksums(part / _CHECKPOINTS, {})
                files.write_json(part / _ASKED, content)
        except files.ExistsError:
            raise RunExistsError(
                f"{self.folder} exists and is kept: choose another folder, or resume "
                "the run in it"
            ) from None
        except files.StoreError as error:
            raise TrainingError(str(error)) from None

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoints.close()

    @property
    def last_step(self) -> int:
        """The number of steps before the last whole checkpoint, 0 if there is none."""
        return self._checkpoints.last

    @property
    def damaged(self) -> list[Path]:
        """The checkpoints that were damaged, and are gone."""
        return self._checkpoints.damaged

    def restore(self, start: TrainState) -> TrainState:
        """The state of the last checkpoint, `start` if there is none.

        Raises:
          TrainingError: If the checkpoint is of another model.
        """
        if not self.last_step:
            return start
        named, structure = _named(start)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, named)
        found = self._checkpoints.read(state=ocp.args.StandardRestore(abstract))[
            "state"
        ]
        trained, memory = jax.tree.unflatten(structure, [found[x] for x in named])
        return TrainState(self.last_step, trained, memory)

    def history(self) -> list[tuple[int, float]]:
        """Steps and held-out perplexities up to the last checkpoint.

        Raises:
          TrainingError: If the checkpoint cannot be read.
        """
        if not self.last_step:
            return []
        entries = self._checkpoints.read(history=ocp.args.JsonRestore())["history"][
            "perplexity"
        ]
        return [(int(step), float(x)) for step, x in entries]

    def save(self, state: TrainState, history: Sequence[tuple[int, float]]) -> None:
        """Writes a checkpoint: whole, or not at all.

        Raises:
          TrainingError: If it cannot be written, for example on a full disk.
        """
        named, _ = _named(state)
        perplexity = [list(x) for x in history]
        needed = _OVERHEAD + sum(np.asarray(leaf).nbytes for leaf in named.values())
        free = shutil.disk_usage(self.folder).free
        try:
            # If Orbax finds the disk full, its threads print tracebacks.
            if free < needed:
                raise OSError(f"needs {needed:,} bytes, {free:,} are free")
            self._checkpoints.write(
                state.step,
                state=ocp.args.StandardSave(named),
                history=ocp.args.JsonSave({"perplexity": perplexity}),
            )
        except Exception as error:  # Orbax raises many types, also other libraries'.
            before = f"; that of step {self.last_step} is whole" * bool(self.last_step)
            raise TrainingError(
                f"cannot write the checkpoint of step {state.step} ({reason(error)})"
                f"{before}: free some space and resume the run"
            ) from None

    def write_history(self, history: Sequence[tuple[int, float]]) -> None:
        """Writes the held-out perplexities as CSV.

        Raises:
          OSError: If the file cannot be written.
        """
        rows = ["step,perplexity", *(f"{step},{value}" for step, value in history)]
        files.write(self.folder / _HISTORY, "\n".join(rows) + "\n")


def fingerprint(model: Decoder, *parts: Sequence[Example]) -> dict[str, str]:
    """Hashes of weights and of tokenised examples, which a resumed run must share."""
    weights = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(nnx.state(model)):
        weights.update(np.asarray(leaf).tobytes())
    examples = hashlib.blake2b(digest_size=16)
    for part in parts:
        for tokens, start in part:
            examples.update(f"{len(tokens)} {start} ".encode())
            examples.update(tokens.tobytes())
    return {"weights": weights.hexdigest(), "examples": examples.hexdigest()}


def _named(state: TrainState) -> tuple[dict[str, jax.Array], Any]:
    """The arrays of a state by their paths, and how to put them together again."""
    paths, structure = jax.tree.flatten_with_path((state.trained, state.optimizer))
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}, structure


def _compare(file: Path, asked: Mapping[str, Any]) -> None:
    """Raises `TrainingError` unless the run in a folder has these settings."""
    try:
        before = dict(json.loads(files.read(file))["asked"])
    except FileNotFoundError:
        raise TrainingError(
            f"there is no run to resume in {file.parent}: it has no {file.name}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{file} is damaged ({files.reason(error)}): restore it from a copy"
        ) from None
    changed = [
        f"{name} was {before.get(name)!r} and is {asked.get(name)!r}"
        for name in dict.fromkeys([*before, *asked])
        if before.get(name) != asked.get(name)
    ]
    if changed:
        raise TrainingError(
            f"cannot resume {file.parent}, which has other settings: "
            f"{textwrap.shorten('; '.join(changed), _LONGEST, placeholder=' ...')}"
        )
