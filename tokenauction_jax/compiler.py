"""Keeps a fault of XLA away that makes sums wrong on CPUs, without a word."""

import importlib.metadata
import os
import sys
import warnings

# It sums the products or squares of small matrices in fused loops, and from 393,216
# bytes on adds the wrong rows (jax-ml/jax#39103). Neither 0.10.1 nor 0.11.0 does.
_WRONG = "0.10.2"
_OPTION = "xla_cpu_experimental_ynn_fusion_type"
# Matrix products keep the library that the fused loops came with: with none of it
# language models take 1.7 times as long.
_FLAG = f"--{_OPTION}=individual_dot"


def avoid_wrong_sums() -> None:
    """Adds a flag to ``XLA_FLAGS`` if this jaxlib needs it; imports no JAX.

    Whoever sets the option keeps what they set.

    Warns:
      RuntimeWarning: If JAX has started before, and reads no more flags.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _OPTION in flags or importlib.metadata.version("jaxlib") != _WRONG:
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}".lstrip()
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        warnings.warn(
            f"jaxlib {_WRONG} gets some sums wrong on CPUs (jax-ml/jax#39103), and JAX "
            "was used before tokenauction_jax was imported, which avoids them: import "
            f"it first, set XLA_FLAGS={_FLAG}, or use another version of JAX",
            RuntimeWarning,
            stacklevel=3,
        )
