"""Scenarios and Monte Carlo studies, their statistics and their files."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenauction_jax.studies.config import Study as Study
    from tokenauction_jax.studies.config import StudyError as StudyError
    from tokenauction_jax.studies.launch import resume as resume
    from tokenauction_jax.studies.launch import run as run
    from tokenauction_jax.studies.levels import Level as Level
    from tokenauction_jax.studies.merging import merge as merge
    from tokenauction_jax.studies.processes import Processes as Processes
    from tokenauction_jax.studies.reading import read_study as read_study
    from tokenauction_jax.studies.results import Results as Results
    from tokenauction_jax.studies.results import load as load

# Tables and figures bring pandas and Matplotlib: imported at first use.
_LAZY = {
    "Level": "levels",
    "Processes": "processes",
    "Results": "results",
    "Study": "config",
    "StudyError": "config",
    "load": "results",
    "merge": "merging",
    "read_study": "reading",
    "resume": "launch",
    "run": "launch",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
