"""What the command adds to errors of the library: its own options, and itself."""

import contextlib
import glob
import sys
from collections.abc import Iterator

import jax

from tokenauction_jax.files import ExistsError
from tokenauction_jax.outside import one_line


def say(line: str) -> None:
    """Prints a line that is no result."""
    print(f"tokenauction: {one_line(line)}", file=sys.stderr)


@contextlib.contextmanager
def if_exists(remedy: str) -> Iterator[None]:
    """Adds to the error about a place that is taken what to do on the command line."""
    try:
        yield
    except ExistsError as error:
        raise ExistsError(f"{error} ({remedy})") from None


def warn_about_idle_accelerators() -> None:
    """Says so if there is an accelerator that this JAX cannot use."""
    if jax.default_backend() != "cpu":
        return
    for kind, devices, extra in (
        ("GPU", "/dev/nvidia[0-9]*", "cuda12"),
        ("TPU", "/dev/accel*", "tpu"),
    ):
        if glob.glob(devices):
            say(
                f"this machine has a {kind} that JAX does not use; "
                f"pip install 'jax[{extra}]' lets it"
            )
