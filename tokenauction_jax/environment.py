"""What a result must record for a rerun: versions, devices, number formats."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
from typing import Any

import jax

from tokenauction_jax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "tokenizers")
_STATUS = pathlib.Path("/proc/self/status")
_PROCESSOR = pathlib.Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """Versions, backend, devices and random bits of this process."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "tokenauction_jax": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "backend": jax.default_backend(),
        "devices": [str(device) for device in jax.devices()],
        "x64": bool(jax.config.read("jax_enable_x64")),
        "random_bits": str(jax.random.key_impl(jax.random.key(0))),
    }


def processor() -> str:
    """The kind of processor, as a digest.

    Programs of another one may not run on this, or round otherwise.
    """
    told = [platform.machine(), platform.processor()]
    try:
        text = _PROCESSOR.read_text("utf-8", "replace")
        told += [line for line in text.splitlines() if line.startswith("flags")][:1]
    except OSError:  # As on macOS and Windows.
        told.append(os.name)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def num_cores() -> int:
    """The cores that this process may use: of a host, a scheduler may give it some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had, None if not known."""
    # Where there is a `/proc`; the system's other count starts at the size of the
    # process that started this one.
    with contextlib.suppress(OSError):
        status = _STATUS.read_text("utf-8")
        if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # As on Windows.
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of(device: Any) -> int | None:
    """Bytes of a device's memory, of a CPU those of the machine; None if unknown.

    Always the same, whatever is in use, so that programs that depend on it are.
    """
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # As on Windows.
        return None
