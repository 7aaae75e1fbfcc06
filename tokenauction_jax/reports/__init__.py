"""What a study shows: labels, tables, figures and a page."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenauction_jax.reports.pages import write_report as write_report


def __getattr__(name: str) -> Any:
    # Figures bring Matplotlib: imported at first use.
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("tokenauction_jax.reports.pages").write_report


def __dir__() -> list[str]:
    return sorted([*globals(), "write_report"])
