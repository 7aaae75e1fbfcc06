"""What a study is: a setting, and the factors that cross it into cells."""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from tokenauction_jax import agents, measures
from tokenauction_jax.mechanism import Valuation
from tokenauction_jax.outside import OutsideError
from tokenauction_jax.scenarios import (
    kinds,
    names,
    objects,
    population,
    settings,
    validation,
    values,
)
from tokenauction_jax.scenarios.numbers import (
    STRICT,
    Auctions,
    Index,
    KeptAuctions,
    PositiveAmount,
    Tau,
)
from tokenauction_jax.scenarios.rules import ValuationName
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.studies import contrasts
from tokenauction_jax.studies.levels import (
    Level,
    label,
    plain,
    section_level,
    short_name,
    with_levels,
)

Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
# Of values and bids that functions make so many auctions are part of the digest.
_HASHED_AUCTIONS = 1024


class StudyError(OutsideError):
    """A study that cannot be run, with what to change in one line."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Stops before `num_auctions`, once an estimate is as precise as wanted.

    Attributes:
      half_width: Of its interval in each cell and in each paired difference.
      measure: Which estimate; under the study's valuation, if the measure has one.
      agent: Whose estimate, for a measure that each agent has.
    """

    __pydantic_config__ = STRICT
    half_width: PositiveAmount
    measure: str = "welfare"
    agent: Index = 0


SETTING = tuple(field.name for field in dataclasses.fields(Setting))
SECTIONS = settings.SECTIONS | {"stop": Stop}


@dataclasses.dataclass(frozen=True)
class Study(Setting):
    """A study: the setting that cells vary, and the factors.

    In Python, sections may be objects: `agents` an `AgentPool`, `rule` a `Mechanism`,
    `values` and `bids` arrays or functions (see `kinds.GivenValues` and
    `kinds.GivenBids`), `valuation` a `Valuation`; and so may the levels of factors.
    `studies.run` checks them.

    Attributes:
      name: Of its folder and report.
      description: One line for the reader.
      num_auctions: Auctions per cell; the most, if there is a `stop`.
      valuation: What the report and `stop` are about. All built-in ones are measured,
        and this one.
      reference: The model that fluency is measured by, and log-ratios, unless the
        agents bring one: ``uniform``, or the ``mean`` of the agents.
      tau: What a nat of divergence from the reference costs in `regularized_welfare`,
        in money.
      factors: Levels by the key that they set, such as ``"values.sigma"``; a level
        of a section is a table of its keys. The first level is the baseline.
      stop: Sequential stopping.
      keep_auctions: How many auctions of each cell are kept whole, with their texts.
    """

    name: Name = "study"
    description: str = ""
    num_auctions: Auctions = 10_000
    valuation: ValuationName = "total_variation"
    reference: Literal["uniform", "mean"] = "mean"
    tau: Tau = 1.0
    factors: dict[str, Annotated[tuple[Any, ...], pydantic.Field(min_length=1)]] = (
        dataclasses.field(default_factory=dict)
    )
    stop: Stop | None = None
    keep_auctions: KeptAuctions = 100

    def __post_init__(self) -> None:
        for name in SETTING:
            given = settings.section(name, getattr(self, name))
            object.__setattr__(self, name, given)
        factors = {
            key: tuple(section_level(key, level) for level in levels)
            for key, levels in self.factors.items()
        }
        object.__setattr__(self, "factors", factors)

    def cells(self) -> list["Cell"]:
        """Every combination of levels, the last factor varying fastest.

        Raises:
          StudyError: If a level is not what its key takes.
        """
        return self._cells

    @functools.cached_property
    def _cells(self) -> list["Cell"]:
        base = {name: getattr(self, name) for name in SETTING}
        cells = []
        for levels in itertools.product(*self.factors.values()):
            chosen = dict(zip(self.factors, levels, strict=True))
            setting, problems = validation.validate(
                Setting, with_levels(plain(base), chosen), settings.SECTIONS
            )
            if problems:
                raise StudyError(validation.describe(problems, {}))
            labels = {key: label(level) for key, level in chosen.items()}
            cells.append(Cell(labels, setting))
        return cells

    @functools.cached_property
    def own_valuation(self) -> Valuation | None:
        """The valuation, if it is not one of those that are always measured.

        Looked up once: its file may change while the study runs.

        Raises:
          RuleError: If its name leads to none.
        """
        chosen = self.valuation
        if isinstance(chosen, str):
            chosen = names.valuation(chosen)
        names.check_record(chosen.name, chosen)
        return None if chosen.name in measures.VALUATIONS else chosen

    def outline(self) -> "Outline":
        """What a reader of its results must know."""
        own = self.own_valuation
        return Outline(
            name=self.name,
            description=self.description,
            num_auctions=self.num_auctions,
            num_tokens=self.num_tokens,
            seed=self.seed,
            valuation=own.name if own else valuation_name(self.valuation),
            valuations=(*measures.VALUATIONS, *([own.name] if own else [])),
            stop=self.stop,
            levels=tuple(dict(cell.levels) for cell in self.cells()),
            rule=self.cells()[0].setting.rule.name,
        )

    @functools.cached_property
    def populations(self) -> list[population.Population]:
        """Who bids in each cell: models are loaded here, once."""
        return population.build([cell.setting for cell in self.cells()])

    def canonical(self) -> str:
        """The whole study, one key a line: what is hashed.

        Defaults are included, scenarios as they are in their files now, their models,
        adapters and prompts by the numbers that run, and objects by their fingerprints
        (`scenarios.objects`).
        """
        return self._canonical

    @functools.cached_property
    def _canonical(self) -> str:
        content = hashable(plain(self))
        numbers = functools.cache(objects.numbers_of)
        for number, cell in enumerate(self.cells()):
            setting = cell.setting
            if isinstance(setting.agents, kinds.ScenarioAgents):
                file = pathlib.Path(setting.agents.scenario).name
                cast = self.populations[number].cast
                found = content.setdefault("scenarios", {})
                found[f"{file} {len(found)}"] = {
                    **hashable(plain(setting.agents.read())),
                    "models": numbers(cast.pool),
                    "commits": dict(cast.commits),
                    "tokenizer": hashable(cast.tokenizer),
                }
            given = kinds.GivenValues | kinds.GivenBids
            if isinstance(setting.values, given) or isinstance(setting.bids, given):
                content.setdefault("given", {})[str(number)] = self._amounts(setting)
        flat = dict(flatten(content))
        return "".join(f"{key} = {json.dumps(flat[key])}\n" for key in sorted(flat))

    def digest(self) -> str:
        """SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def _amounts(self, setting: Setting) -> str:
        """SHA-256 of the first values and bids."""
        size = min(self.num_auctions, _HASHED_AUCTIONS)
        n = setting.agents.num_agents
        drawn = values.draw_values(setting.values, setting.seed, n, 0, size)
        bids = drawn
        if not isinstance(setting.bids, kinds.EquilibriumBids):
            bids = values.make_bids(setting.bids, drawn)
        return hashlib.sha256(np.stack([drawn, bids]).tobytes()).hexdigest()


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


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a reader of a study's results must know; part of the manifest.

    Attributes:
      name: Of the study.
      description: One line for the reader.
      num_auctions: Auctions per cell; the most, if there is a `stop`.
      num_tokens: The cap on the tokens of a text, before factors.
      seed: Of the auctions, before factors.
      valuation: Name of the valuation that the report and `stop` are about.
      valuations: Names of all that are measured.
      stop: Sequential stopping.
      levels: Of each cell, the label of each factor's level.
      rule: Of the first cell, which a study without factors is called by.
    """

    __pydantic_config__ = STRICT
    name: str
    description: str
    num_auctions: int
    num_tokens: int
    seed: int
    valuation: str
    valuations: Sequence[str]
    stop: Stop | None
    levels: Sequence[Mapping[str, str]]
    rule: str

    @functools.cached_property
    def comparisons(self) -> list[contrasts.Comparison]:
        """All that paired differences are taken of, in the order of the statistics."""
        return contrasts.series(self.levels)

    def label(self, cell: int) -> str:
        """All levels of a cell in one line."""
        return "; ".join(self.levels[cell].values()) or self.rule


def valuation_name(chosen: Any) -> str:
    """The name of a valuation that is given by name or as an object."""
    return chosen if isinstance(chosen, str) else chosen.name


def flatten(
    content: Mapping[str, Any], prefix: str = "", with_sections: bool = False
) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted key."""
    for key, value in content.items():
        if not isinstance(value, Mapping):
            yield prefix + key, value
            continue
        if with_sections:
            yield prefix + key, value
        yield from flatten(value, f"{prefix}{key}.", with_sections)


def hashable(content: Any, key: str = "") -> Any:
    """Plain content for JSON: references and objects by their fingerprints.

    Where files are does not count, only what is in them.
    """
    if isinstance(content, Mapping):
        return {k: hashable(v, k.rpartition(".")[2]) for k, v in content.items()}
    if isinstance(content, Level):
        return {"label": content[0], "level": hashable(plain(content[1]), key)}
    if isinstance(content, list | tuple):
        return [hashable(value, key) for value in content]
    if isinstance(content, str) and key in ("scenario", "model", "adapter"):
        return pathlib.Path(content).name
    if isinstance(content, str) and key in names.REFERENCE_KEYS:
        found = [objects.fingerprint_of(name) for name in names.references(content)]
        return {"name": short_name(content), **found[0]} if found else content
    if isinstance(content, agents.Tokenizer):
        entries = json.dumps(sorted(content.vocabulary.items()))
        return {"vocabulary": hashlib.sha256(entries.encode()).hexdigest()}
    if content is None or isinstance(content, bool | int | float | str):
        return content
    return objects.fingerprint(content)
