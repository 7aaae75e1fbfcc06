"""Numbers and times as the command line shows them."""

import numpy as np

from tokenauction_jax.reports import labels


def pair(mean: float, half: float) -> str:
    """A mean and the half-width of its interval, with the digits that it has."""
    shown = labels.number(mean, 2 * half)
    if not np.isfinite(half):
        return shown
    return f"{shown} ± {labels.number(half, 2 * half)}"


def duration(seconds: float) -> str:
    """``1:02:03``, ``2:03`` or ``3.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
