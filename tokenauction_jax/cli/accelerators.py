"""A hint to those whose accelerator lies idle."""

import glob
import sys

import jax


def warn_about_idle_ones() -> None:
    """Says so if there is an accelerator that this JAX cannot use."""
    if jax.default_backend() != "cpu":
        return
    for kind, devices, extra in (
        ("GPU", "/dev/nvidia[0-9]*", "cuda12"),
        ("TPU", "/dev/accel*", "tpu"),
    ):
        if glob.glob(devices):
            print(
                f"tokenauction: this machine has a {kind} that JAX does not use; "
                f"pip install 'jax[{extra}]' lets it",
                file=sys.stderr,
            )
