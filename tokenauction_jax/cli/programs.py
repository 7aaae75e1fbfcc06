"""Compiled programs that are kept for the next run of a command."""

import pathlib

import jax
import platformdirs

from tokenauction_jax import files
from tokenauction_jax.cli.hints import say
from tokenauction_jax.environment import processor

# The oldest are dropped for new ones.
_MOST_BYTES = 2**30


def keep() -> None:
    """Has JAX keep what it compiles in the user's cache folder, and look there first.

    A folder that JAX is told by `JAX_COMPILATION_CACHE_DIR` is used as it is.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = pathlib.Path(platformdirs.user_cache_dir("tokenauction_jax")) / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.check_writable(folder)
    except (OSError, files.StoreError) as error:
        reason = files.reason(error)
        say(f"compiled programs are not kept: {folder}: {reason}; --no-cache is silent")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # All of them: a command runs hundreds of small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
