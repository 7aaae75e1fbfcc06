"""What a result must record for a rerun: versions, devices, number formats."""

import importlib.metadata
import platform
from typing import Any

import jax

from tokenauction_jax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "tokenizers")


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
