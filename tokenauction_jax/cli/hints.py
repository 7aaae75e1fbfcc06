"""What the command adds to errors of the library: its own options, and itself."""

import contextlib
import glob
import sys
from collections.abc import Iterator

import jax

from tokenauction_jax.files import ExistsError
from tokenauction_jax.outside import listed, one_line
from tokenauction_jax.studies import Results


def say(line: str) -> None:
    """Prints a line that is no result."""
    print(f"tokenauction: {one_line(line)}", file=sys.stderr)


def end_if_undefined(found: Results) -> None:
    """Ends the command with exit code 1 if cells are left without any auction."""
    if lost := found.undefined_cells:
        labels = listed((found.study.label(cell) for cell in lost), most=3)
        say(
            f"every auction became undefined in {len(lost):,} of "
            f"{len(found.cells):,} cells ({labels}): no token there was possible for "
            "all agents with a bid; filter less, or choose a rule of positive order"
        )
        sys.exit(1)


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
