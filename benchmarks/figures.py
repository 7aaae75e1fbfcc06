"""What benchmarks find: the times of calls that took turns, by part and case."""

import dataclasses
import pathlib
import statistics
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from tokenauction_jax import files
from tokenauction_jax.outside import OutsideError

FORMAT = 1
Role = Literal["ours", "peer", "limit"]
_Positive = Annotated[float, pydantic.Field(gt=0)]


class Spread(NamedTuple):
    """The median, the least and the most of some numbers."""

    median: float
    low: float
    high: float

    def times(self, factor: float) -> "Spread":
        """Of the same numbers in another unit."""
        return Spread(*(factor * x for x in self))


def spread(numbers: list[float]) -> Spread:
    """The median of some numbers, and the ends of their range."""
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


@dataclasses.dataclass(frozen=True)
class Figure:
    """How long one thing takes.

    Attributes:
      name: What it is.
      role: Whether it is of this library, of another program that does the same, or a
        limit of the machine.
      count: How many units of its case a call does.
      seconds: Of each call, in the order of the rounds.
      first: Seconds of the call before them, which compiles.
      memory: The most bytes that a process of its own had.
    """

    name: str
    role: Role
    count: _Positive
    seconds: Annotated[list[_Positive], pydantic.Field(min_length=1)]
    first: float
    memory: int | None = None

    @property
    def each(self) -> Spread:
        """Seconds of one unit."""
        return spread([x / self.count for x in self.seconds])


@dataclasses.dataclass(frozen=True)
class Case:
    """Figures whose calls took turns; the others are compared with the first.

    Attributes:
      title: What is done.
      unit: What is counted, such as an auction.
      sizes: ``A``, ``n``, ``V``, ``T`` and the number of devices.
      figures: The figures.
      along: The sizes that other cases of the part vary.
      note: What else was found.
    """

    title: str
    unit: str
    sizes: dict[str, int]
    figures: Annotated[list[Figure], pydantic.Field(min_length=1)]
    along: list[str] = dataclasses.field(default_factory=list)
    note: str = ""

    def tokens_per_second(self, figure: Figure) -> Spread:
        """Tokens of texts per second."""
        tokens = 1 if self.unit == "token" else self.sizes.get("T", 1)
        each = figure.each
        return Spread(*(tokens / x for x in (each.median, each.high, each.low)))

    def ratio(self, figure: Figure) -> Spread:
        """Time of a unit in that of the first figure, by rounds.

        For a limit this is the share of it that the first figure reaches.
        """
        first = self.figures[0]
        # Whoever slows the machine down slows a round.
        pairs = zip(figure.seconds, first.seconds, strict=False)
        return spread([x / figure.count / (y / first.count) for x, y in pairs])


@dataclasses.dataclass(frozen=True)
class Part:
    """The cases of a part, and what its process took.

    Attributes:
      name: The part.
      cases: What was measured.
      left_out: What could not be, and how to change that.
      seconds: Of the whole part.
      memory: The most bytes of memory that its process had, None if not known.
      device_memory: The most bytes on its first device, None if not known.
    """

    name: str
    cases: list[Case]
    left_out: list[str]
    seconds: float
    memory: int | None
    device_memory: int | None


@dataclasses.dataclass(frozen=True)
class Report:
    """One run of the command.

    Attributes:
      format: The version of this layout.
      started: When, in UTC.
      quick: Whether sizes were those of `--quick`.
      environment: Machine, devices and versions.
      parts: What was found.
    """

    format: Literal[1]
    started: str
    quick: bool
    environment: dict[str, Any]
    parts: list[Part]

    def rows(self) -> Iterator[tuple[tuple[str, str, str], Figure]]:
        """Every figure, with the names of its part, its case and itself."""
        for part in self.parts:
            for case in part.cases:
                for figure in case.figures:
                    yield (part.name, case.title, figure.name), figure


def write(path: pathlib.Path, report: Report) -> None:
    """Writes a report as JSON, in place of an earlier one.

    Raises:
      OutsideError: If it cannot be written.
    """
    try:
        files.write_json(path, dataclasses.asdict(report))
    except OSError as error:
        raise OutsideError(f"cannot write {path}: {files.reason(error)}") from None


def read(path: pathlib.Path) -> Report:
    """A report that `write` wrote.

    Raises:
      OutsideError: If it cannot be read, or is something else.
    """
    try:
        return pydantic.TypeAdapter(Report).validate_json(files.read(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise OutsideError(
            f"{path} holds no figures of python -m benchmarks ({place}: "
            f"{first['msg']}): name a file that --out wrote"
        ) from None
    except OSError as error:
        raise OutsideError(f"cannot read {path}: {files.reason(error)}") from None
