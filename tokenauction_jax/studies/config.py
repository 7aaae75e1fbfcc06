"""Study files: a setting, and the factors that cross it into cells, in TOML.

Each combination of the levels of the factors is a cell, validated as if it had been
written out in full.
"""

import dataclasses
import hashlib
import importlib.resources
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, cast

import pydantic

from tokenauction_jax.measures import UNITS
from tokenauction_jax.scenarios import settings, validation
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.scenarios.validation import Place, Problem

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
_Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_-]+$")]


class StudyError(ValueError):
    """A study that cannot be run, with what to change in one line."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Stops before `num_auctions`, once an estimate is as precise as wanted.

    Attributes:
      measure: Of which measure, under the study's valuation if it has one.
      half_width: Of its interval in each cell and in each paired difference.
      agent: Whose, if the measure is one of each agent.
    """

    __pydantic_config__ = _STRICT
    half_width: Annotated[float, pydantic.Field(strict=True, gt=0)]
    measure: str = "welfare"
    agent: Annotated[int, pydantic.Field(strict=True, ge=0)] = 0


_DEFAULT_KINDS = {"agents": "dirichlet", "values": "log_normal", "bids": "truthful"}
_SETTING = tuple(field.name for field in dataclasses.fields(Setting))


@dataclasses.dataclass(frozen=True)
class Study(Setting):
    """A study as its file says: the setting that cells vary, and the factors.

    Attributes:
      name: Of its folder and report.
      description: One line for the reader.
      num_auctions: Auctions per cell; the most, if there is a `stop`.
      valuation: What the report and `stop` are about; all are measured.
      reference: The model that fluency is measured by, unless the agents have a
        `reference_prompt`: ``uniform``, or the ``mean`` of the agents.
      factors: Levels by the key that they set, such as ``"values.sigma"``; a level
        of a section is a table of its keys. The first level is the baseline.
      stop: Sequential stopping.
      keep_auctions: How many auctions of each cell are kept whole, with their texts.
    """

    name: _Name = "study"
    description: str = ""
    num_auctions: Annotated[int, pydantic.Field(strict=True, ge=2, lt=2**31)] = 10_000
    valuation: Literal["total_variation", "forward_kl", "reverse_kl"] = (
        "total_variation"
    )
    reference: Literal["uniform", "mean"] = "mean"
    factors: dict[str, Annotated[tuple[Any, ...], pydantic.Field(min_length=1)]] = (
        dataclasses.field(default_factory=dict)
    )
    stop: Stop | None = None
    keep_auctions: Annotated[int, pydantic.Field(strict=True, ge=0)] = 100

    def cells(self) -> list["Cell"]:
        """Every combination of levels, the last factor varying fastest."""
        base = {name: getattr(self, name) for name in _SETTING}
        cells = []
        for levels in itertools.product(*self.factors.values()):
            content = _with_levels(
                _plain(base), dict(zip(self.factors, levels, strict=True))
            )
            setting, problems = validation.validate(Setting, content, settings.SECTIONS)
            if problems:
                raise StudyError(validation.describe(problems, {}))
            labels = tuple(_label(level) for level in levels)
            cells.append(Cell(dict(zip(self.factors, labels, strict=True)), setting))
        return cells

    def canonical(self) -> str:
        """The whole study, one key a line: what is hashed.

        Defaults are included, and scenarios as they are in their files now.
        """
        content = _plain(dataclasses.asdict(self))
        for cell in self.cells():
            agents = cell.setting.agents
            if isinstance(agents, settings.ScenarioAgents):
                content.setdefault("scenarios", {})[agents.scenario] = _plain(
                    agents.read()
                )
        flat = dict(_flatten(content))
        return "".join(f"{key} = {json.dumps(flat[key])}\n" for key in sorted(flat))

    def digest(self) -> str:
        """SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of levels.

    Attributes:
      levels: The label of each factor's level.
      setting: What is run.
    """

    levels: Mapping[str, str]
    setting: Setting

    @property
    def label(self) -> str:
        """All levels in one line."""
        return "; ".join(self.levels.values()) or self.setting.rule.name


def builtin_studies() -> dict[str, pathlib.Path]:
    """The study files that come with the package, by name."""
    folder = importlib.resources.files("tokenauction_jax.studies") / "library"
    files = cast(pathlib.Path, folder).glob("*.toml")
    return {file.stem: file for file in sorted(files)}


def read_study(name_or_path: str | pathlib.Path, name: str | None = None) -> Study:
    """Reads and validates a built-in study or a TOML file.

    Args:
      name_or_path: Which.
      name: The study's name if the file has none; by default that of the file.

    Raises:
      StudyError: If there is no such study, or naming everything that is wrong in it.
    """
    content, lines = _read(name_or_path, name)
    try:
        return validate_study(content, lines)
    except StudyError as error:
        raise StudyError(f"{name_or_path}: {error}") from None


def parse_study(path: pathlib.Path, name: str) -> Study:
    """A study that was validated when it ran; what it refers to may be gone by now.

    Raises:
      StudyError: If the file cannot be read or is no study.
    """
    content, lines = _read(path, name)
    content, lines = _prepared(content, lines)
    study, problems = validation.validate(Study, content, _ALL_SECTIONS)
    if problems:
        raise StudyError(f"{path}: {validation.describe(problems, lines)}")
    return study


def validate_study(
    content: Mapping[str, Any], lines: Mapping[Place, int] | None = None
) -> Study:
    """A `Study` from nested dictionaries.

    Args:
      content: As in the TOML file.
      lines: Where in the file each value stands, for the message.

    Raises:
      StudyError: Listing everything that is wrong.
    """
    content, lines = _prepared(content, lines or {})
    study, problems = validation.validate(Study, content, _ALL_SECTIONS)
    if problems:
        # What does not depend on the wrong sections can be looked at all the same.
        wrong = {problem.place[0] for problem in problems if problem.place}
        content = {key: value for key, value in content.items() if key not in wrong}
        content["factors"] = {
            key: levels
            for key, levels in content.get("factors", {}).items()
            if key.split(".")[0] not in wrong
        }
        study, _ = validation.validate(Study, content, _ALL_SECTIONS)
    if study is not None:
        found = list(_factor_problems(study))
        problems += found or list(_cell_problems(study))
    if problems or study is None:
        raise StudyError(validation.describe(problems, lines))
    return study


def study_text(name_or_path: str | pathlib.Path) -> str:
    """The file of a study as it is written, comments included."""
    path = builtin_studies().get(str(name_or_path), pathlib.Path(name_or_path))
    return path.read_text(encoding="utf-8")


def _read(
    name_or_path: str | pathlib.Path, name: str | None
) -> tuple[dict[str, Any], dict[Place, int]]:
    built_in = builtin_studies()
    path = built_in.get(str(name_or_path), pathlib.Path(name_or_path))
    try:
        content, lines = validation.read_toml(path)
    except FileNotFoundError:
        hint = validation.nearest(str(name_or_path), built_in, "those built in")
        raise StudyError(f"no study {str(name_or_path)!r}: {hint}") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {name_or_path}: {error}") from None
    return {"name": name or path.stem} | content, lines


def _prepared(
    content: Mapping[str, Any], lines: Mapping[Place, int]
) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content as it is validated, and where its parts stand.

    ``values.sigma`` is the factor ``"values.sigma"``, and a section without a `kind`
    is of the default one.
    """
    content, lines = dict(content), dict(lines)
    for section, kind in _DEFAULT_KINDS.items():
        if isinstance(given := content.get(section), dict):
            content[section] = {"kind": kind} | given
    if isinstance(factors := content.get("factors"), dict):
        content["factors"] = dict(_flatten(factors))
        for key in content["factors"]:
            written: Place = ("factors", *key.split("."))
            lines.setdefault(("factors", key), lines.get(written, 0))
    return content, lines


def _factor_problems(study: Study) -> Iterator[Problem]:
    """Factors that set nothing, or to what cannot be."""
    base = _plain({name: getattr(study, name) for name in _SETTING})
    known = [key for key, _ in _flatten(base, with_sections=True)]
    for key, levels in study.factors.items():
        place: Place = ("factors", key)
        if key not in known:
            hint = validation.nearest(key, known, "factors")
            yield Problem(place, f"unknown factor, {hint}")
            continue
        labels = [_label(level) for level in levels]
        for label in {x for x in labels if labels.count(x) > 1}:
            yield Problem(place, f"level {label!r} is there twice")
        for i, level in enumerate(levels):
            content = _with_levels(base, {key: level})
            _, problems = validation.validate(Setting, content, settings.SECTIONS)
            inside = len(key.split("."))
            for found in problems:
                # The same mistake as in the file's own section, but in this level.
                yield Problem((*place, i, *found.place[inside:]), found.message)


def _cell_problems(study: Study) -> Iterator[Problem]:
    """What is wrong with whole cells, once each."""
    seen = set()
    for cell in study.cells():
        for problem in settings.problems(cell.setting):
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
                    ("factors", key), f"{problem.message} (cell {cell.label!r})"
                )
    stop = study.stop
    if stop is None:
        return
    if stop.measure not in UNITS:
        hint = validation.nearest(stop.measure, UNITS, "measures")
        yield Problem(("stop", "measure"), f"no measure {stop.measure!r}, {hint}")
    elif stop.measure == "mention" and not all(
        isinstance(cell.setting.agents, settings.ScenarioAgents)
        for cell in study.cells()
    ):
        yield Problem(("stop", "measure"), "only language models mention anyone")
    elif min(cell.setting.agents.num_agents for cell in study.cells()) <= stop.agent:
        yield Problem(("stop", "agent"), f"not every cell has an agent {stop.agent}")


def _with_levels(base: dict[str, Any], levels: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's content with some of its keys set; tables only set their own keys."""
    content = json.loads(json.dumps(base))
    for key, level in levels.items():
        *sections, name = key.split(".")
        inside = content
        for section in sections:
            inside = inside[section]
        if not isinstance(level, dict):
            inside[name] = level
        elif "kind" in level or not isinstance(inside[name], dict):
            inside[name] = dict(level)
        else:
            inside[name] = inside[name] | level
    return content


def _label(level: Any) -> str:
    """A level as tables show it: the words of a section, and its numbers by name."""
    if isinstance(level, dict):
        shown = [
            value if isinstance(value, str) else f"{key}={_label(value)}"
            for key, value in level.items()
        ]
        return ", ".join(shown)
    if isinstance(level, list | tuple):
        return "[" + ", ".join(map(_label, level)) + "]"
    return f"{level:g}" if isinstance(level, float) else str(level)


def _flatten(
    content: Mapping[str, Any], prefix: str = "", with_sections: bool = False
) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted key."""
    for key, value in content.items():
        if not isinstance(value, Mapping):
            yield prefix + key, value
            continue
        if with_sections:
            yield prefix + key, value
        yield from _flatten(value, f"{prefix}{key}.", with_sections)


def _plain(content: Any) -> Any:
    """Dataclasses and tuples as dictionaries and lists."""
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return _plain(dataclasses.asdict(content))
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content


_ALL_SECTIONS = settings.SECTIONS | {"stop": Stop}
