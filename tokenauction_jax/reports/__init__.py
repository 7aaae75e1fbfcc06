"""What a study shows: labels, tables, figures and a page."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenauction_jax.reports.explorer import write_explorer as write_explorer
    from tokenauction_jax.reports.pages import write_report as write_report

# Figures bring Matplotlib: imported at first use.
_MODULES = {"write_explorer": "explorer", "write_report": "pages"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = f"tokenauction_jax.reports.{_MODULES[name]}"
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
