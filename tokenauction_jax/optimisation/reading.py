"""Reading what to optimise from TOML files, and everything that may be wrong in it."""

import importlib.resources
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from tokenauction_jax.optimisation.config import (
    SECTIONS,
    BestResponse,
    Equilibrium,
    Optimisation,
    OptimisationError,
    Pacing,
)
from tokenauction_jax.outside import quoted, shortened
from tokenauction_jax.scenarios import kinds, names, settings, validation
from tokenauction_jax.scenarios.rules import Rule
from tokenauction_jax.scenarios.validation import Place, Problem
from tokenauction_jax.studies.levels import plain
from tokenauction_jax.studies.reading import prepared


def builtin_optimisations() -> dict[str, pathlib.Path]:
    """The files that come with the package, by name."""
    folder = importlib.resources.files("tokenauction_jax.optimisation") / "library"
    files = cast(pathlib.Path, folder).glob("*.toml")
    return {file.stem: file for file in sorted(files)}


def read(
    name_or_path: str | pathlib.Path,
    name: str | None = None,
    base: pathlib.Path | None = None,
) -> Optimisation:
    """Reads and validates a built-in file or one of your own.

    Args:
      name_or_path: Which.
      name: What it is called if the file does not say; by default that of the file.
      base: The folder that scenarios and references ``FILE.py:NAME`` are relative to;
        by default that of the file.

    Raises:
      OptimisationError: If there is no such file, or naming all that is wrong in it.
    """
    path = _path(name_or_path)
    shown = shortened(str(name_or_path), 80)
    try:
        content, lines = validation.read_toml(path)
    except FileNotFoundError:
        hint = validation.nearest(
            str(name_or_path), builtin_optimisations(), "those built in"
        )
        raise OptimisationError(
            f"no file {quoted(str(name_or_path))}: {hint}"
        ) from None
    except (OSError, ValueError) as error:
        raise OptimisationError(f"cannot read {shown}: {error}") from None
    content = {"name": name or path.stem} | content
    try:
        return validate(content, lines, base=base or path.parent)
    except OptimisationError as error:
        raise OptimisationError(f"{shown}: {error}") from None


def check(
    given: str | pathlib.Path | Optimisation | Mapping[str, Any],
) -> Optimisation:
    """What is read, or was built in Python, with everything validated.

    Raises:
      OptimisationError: Naming everything that is wrong.
    """
    if isinstance(given, str | pathlib.Path):
        return read(given)
    return validate(plain(given))


def validate(
    content: Mapping[str, Any],
    lines: Mapping[Place, int] | None = None,
    *,
    base: pathlib.Path = pathlib.Path(),
) -> Optimisation:
    """An `Optimisation` from nested dictionaries.

    Args:
      content: As in the TOML file; objects may stand for sections.
      lines: Where in the file each value stands, for the message.
      base: The folder that references are relative to.

    Raises:
      OptimisationError: Listing everything that is wrong.
    """
    if odd := list(validation.oddities(content)):
        raise OptimisationError(validation.describe(odd, lines or {}))
    content, lines = prepared(content, lines or {}, base)
    if isinstance(goal := content.get("goal"), dict):
        content["goal"] = {"kind": "equilibrium"} | goal
    chosen, problems = validation.validate(Optimisation, content, SECTIONS)
    if chosen is not None:
        problems = list(settings.problems(chosen.setting, chosen.num_auctions))
        problems = problems or list(_problems(chosen))
        if not isinstance(chosen.rule, Rule):
            told = "only rules of single tokens have optimal bids here"
            problems.append(Problem(("rule", "mechanism"), told))
    if problems or chosen is None:
        raise OptimisationError(validation.describe(problems, lines))
    return chosen


def text_of(name_or_path: str | pathlib.Path) -> str:
    """A file as it is written, comments included."""
    return _path(name_or_path).read_text(encoding="utf-8")


def folder_of(name_or_path: str | pathlib.Path) -> pathlib.Path:
    """The folder that a file is in."""
    return _path(name_or_path).absolute().parent


def _path(name_or_path: str | pathlib.Path) -> pathlib.Path:
    return builtin_optimisations().get(str(name_or_path), pathlib.Path(name_or_path))


def _problems(chosen: Optimisation) -> Iterator[Problem]:
    """What does not go together."""
    n, goal = chosen.agents.num_agents, chosen.goal
    if n < 2:
        yield Problem(("agents",), "one agent alone has nobody to bid against")
    try:
        _ = chosen.chosen_valuation
    except names.RuleError as error:
        yield Problem(("valuation",), str(error))
    agents = chosen.agents
    if getattr(agents, "reference_prompt", None) is not None:
        yield Problem(("agents", "reference_prompt"), "has no use here: leave it out")
    elif isinstance(agents, kinds.PoolAgents) and agents.build().num_agents != n:
        yield Problem(("agents", "names"), "a reference has no use here: leave it out")
    if chosen.objective == "mentions" and not chosen.setting.has_texts:
        yield Problem(("objective",), "only language models mention anyone")
    if isinstance(goal, BestResponse) and goal.agent >= n:
        yield Problem(("goal", "agent"), f"there is no agent {goal.agent}, only {n}")
    if isinstance(goal, Equilibrium) and goal.optimizer and goal.dynamics != "mixed":
        yield Problem(
            ("goal", "dynamics"), "an optimizer moves all at once: leave dynamics out"
        )
    if isinstance(goal, Pacing):
        yield from _pacing_problems(chosen, goal, n)
    due = 1 if isinstance(goal, BestResponse) else n
    if chosen.known is not None and len(chosen.known.bids) != due:
        given = f"{len(chosen.known.bids)} numbers, expected {due}"
        yield Problem(("known", "bids"), given)


def _pacing_problems(chosen: Optimisation, goal: Pacing, n: int) -> Iterator[Problem]:
    if chosen.objective != "utility":
        yield Problem(("objective",), "pacing is for utility under the valuation")
    wrong = [agent for agent in goal.agents or () if agent >= n]
    if wrong:
        yield Problem(("goal", "agents"), f"there is no agent {wrong[0]}, only {n}")
    due = n if goal.agents is None else len(set(goal.agents))
    budgets = goal.budgets
    if isinstance(budgets, tuple) and len(budgets) != due:
        yield Problem(
            ("goal", "budgets"), f"{len(budgets)} numbers, expected one or {due}"
        )
    if not np.all(budgets):
        yield Problem(("goal", "budgets"), "0 buys nothing: let it bid 0 instead")
