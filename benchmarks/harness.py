"""Times calls that take turns, and runs parts in processes of their own."""

import dataclasses
import functools
import importlib
import multiprocessing
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax

from benchmarks import peers
from benchmarks.figures import Figure, Part, Role
from tokenauction_jax.environment import environment, peak_memory
from tokenauction_jax.outside import OutsideError

T = TypeVar("T")
_SHORT = 3.0


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
      name: Of its figure.
      role: See `Figure`.
      call: Given the number of the round; what it returns is waited for.
      count: How many units of its case a call does.
    """

    name: str
    role: Role
    call: Callable[[int], Any]
    count: float


@dataclasses.dataclass(frozen=True)
class Timed:
    """What a call returns that ran in a process of its own and knows its time."""

    seconds: float
    memory: int | None = None
    apart: bool = True


def take_turns(contenders: Sequence[Contender], rounds: int) -> list[Figure]:
    """Times every contender once a round, after a first call each.

    A machine that others use as well slows all of them, not one.
    """
    first = [clock(contender, 0) for contender in contenders]
    rest = [[_warm(x, i) for x in contenders] for i in range(1, rounds + 1)]
    return [
        Figure(
            *(contender.name, contender.role, contender.count),
            seconds=[timed.seconds for timed in times],
            first=compiling.seconds,
            memory=max((x.memory for x in times if x.memory), default=None),
        )
        for contender, compiling, *times in zip(contenders, first, *rest, strict=True)
    ]


def _warm(contender: Contender, turn: int) -> Timed:
    """Seconds of a call that does not begin with what another left behind.

    In memory that another gave back a call can take five times as long: what takes
    less than `_SHORT` seconds is done twice, and the second time counts.
    """
    timed = clock(contender, turn)
    again = timed.seconds < _SHORT and not timed.apart
    return clock(contender, turn) if again else timed


def clock(contender: Contender, turn: int) -> Timed:
    """Seconds of one call."""
    start = time.perf_counter()
    found = jax.block_until_ready(contender.call(turn))
    seconds = time.perf_counter() - start
    return found if isinstance(found, Timed) else Timed(seconds, apart=False)


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function that runs in a new process.

    There nothing is compiled yet, nothing is held, and the peak of memory is its own.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise OutsideError(
            f"the process of {function.__name__}{arguments} was ended from outside, "
            "perhaps for its memory: free some, or use --quick"
        ) from None


def run_part(name: str, quick: bool) -> Part:
    """All cases of a part; call it in a new process."""
    module = importlib.import_module(f"benchmarks.parts.{name}")
    # The first calls are to compile, whatever earlier runs have kept.
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.perf_counter()
    cases = list(module.measure(module.QUICK if quick else module.FULL))
    seconds = time.perf_counter() - start
    on_device = jax.local_devices()[0].memory_stats() or {}
    return Part(
        *(name, cases, peers.left_out(module.USES), seconds, peak_memory()),
        device_memory=on_device.get("peak_bytes_in_use"),
    )


def describe_machine() -> dict[str, Any]:
    """What a report says of the machine; starts JAX."""
    return environment() | {
        "device_kinds": sorted({device.device_kind for device in jax.devices()}),
        "processor": _processor(),
        "cores": cores(),
        "peers": peers.versions(),
    }


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # As on macOS and Windows.
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


def on_all_cores(function: Callable[[Any], T], pieces: Iterable[Any]) -> list[T]:
    """The results of a function that lets go of Python's lock, piece by piece."""
    return list(_threads().map(function, pieces))
