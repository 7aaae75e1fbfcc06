"""Names, units and numbers as a study's figures and report show them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tokenauction_jax.studies.results import Results

# A row of one of the tables of `Results`, by column.
Row = dict[str, Any]

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# What the first agent's truthful bid is multiplied by.
REGRET_FACTOR = "bids.factor"

_FACTORS = {
    "agents.num_agents": "number of agents",
    "bids.weight": "weight of the first agent",
    REGRET_FACTOR: "bid factor",
    "values.share": "share of the first agent's value",
}
_MEASURES = {
    "expected_payment": "conditional payment",
    "expected_revenue": "revenue",
    "expected_utility": "utility",
    "finite_welfare": "welfare of the tokens where it is finite",
    "forward_kl": "forward KL",
    "infinite_tokens": "tokens of infinite welfare",
    "log_prob": "log-probability under the auction",
    "minimum_welfare": "welfare of the worst-off agent",
    "log_likelihood": "log-likelihood under the reference",
    "log_ratio_welfare": "welfare in log-ratios",
    "minimum_log_ratio_welfare": "welfare in log-ratios of the worst-off agent",
    "nash_welfare": "Nash welfare",
    "optimum_shortfall": "shortfall from the optimum",
    "realized_welfare": "one-token estimate of welfare",
    "reverse_kl": "reverse KL",
    "revenue": "realised revenue",
    "payment": "realised payment",
    "single_agent_shortfall": "shortfall from the best single agent",
    "utility": "realised utility",
}


def rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table, in order."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def cells(results: Results) -> dict[int, dict[str, str]]:
    """The level of every factor, by cell, in the order in which levels are shown."""
    names = list(results.factors)
    found = {
        row["cell"]: {name: str(row[name]) for name in names}
        for row in rows(results.summary.drop_duplicates("cell"))
    }

    def place(item: tuple[int, dict[str, str]]) -> list[float]:
        cell, levels = item
        return [*(rank(results, *level) for level in levels.items()), cell]

    return dict(sorted(found.items(), key=place))


def rank(results: Results, factor: str, level: str) -> float:
    """Where a level is shown: numbers in their order, others as the study has them."""
    if numeric(results, factor):
        return float(level)
    return list(results.factors[factor]).index(level)


def place(results: Results, row: Row) -> tuple[int, float]:
    """Where the effect of a level is shown."""
    factor, level = row["factor"], str(row["level"])
    return list(results.factors).index(factor), rank(results, factor, level)


def estimates(results: Results) -> dict[tuple[int, str, str, str], Row]:
    """The rows of the summary by (cell, measure, valuation, agent)."""
    return {
        (row["cell"], row["measure"], row["valuation"], row["agent"]): row
        for row in rows(results.summary)
    }


def headline(results: Results) -> list[tuple[str, str]]:
    """The measures of the headline table that were taken, with their valuations."""
    valuation = results.study.valuation
    taken = set(results.summary.groupby(["measure", "valuation"]).groups)
    # Conditional payments have the mean of those drawn and a narrower interval.
    revenue = "expected_revenue" if ("expected_revenue", "") in taken else "revenue"
    wanted = [welfare(results), (revenue, "")]
    if welfare(results)[1]:
        wanted += [
            ("optimum_shortfall", valuation),
            ("single_agent_shortfall", valuation),
            ("minimum_welfare", valuation),
        ]
    else:
        names = ("minimum_log_ratio_welfare", "log_likelihood", "forward_passes")
        wanted += [(name, "") for name in names]
    return [column for column in wanted if column in taken]


def welfare(results: Results) -> tuple[str, str]:
    """The measure of welfare that all cells have, and its valuation if it has one."""
    if all(scope != "text" for scope in results.plan.scopes):
        return "welfare", results.study.valuation
    return "log_ratio_welfare", ""


def utility(results: Results) -> str:
    """The measure of utility: from conditional payments, whose intervals are narrower.

    Its mean is that of the utility from realised payments.
    """
    taken = set(results.summary["measure"])
    return "expected_utility" if "expected_utility" in taken else "utility"


def valuations(results: Results, measure: str, agent: str) -> list[str]:
    """Those under which a measure was taken, the study's own first."""
    found = [
        row["valuation"]
        for row in rows(results.summary)
        if (row["measure"], row["agent"]) == (measure, agent)
    ]
    return sorted(dict.fromkeys(found), key=lambda v: v != results.study.valuation)


def varying(results: Results) -> list[str]:
    """The factors with several levels."""
    return [name for name, levels in results.factors.items() if len(levels) > 1]


def numeric(results: Results, factor: str) -> bool:
    """Whether the levels of a factor are at least three different numbers."""
    try:
        levels = {float(level) for level in results.factors[factor]}
    except ValueError:
        return False
    return len(levels) >= 3 and all(map(math.isfinite, levels))


def factor_label(factor: str) -> str:
    """A factor's name in words."""
    return _FACTORS.get(factor, factor.rpartition(".")[2].replace("_", " "))


def level_label(factor: str, level: str) -> str:
    """A level, with the factor's name where the level alone says too little."""
    if factor in ("rule", "payment"):
        return level
    if factor == "agents.num_agents":
        return f"{level} agents"
    return f"{factor_label(factor)} {level}"


def cell_label(levels: Mapping[str, str], factors: Sequence[str]) -> str:
    """The levels of `factors` in one line."""
    return " · ".join(level_label(name, levels[name]) for name in factors)


def agent_label(name: str) -> str:
    """An agent's name; a bare number is said to be an agent's."""
    return f"agent {name}" if name.isdigit() else name


def measure_label(measure: str) -> str:
    """The name of a measure or a valuation in words."""
    return _MEASURES.get(measure, measure.replace("_", " "))


def with_unit(results: Results, measure: str, label: str = "") -> str:
    """A measure's name and unit, for an axis."""
    unit = results.units.get(measure, "")
    label = label or measure_label(measure)
    return f"{label} ({unit})" if unit else label


def left_out(row: Row) -> int:
    """How many auctions are not in the mean."""
    return int(row["infinite"] + row["nan"] + row["undefined"])


def not_finite(row: Row) -> str:
    """How many texts have no finite measure, such as ``12 infinite``, or nothing."""
    words = {"infinite": "infinite", "nan": "NaN"}
    counts = {word: int(row.get(name, 0)) for name, word in words.items()}
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)


def excludes_zero(row: Row) -> bool:
    """Whether the interval has a sign."""
    return row["low"] > 0 or row["high"] < 0


def number(value: float, width: float = math.nan) -> str:
    """A number with the digits that an interval of `width` leaves meaningful.

    Half the width keeps two significant digits; without a width the number keeps
    four. NaN is a dash.

    >>> number(-12.34567, 0.246), number(1234.5, 40.0), number(math.nan)
    ('−12.35', '1,234', '–')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if not (math.isfinite(width) and width > 0):
        text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    elif (decimals := 1 - math.floor(math.log10(width / 2))) > 6:
        leading = math.floor(math.log10(abs(value))) if value else -decimals
        text = f"{value:.{min(max(leading + decimals, 1), 15)}e}"
    else:
        text = f"{value:,.{max(decimals, 0)}f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]
    return text.replace("-", MINUS)


def pair(mean: float, half: float) -> str:
    """A mean and the half-width of its interval, with the digits that it has.

    >>> pair(-0.0041, 0.01981), pair(1.5, math.inf)
    ('−0.004 ± 0.020', '1.5')
    """
    shown = number(mean, 2 * half)
    if not math.isfinite(half):
        return shown
    return f"{shown} ± {number(half, 2 * half)}"


def interval(row: Row, name: str = "") -> tuple[str, str]:
    """The mean of a row (or its column `name`) and its interval, as shown."""
    prefix = f"{name}_" if name else ""
    low, high = float(row[f"{prefix}low"]), float(row[f"{prefix}high"])
    width = high - low
    shown = number(float(row[name or "mean"]), width)
    if math.isnan(width) and not (math.isinf(low) and math.isinf(high)):
        return shown, DASH
    return shown, f"[{number(low, width)}, {number(high, width)}]"
