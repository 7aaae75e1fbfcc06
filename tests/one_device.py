"""The environment of another process, which has one device as users do."""

import os

import jax


def environment():
    """Its programs are compiled as those of the tests, and kept for the next run."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    found = os.environ | {"XLA_FLAGS": " ".join(flags)}
    if (cache := jax.config.jax_compilation_cache_dir) is not None:
        found["JAX_COMPILATION_CACHE_DIR"] = cache
    return found
