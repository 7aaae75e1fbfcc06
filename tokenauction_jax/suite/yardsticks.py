"""The studies that every mechanism goes through."""

import importlib.resources
import pathlib
from typing import Any, cast

from tokenauction_jax.scenarios import validation
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.reading import validate_study

_LIBRARY = cast(
    pathlib.Path, importlib.resources.files("tokenauction_jax.suite") / "library"
)
# Rises with every change of a yardstick that changes its numbers.
VERSION = 1
# From what is easy to what is not, and the last only in the full version.
YARDSTICKS = (
    *("easy", "near_ties", "heavy_tails", "many_agents", "long_texts"),
    *("budgets", "misreports", "complements", "rivals", "smollm2"),
)
FULL_ONLY = ("smollm2",)
# In which an agent lies, or stays out, at these levels of a factor.
MISREPORTS = "misreports"
LIES, STAYS_OUT, TRUTH = ("0.5", "2"), "0", "1"
# How many auctions a quick run has, of a table and of a language model.
_QUICK, _QUICK_OF_MODELS = 500, 8


def text(file: str) -> str:
    """A file of the library."""
    return (_LIBRARY / file).read_text(encoding="utf-8")


def content(name: str, quick: bool) -> dict[str, Any]:
    """A yardstick as its file has it, with fewer auctions if it is to be quick."""
    found, _ = validation.read_toml(_LIBRARY / f"{name}.toml")
    if quick:
        of_models = found["agents"]["kind"] == "scenario"
        most = _QUICK_OF_MODELS if of_models else _QUICK
        found["num_auctions"] = min(found["num_auctions"], most)
    return found | {"name": name}


def study(name: str, rule: dict[str, Any], quick: bool) -> Study:
    """The study of one mechanism by a yardstick.

    Args:
      name: Of the yardstick.
      rule: The mechanism, as a study has it.
      quick: Whether it has few auctions.

    Raises:
      StudyError: If the mechanism cannot go through it.
    """
    return validate_study(content(name, quick) | {"rule": rule})
