"""Reading studies from TOML files, and everything that may be wrong with them.

Each combination of the levels of the factors is a cell, validated as if it had been
written out in full.
"""

import importlib.resources
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from tokenauction_jax import measures
from tokenauction_jax.mechanism import forward_kl, reverse_kl, total_variation
from tokenauction_jax.outside import quoted, shortened
from tokenauction_jax.scenarios import names, scenario, settings, validation
from tokenauction_jax.scenarios.population import scope_of
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.scenarios.validation import Place, Problem
from tokenauction_jax.studies.config import (
    SECTIONS,
    SETTING,
    Study,
    StudyError,
    flatten,
)
from tokenauction_jax.studies.levels import (
    Level,
    label,
    plain,
    section_level,
    with_levels,
)

# Of each chunk the products of all pairs of cells are kept.
_MOST_CELLS = 4096
_DEFAULT_KINDS = {"agents": "dirichlet", "values": "log_normal", "bids": "truthful"}


def builtin_studies() -> dict[str, pathlib.Path]:
    """The study files that come with the package, by name."""
    folder = importlib.resources.files("tokenauction_jax.studies") / "library"
    files = cast(pathlib.Path, folder).glob("*.toml")
    return {file.stem: file for file in sorted(files)}


def read_study(
    name_or_path: str | pathlib.Path,
    name: str | None = None,
    base: pathlib.Path | None = None,
) -> Study:
    """Reads and validates a built-in study or a TOML file.

    Args:
      name_or_path: Which.
      name: The study's name if the file has none; by default that of the file.
      base: The folder that scenarios and references ``FILE.py:NAME`` are relative to;
        by default that of the file.

    Raises:
      StudyError: If there is no such study, or naming everything that is wrong in it.
    """
    path, content, lines = _read(name_or_path, name)
    try:
        return validate_study(content, lines, base=base or path.parent)
    except StudyError as error:
        raise StudyError(f"{shortened(str(name_or_path), 80)}: {error}") from None


def validate_study(
    content: Mapping[str, Any],
    lines: Mapping[Place, int] | None = None,
    *,
    base: pathlib.Path = pathlib.Path(),
) -> Study:
    """A `Study` from nested dictionaries.

    Args:
      content: As in the TOML file; objects may stand for sections, as in `Study`.
      lines: Where in the file each value stands, for the message.
      base: The folder that scenarios and references ``FILE.py:NAME`` are relative to.

    Raises:
      StudyError: Listing everything that is wrong.
    """
    if odd := list(validation.oddities(content)):
        raise StudyError(validation.describe(odd, lines or {}))
    content, lines = prepared(content, lines or {}, base)
    study, problems = validation.validate(Study, content, SECTIONS)
    if problems:
        # What does not depend on the wrong sections can be looked at all the same.
        wrong = {problem.place[0] for problem in problems if problem.place}
        content = {key: value for key, value in content.items() if key not in wrong}
        content["factors"] = {
            key: levels
            for key, levels in content.get("factors", {}).items()
            if key.split(".")[0] not in wrong
        }
        study, _ = validation.validate(Study, content, SECTIONS)
    if study is not None:
        found = list(_size_problems(study))
        found = found or [*_valuation_problems(study), *_factor_problems(study)]
        problems += found or list(_cell_problems(study))
    if problems or study is None:
        raise StudyError(validation.describe(problems, lines))
    return study


def check_study(
    study: str | pathlib.Path | Study | Mapping[str, Any], name: str | None = None
) -> Study:
    """A study that is read, or was built in Python, with everything validated.

    Args:
      study: As for `studies.run`.
      name: Of a file that has none; by default that of the file.

    Raises:
      StudyError: Naming everything that is wrong in it.
    """
    if isinstance(study, str | pathlib.Path):
        return read_study(study, name)
    return validate_study(plain(study))


def study_folder(name_or_path: str | pathlib.Path) -> pathlib.Path:
    """The folder that a study's file is in."""
    path = builtin_studies().get(str(name_or_path), pathlib.Path(name_or_path))
    return path.absolute().parent


def study_text(name_or_path: str | pathlib.Path) -> str:
    """The file of a study as it is written, comments included."""
    path = builtin_studies().get(str(name_or_path), pathlib.Path(name_or_path))
    return path.read_text(encoding="utf-8")


def _read(
    name_or_path: str | pathlib.Path, name: str | None
) -> tuple[pathlib.Path, dict[str, Any], dict[Place, int]]:
    built_in = builtin_studies()
    path = built_in.get(str(name_or_path), pathlib.Path(name_or_path))
    try:
        content, lines = validation.read_toml(path)
    except FileNotFoundError:
        hint = validation.nearest(str(name_or_path), built_in, "those built in")
        raise StudyError(f"no study {quoted(str(name_or_path))}: {hint}") from None
    except (OSError, ValueError) as error:
        shown = shortened(str(name_or_path), 80)
        raise StudyError(f"cannot read {shown}: {error}") from None
    return path, {"name": name or path.stem} | content, lines


def prepared(
    content: Mapping[str, Any], lines: Mapping[Place, int], base: pathlib.Path
) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content as it is validated, and where its parts stand.

    ``values.sigma`` is the factor ``"values.sigma"``, a section without a `kind` is of
    the default one, short forms of sections are written out, and files are found from
    here.
    """
    content, lines = dict(content), dict(lines)
    for section in SETTING:
        if section in content:
            content[section] = settings.section(section, content[section])
    for section, kind in _DEFAULT_KINDS.items():
        if isinstance(given := content.get(section), dict):
            content[section] = {"kind": kind} | given
    if isinstance(factors := content.get("factors"), dict):
        content["factors"] = dict(flatten(factors))
        for key, levels in content["factors"].items():
            written: Place = ("factors", *key.split("."))
            lines.setdefault(("factors", key), lines.get(written, 0))
            if isinstance(levels, list | tuple):
                # As a section of its own, whose numbers are not another level's.
                content["factors"][key] = [section_level(key, x) for x in levels]
    return _resolved(names.resolved(content, base), base), lines


def _resolved(content: Any, base: pathlib.Path, key: str = "") -> Any:
    """The content with the files of scenarios as they are from here."""
    if isinstance(content, dict):
        return {k: _resolved(v, base, k.rpartition(".")[2]) for k, v in content.items()}
    if isinstance(content, Level):
        return Level(content[0], _resolved(content[1], base, key))
    if isinstance(content, list | tuple):
        return [_resolved(value, base, key) for value in content]
    if key != "scenario" or not isinstance(content, str):
        return content
    built_in = content in scenario.builtin_scenarios()
    return content if built_in else str(base / os.path.expanduser(content))


def _size_problems(study: Study) -> Iterator[Problem]:
    """More cells than all their pairs can be kept of."""
    size = math.prod(map(len, study.factors.values()))
    if size > _MOST_CELLS:
        told = f"{size:,} cells, at most {_MOST_CELLS:,}: leave out levels"
        yield Problem(("factors",), f"cross into {told}")


def _valuation_problems(study: Study) -> Iterator[Problem]:
    """Whether the valuation is one, and can be told from the others."""
    place: Place = ("valuation",)
    try:
        own = study.own_valuation
    except names.RuleError as error:
        yield Problem(place, str(error))
        return
    if own is None and study.valuation not in measures.VALUATIONS:
        built_in = (total_variation(), forward_kl(), reverse_kl())
        if not isinstance(study.valuation, tuple(map(type, built_in))):
            yield Problem(place, "has the name of a built-in one: give it another")


def _factor_problems(study: Study) -> Iterator[Problem]:
    """Factors that set nothing, or to what cannot be."""
    base = plain({name: getattr(study, name) for name in SETTING})
    known = [key for key, _ in flatten(base, with_sections=True)]
    for key, levels in study.factors.items():
        place: Place = ("factors", key)
        if key not in known:
            hint = validation.nearest(key, known, "factors")
            yield Problem(place, f"unknown factor, {hint}")
            continue
        labels = [label(level) for level in levels]
        for twice in {x for x in labels if labels.count(x) > 1}:
            yield Problem(place, f"level {quoted(twice)} is there twice")
        for i, level in enumerate(levels):
            content = with_levels(base, {key: level})
            _, problems = validation.validate(Setting, content, settings.SECTIONS)
            inside = len(key.split("."))
            for found in problems:
                # The same mistake as in the file's own section, but in this level.
                yield Problem((*place, i, *found.place[inside:]), found.message)


def _has(setting: Setting, measure: str) -> bool:
    """Whether the mechanism of a cell has a measure."""
    scope = scope_of(setting.mechanism())
    of_one_agent = measures.columns(1, True, scope=scope)
    return measure in {column.measure for column in of_one_agent}


def _cell_problems(study: Study) -> Iterator[Problem]:
    """What is wrong with whole cells, once each."""
    seen = set()
    for cell in study.cells():
        for problem in settings.problems(cell.setting, study.num_auctions):
            key = next(
                (k for k in study.factors if k.split(".")[0] == problem.place[0]), None
            )
            if problem in seen:
                continue
            seen.add(problem)
            if key is None:
                yield problem
            else:
                yield Problem(
                    ("factors", key), f"{problem.message} (cell {quoted(cell.label)})"
                )
    stop = study.stop
    if stop is None or seen:
        return
    if stop.measure not in measures.UNITS:
        hint = validation.nearest(stop.measure, measures.UNITS, "measures")
        yield Problem(("stop", "measure"), f"no measure {quoted(stop.measure)}, {hint}")
    elif lacking := [
        cell for cell in study.cells() if not _has(cell.setting, stop.measure)
    ]:
        rule = lacking[0].setting.rule.name
        told = f"{quoted(rule)} has no {stop.measure}, as log_ratio_welfare"
        yield Problem(("stop", "measure"), f"{told}, revenue and others are of all")
    elif stop.measure == "mention" and not all(
        cell.setting.has_texts for cell in study.cells()
    ):
        yield Problem(("stop", "measure"), "only language models mention anyone")
    elif min(cell.setting.agents.num_agents for cell in study.cells()) <= stop.agent:
        yield Problem(("stop", "agent"), f"not every cell has an agent {stop.agent}")
