"""The scorecard: what each mechanism reached by each yardstick, as numbers and text."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import pandas as pd
import pydantic

from tokenauction_jax import files
from tokenauction_jax.outside import shortened
from tokenauction_jax.reports import labels
from tokenauction_jax.studies.results import Results
from tokenauction_jax.suite import optimum, yardsticks
from tokenauction_jax.suite.mechanisms import SuiteError
from tokenauction_jax.suite.yardsticks import LIES, MISREPORTS, STAYS_OUT, TRUTH

_STRICT = pydantic.ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    __pydantic_config__ = _STRICT
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, row: labels.Row) -> "Estimate":
        """Of a row of a table of results."""
        return cls(float(row["mean"]), float(row["low"]), float(row["high"]))

    def shown(self, scale: float = 1.0) -> str:
        """With the digits that it has, ``1.25 ± 0.03``."""
        half = scale * max(self.high - self.mean, self.mean - self.low)
        mean = labels.number(scale * self.mean, 2 * half)
        if not (half > 0 and math.isfinite(half)):
            return mean
        return f"{mean} ± {labels.number(half, 2 * half)}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One mechanism by one yardstick, per text.

    Attributes:
      mechanism: Its name.
      yardstick: Which.
      version: Of the suite.
      quick: Whether there were few auctions.
      digest: Of the study.
      undefined: Share of auctions that were undefined.
      share: Of the gain in regularised welfare over the reference that the best law of
        texts would bring; None where that is not known, or next to nothing.
      welfare: In log-ratios to the reference, in money.
      revenue: In money.
      worst_off: Utility of the agent that has least of it, in log-ratios, in money.
      lying_gain: What the first agent gains by its better lie; None if it never lies.
      absence_gain: What it gains by staying out, likewise: above 0, the mechanism is
        not individually rational.
      fluency: Log-likelihood under the reference, in nats.
      forward_passes: How often a model read a token.
    """

    __pydantic_config__ = _STRICT
    mechanism: str
    yardstick: str
    version: int
    quick: bool
    digest: str
    undefined: float
    share: Estimate | None
    welfare: Estimate
    revenue: Estimate
    worst_off: Estimate
    lying_gain: Estimate | None
    absence_gain: Estimate | None
    fluency: Estimate
    forward_passes: Estimate


def row(
    mechanism: str, yardstick: str, quick: bool, digest: str, results: Results
) -> Row:
    """What a study of one mechanism says.

    Args:
      mechanism: Its name.
      yardstick: Which.
      quick: Whether there were few auctions.
      digest: Of the study.
      results: Of it.
    """
    table = labels.estimates(results)

    def one(measure: str) -> Estimate:
        return Estimate.of(table[0, measure, "", ""])

    utilities = [
        row for key, row in table.items() if key[:2] == (0, "log_ratio_utility")
    ]
    lost = max(row["undefined"] for key, row in table.items() if key[0] == 0)
    return Row(
        mechanism=mechanism,
        yardstick=yardstick,
        version=yardsticks.VERSION,
        quick=quick,
        digest=digest,
        undefined=float(lost) / results.num_auctions,
        share=None,
        welfare=one("log_ratio_welfare"),
        revenue=one("expected_revenue"),
        worst_off=Estimate.of(min(utilities, key=lambda row: row["mean"])),
        lying_gain=_gain(results, LIES) if yardstick == MISREPORTS else None,
        absence_gain=_gain(results, (STAYS_OUT,)) if yardstick == MISREPORTS else None,
        fluency=one("log_likelihood"),
        forward_passes=one("forward_passes"),
    )


def share(results: Results, known: optimum.Range) -> Estimate:
    """The share of the possible gain in regularised welfare over the reference."""
    row = labels.estimates(results)[0, "regularized_welfare", "", ""]
    found, gain = Estimate.of(row), known.best - known.reference
    ends = [(x - known.reference) / gain for x in (found.mean, found.low, found.high)]
    return Estimate(*ends)


def _gain(results: Results, levels: Sequence[str]) -> Estimate:
    """The first agent's largest gain at some levels of its bid, against the truth."""
    about = ("log_ratio_utility", results.agent_names[0], TRUTH)
    found = [
        row
        for row in labels.rows(results.differences)
        if (row["measure"], row["agent"], row["baseline"]) == about
        and row["level"] in levels
    ]
    return Estimate.of(max(found, key=lambda row: row["mean"]))


@dataclasses.dataclass(frozen=True)
class Scorecard:
    """All rows that are known, in the order in which mechanisms were added."""

    __pydantic_config__ = _STRICT
    rows: tuple[Row, ...] = ()

    @property
    def mechanisms(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(row.mechanism for row in self.rows))

    def find(self, mechanism: str, yardstick: str) -> Row | None:
        """The row of a mechanism by a yardstick, None if there is none."""
        for row in self.rows:
            if (row.mechanism, row.yardstick) == (mechanism, yardstick):
                return row
        return None

    def with_row(self, row: Row) -> "Scorecard":
        """The scorecard with a row more, or another one in its place."""
        old = self.find(row.mechanism, row.yardstick)
        if old is None:
            return Scorecard((*self.rows, row))
        return Scorecard(tuple(row if x is old else x for x in self.rows))

    def ordered(self) -> "Scorecard":
        """Rows by mechanism, and of each in the order of the yardsticks."""
        names, order = self.mechanisms, list(yardsticks.YARDSTICKS)

        def place(row: Row) -> tuple[int, int]:
            return names.index(row.mechanism), order.index(row.yardstick)

        return Scorecard(tuple(sorted(self.rows, key=place)))

    def to_pandas(self) -> pd.DataFrame:
        """A row for each mechanism and yardstick; estimates in three columns each."""
        return pd.json_normalize([dataclasses.asdict(row) for row in self.rows])

    def to_markdown(self) -> str:
        """The page: a table of each yardstick, and of lies."""
        head = yardsticks.text("scorecard.md")
        blocks = [head.format(version=yardsticks.VERSION).rstrip()]
        if any(row.quick for row in self.rows):
            blocks.append(
                "Some rows are of quick runs, with few auctions: see their intervals."
            )
        found = [self.find(name, MISREPORTS) for name in self.mechanisms]
        lies = [row for row in found if row is not None]
        if lies:
            blocks.append("## Lies and absence\n\n" + _LIES + "\n\n" + _lies(lies))
        for name in yardsticks.YARDSTICKS:
            own = [row for row in self.rows if row.yardstick == name]
            if own:
                told = yardsticks.content(name, False)
                title = name.replace("_", " ")
                about = f"{told['description']} At most {told['num_tokens']} tokens."
                blocks.append(f"## {title}\n\n{about}\n\n{_table(own)}")
        return "\n\n".join(blocks) + "\n"


_LIES = (
    "What the first of three agents gains, in its own log-ratios, by bidding half or "
    "twice its value, whichever is better, and by staying out. A mechanism that is "
    "truthful, or rational, has nothing above 0."
)


def _table(rows: Sequence[Row]) -> str:
    heads = ["mechanism", "share", "welfare", "revenue", "worst off", "fluency"]
    heads += ["passes"]
    undefined = any(row.undefined for row in rows)
    lines = [heads + ["undefined"] * undefined]
    for row in rows:
        share = labels.DASH if row.share is None else f"{row.share.shown(100)} %"
        numbers = (row.welfare, row.revenue, row.worst_off, row.fluency)
        line = [f"`{row.mechanism}`", share, *(x.shown() for x in numbers)]
        line.append(labels.number(round(row.forward_passes.mean, 1)))
        lines.append(line + [f"{100 * row.undefined:.0f} %"] * undefined)
    return _markdown(lines)


def _lies(rows: Sequence[Row]) -> str:
    lines = [["mechanism", "by lying", "by staying out"]]
    for row in rows:
        gains = (row.lying_gain, row.absence_gain)
        shown = [labels.DASH if x is None else x.shown() for x in gains]
        lines.append([f"`{row.mechanism}`", *shown])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def read(path: pathlib.Path) -> Scorecard:
    """A scorecard from its JSON; an empty one if there is no file.

    Raises:
      SuiteError: If it is another file, or of another version of the suite.
    """
    try:
        data = files.read(path)
    except FileNotFoundError:
        return Scorecard()
    except OSError as error:
        raise SuiteError(f"cannot read {path}: {files.reason(error)}") from None
    try:
        found = pydantic.TypeAdapter(Scorecard).validate_json(data)
    except pydantic.ValidationError as error:
        first = shortened(error.errors()[0]["msg"], 100)
        raise SuiteError(
            f"{path} is no scorecard ({first}): give another --out"
        ) from None
    for row in found.rows:
        if (
            row.version != yardsticks.VERSION
            or row.yardstick not in yardsticks.YARDSTICKS
        ):
            raise SuiteError(
                f"{path} is of version {row.version} of the suite, this is "
                f"{yardsticks.VERSION}: give another --out"
            )
    return found


def write(card: Scorecard, folder: pathlib.Path) -> None:
    """Writes the scorecard as JSON and as a page, each whole or not at all.

    Raises:
      SuiteError: If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "scorecard.json", dataclasses.asdict(card.ordered()))
        files.write(folder / "scorecard.md", card.ordered().to_markdown())
    except OSError as error:
        raise SuiteError(f"cannot write {folder}: {files.reason(error)}") from None
