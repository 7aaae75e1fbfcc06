"""The history of a run in one Parquet file, with what the next step needs.

The file is replaced whole after steps, so that a kill leaves the one before.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.optimisation.phases import Row

_TYPES = {int: pa.int32(), float: pa.float64(), str: pa.string()}
SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in Row.__annotations__.items()])
# What reading a file that was damaged or edited may raise.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, pa.ArrowException)
_STAMP, _STATE, _SUM = b"stamp", b"state", b"sha256"


@dataclasses.dataclass(frozen=True)
class History:
    """What happened so far.

    Attributes:
      rows: All estimates.
      phase: How many phases are over.
      step: How many steps of the present one are done.
      found: What the phases found, by name.
      state: Leaves of the present phase's state; None before its first step.
    """

    rows: Sequence[Row] = ()
    phase: int = 0
    step: int = 0
    found: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    state: Sequence[np.ndarray] | None = None

    def after_step(self, state: Any, rows: Sequence[Row]) -> "History":
        """With one more step, which led to a state, a pytree."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        return dataclasses.replace(
            self, rows=(*self.rows, *rows), step=self.step + 1, state=leaves
        )

    def after_phase(self, found: Mapping[str, Any]) -> "History":
        """With one more phase over, and what it found."""
        arrays = {name: np.asarray(x) for name, x in found.items()}
        return History(self.rows, self.phase + 1, found={**self.found, **arrays})

    def get_state(self, like: Any) -> Any:
        """The state as a pytree of the same layout as `like`.

        Raises:
          ValueError: If it has another layout.
        """
        leaves, tree = jax.tree.flatten(like)
        kept = self.state or []
        if [(x.dtype, x.shape) for x in kept] != [(x.dtype, x.shape) for x in leaves]:
            raise ValueError("its state is of another layout")
        return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in kept])

    def frame(self) -> pd.DataFrame:
        """The estimates, a row each."""
        return pd.DataFrame(list(self.rows), columns=list(Row._fields))

    def write(self, path: pathlib.Path, stamp: str) -> None:
        """Replaces the file.

        Args:
          path: Where.
          stamp: Of the manifest that it belongs to.

        Raises:
          StoreError: If it cannot be written, for instance for want of space.
        """
        table = pa.table(
            dict(zip(SCHEMA.names, _columns(self.rows), strict=True)), SCHEMA
        )
        state = {
            "phase": self.phase,
            "step": self.step,
            "found": {name: _plain(x) for name, x in self.found.items()},
            "state": None if self.state is None else [_plain(x) for x in self.state],
        }
        about = {_STAMP: stamp.encode(), _STATE: json.dumps(state).encode()}
        about[_SUM] = _checksum(table, about[_STATE]).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(about), sink, compression="zstd")
        try:
            files.write(path, sink.getvalue())
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {files.reason(error)}; free some space and "
                "resume: what was written before is kept"
            ) from None

    @classmethod
    def read(cls, path: pathlib.Path, stamp: str) -> "History":
        """The history of a run; an empty one if no step was kept yet.

        Raises:
          StoreError: If the file is damaged, or of another run.
        """
        if not files.exists(path):
            return cls()
        try:
            table = pq.read_table(pa.BufferReader(files.read(path)))
            about = dict(table.schema.metadata or {})
            if about.get(_SUM, b"").decode() != _checksum(
                table, about.get(_STATE, b"")
            ):
                raise ValueError("its checksum is not that of what was written")
            if about.get(_STAMP) != stamp.encode():
                raise ValueError("it is of another run, or the manifest was changed")
            state = json.loads(about[_STATE])
            leaves = state["state"]
            return cls(
                rows=[Row(**row) for row in table.to_pylist()],
                phase=state["phase"],
                step=state["step"],
                found={name: _array(x) for name, x in state["found"].items()},
                state=None if leaves is None else list(map(_array, leaves)),
            )
        except _DAMAGE as error:
            raise StoreError(
                f"{path} is damaged: {files.reason(error)}. Restore it from a copy, or "
                "delete it and resume, which begins again"
            ) from None


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[]] * len(SCHEMA)


def _checksum(table: pa.Table, state: bytes) -> str:
    """SHA-256 of all columns and the state, however the file holds them."""
    digest = [state]
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.append(f"{name} {column.type} {len(column)}\n".encode())
        values = column.to_pylist()
        digest.append(json.dumps(values).encode())
    return files.checksum(b"".join(digest))


def _plain(x: np.ndarray) -> dict[str, Any]:
    x = np.asarray(x)
    return {"dtype": str(x.dtype), "shape": x.shape, "data": x.ravel().tolist()}


def _array(content: dict[str, Any]) -> np.ndarray:
    data = np.array(content["data"], content["dtype"])
    return data.reshape(content["shape"])
