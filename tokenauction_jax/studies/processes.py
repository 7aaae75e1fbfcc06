"""The processes that run one study together, on one host or many.

JAX brings them together (`jax.distributed`): it knows from SLURM, Open MPI, Kubernetes
or a TPU pod how many there are, and which of them each is. From then on each runs by
itself, so that none waits for another one's chunks or ends with it. What they share is
the study's folder: a process holds a lock in it for as long as it lives.
"""

import contextlib
import pathlib
import re
import threading
import time
from collections.abc import Iterator, Sequence

import jax

# The public functions tell which process this is only once all are connected.
from jax._src.distributed import global_state

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.outside import listed, quoted
from tokenauction_jax.studies.chunk_files import AHEAD
from tokenauction_jax.studies.config import StudyError
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.shards import Shard

# JAX ends the process, with a trace of its own, if its time-out passes before ours.
_LATER = 60
# Seconds between two looks at who is there, and for which one look may hold a lock.
_LOOK, _HELD = 0.2, 10.0
# Seconds until files of other hosts are seen.
_SETTLE = 5.0


class Processes:
    """The processes that run a study together, of which this is one.

    Args:
      coordinator: Address ``HOST:PORT`` at which process 0 listens until all are there.
      num_processes: How many there are.
      process_id: Which of them this is, from 0 on. What is not given, JAX finds out.
      timeout: Seconds to wait until all are there.

    Attributes:
      index: Which of them this is, known once they are together.
      count: How many there are, likewise.
    """

    def __init__(
        self,
        coordinator: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
        *,
        timeout: float = 300.0,
    ):
        if coordinator is not None and not re.fullmatch(r"\S+:[0-9]{1,5}", coordinator):
            raise StudyError(f"coordinator is HOST:PORT, got {quoted(coordinator)}")
        if not 0 < timeout < 1e6:
            raise StudyError(f"timeout must be a number of seconds, got {timeout}")
        self._given = (coordinator, num_processes, process_id)
        self._timeout = timeout
        self._present = contextlib.ExitStack()
        self.index, self.count = 0, 1

    @contextlib.contextmanager
    def join(self, folder: pathlib.Path) -> Iterator[None]:
        """Waits until all processes are there; before JAX is used for anything else.

        Args:
          folder: Of the study, which all share.

        Raises:
          StudyError: If some do not come, naming them, or if it is not known who is
            expected.
          StoreError: If one comes twice, or the folder cannot be written to.
        """
        failed: list[Exception] = []
        connecting = threading.Thread(
            target=self._connect, args=(failed,), daemon=True, name="connecting"
        )
        connecting.start()
        until = time.monotonic() + self._timeout
        # JAX finds out who is expected, then makes its client, then waits.
        while connecting.is_alive() and global_state.client is None:
            connecting.join(0.02)
            if time.monotonic() > until:
                raise StudyError(f"no cluster answered within {self._timeout:g} s")
        if not failed:
            self.index, self.count = global_state.process_id, global_state.num_processes
            self._present.enter_context(_held(folder, self.index, wait=_HELD))
        with self._present:
            seen = {self.index}
            while connecting.is_alive() and time.monotonic() < until:
                connecting.join(_LOOK)
                others = set(range(self.count)) - seen
                seen |= {k for k in others if _is_held(folder, k)}
            if failed:
                raise StudyError(_not_connected(failed[0]))
            if connecting.is_alive():
                raise StudyError(self._absent(seen))
            yield

    def _connect(self, failed: list[Exception]) -> None:
        coordinator, num_processes, process_id = self._given
        try:
            # Else it would take SIGTERM for itself.
            jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                cluster_detection_method=None if None in self._given else "deactivate",
                initialization_timeout=int(self._timeout) + _LATER,
            )
            # Else JAX would end all of them if one is killed.
            jax.distributed.shutdown()
        except Exception as error:
            failed.append(error)

    def _absent(self, seen: set[int]) -> str:
        """What to say of the processes that are not there in time."""
        within = f"within {self._timeout:g} s"
        if missing := sorted(set(range(self.count)) - seen):
            return (
                f"{_named(missing, self.count)} did not join {within}: see whether "
                "it was started, with the same folder, then run all of them again"
            )
        return (
            f"all {self.count} processes are there, but cannot reach process 0 at "
            f"{quoted(global_state.coordinator_address or '')} {within}: is its port "
            "open to the other hosts?"
        )

    @property
    def share(self) -> Shard:
        """This one's share of the chunks that are left."""
        return Shard(self.index + 1, self.count)

    def wait_for_study(self, folder: Folder) -> None:
        """Waits until process 0 has begun the study.

        Raises:
          StudyError: If it ended before.
        """
        while not files.exists(folder.manifest_path):
            if not _is_held(folder.path, 0):
                raise StudyError(
                    "process 0 ended before it had begun the study, and says why"
                )
            time.sleep(_LOOK)

    def finish(self, folder: Folder, chunks: Sequence[int]) -> None:
        """Waits until the shares of all are done; process 0 then lists what they did.

        Args:
          folder: Of the study.
          chunks: What the processes shared.

        Raises:
          StoreError: Naming the processes that ended before.
        """
        first = self.index == 0
        if not first:
            self._present.close()
        for other in range(1, self.count) if first else (0,):
            with _held(folder.path, other, wait=-1):
                pass
        until = time.monotonic() + _SETTLE
        while early := self._early(folder, chunks):
            if time.monotonic() > until:
                raise StoreError(
                    f"{_named(early, self.count)} ended before its chunks were done; "
                    f"{folder.path} keeps all that are: resume the study in it, in any "
                    "number of processes"
                )
            time.sleep(_LOOK)

    def _early(self, folder: Folder, chunks: Sequence[int]) -> list[int]:
        """The processes that have ended with less than their share."""
        if self.index == 0:
            folder.gather()
        # As the folder is now.
        done = set(Folder(folder.path).finished())
        shares = [Shard(k + 1, self.count).of(chunks) for k in range(self.count)]
        early = [k for k, share in enumerate(shares) if not done.issuperset(share)]
        gathered = not files.exists(folder.path / AHEAD)
        return early or ([] if gathered else [0])


@contextlib.contextmanager
def _held(folder: pathlib.Path, index: int, wait: float) -> Iterator[None]:
    """Holds the lock of a process, whose file is gone afterwards."""
    with files.lock(folder, _lock_name(index), wait):
        try:
            yield
        finally:
            # Windows keeps what is open.
            with contextlib.suppress(OSError):
                (folder / _lock_name(index)).unlink()


def _is_held(folder: pathlib.Path, index: int) -> bool:
    """Whether a process is there."""
    if not files.exists(folder / _lock_name(index)):
        return False
    try:
        with files.lock(folder, _lock_name(index)):
            return False
    except StoreError:
        return True


def _lock_name(index: int) -> str:
    return f"{files.LOCK}-{index}"


def _named(indices: Sequence[int], count: int) -> str:
    which = "process" if len(indices) == 1 else "processes"
    return f"{which} {listed(indices, most=8)} of {count} (counted from 0)"


def _not_connected(error: Exception) -> str:
    if "must be called before" in str(error):
        reason = "JAX was used before in this process"
    elif isinstance(error, ValueError | TypeError) and "defined" in str(error):
        reason = (
            "no cluster says who they are: give the address of process 0, how many "
            "there are, and which this is"
        )
    else:
        reason = files.reason(error)
    return f"the processes cannot be brought together: {reason}"
