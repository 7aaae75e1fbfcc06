"""A study's report: one self-contained page, and its figures as files."""

import math
import numbers
import pathlib
from typing import Any

import pandas as pd

from tokenauction_jax import optimisation
from tokenauction_jax.reports import figures, labels, optimisations, tables, writer
from tokenauction_jax.reports.drawing import COLOURS
from tokenauction_jax.reports.labels import Row
from tokenauction_jax.studies.results import Results

_TEMPLATE = "page.html.jinja"
_SAMPLES = 3


def write_report(
    results: Results | optimisation.Results, folder: pathlib.Path
) -> pathlib.Path:
    """Writes `index.html`, which needs no other file, and the figures as SVG and PNG.

    The folder appears whole or not at all, in place of an earlier report.

    Args:
      results: Of a study or an optimisation, finished or not.
      folder: Where to write; its parent must exist.

    Returns:
      The page.

    Raises:
      StoreError: If it cannot be written, or `folder` holds anything else.
    """
    if isinstance(results, optimisation.Results):
        return optimisations.write_page(results, folder)
    study = results.study
    return writer.write_page(
        folder,
        figures.charts(results),
        "study.html.jinja",
        study=study,
        valuation=labels.measure_label(study.valuation),
        finished=results.finished,
        status=_status(results),
        facts=_facts(results),
        intervals=_intervals(results),
        factors={labels.factor_label(k): list(v) for k, v in results.factors.items()},
        headline=tables.headline(results),
        undefined=tables.undefined(results),
        missed=results.missed_precision,
        effects=tables.effects(results),
        differences=tables.differences(results),
        regrets=tables.regrets(results),
        ratios=tables.ratios(results),
        measures=tables.measures(results),
        agents=[(name, i % len(COLOURS)) for i, name in enumerate(_names(results))],
        samples=_samples(results),
        performance=_plain_rows(results.performance),
        environment=list(writer.flat(results.environment)),
    )


def _status(results: Results) -> str:
    if results.finished:
        return "finished"
    shard = results.manifest.get("shard")
    what = f"shard {shard['index']}/{shard['count']}" if shard else "interrupted"
    return f"{what}: {results.num_auctions:,} auctions so far"


def _intervals(results: Results) -> str:
    if results.sequential:
        return (
            "Intervals are 95 % confidence sequences: they hold at every number of "
            "auctions at once, so also where the study stopped because of them. They "
            "are exact for measures with two bounds; of others the interval is not "
            "known until enough auctions differ."
        )
    return (
        "Intervals are 95 % intervals for a number of auctions that was fixed in "
        "advance. Those of measures that are skewed or rare may be too narrow; exact "
        "ones, of measures with two bounds, are among all measures."
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    study, environment = results.study, results.environment
    versions = environment.get("versions", {})
    cells = len(labels.cells(results))
    where = f"each of {cells:,} cells" if cells > 1 else "one cell"
    software = [("tokenauction_jax", environment.get("tokenauction_jax"))]
    software += [(name, versions.get(name)) for name in ("jax", "numpy")]
    return [
        ("status", _status(results)),
        ("auctions", f"{results.num_auctions:,} in {where}"),
        ("texts", f"at most {study.num_tokens:,} tokens"),
        ("valuation", labels.measure_label(study.valuation)),
        ("seed", str(study.seed)),
        ("versions", ", ".join(f"{k} {v}" for k, v in software if v)),
    ]


def _names(results: Results) -> list[str]:
    return [labels.agent_label(name) for name in results.agent_names]


def _samples(results: Results) -> list[dict[str, Any]]:
    """The first texts of each cell, their tokens with who they are owed to."""
    factors = labels.varying(results)
    kept = results.auctions.sort_values(["cell", "auction"])
    found = []
    for cell, levels in labels.cells(results).items():
        texts = kept.loc[kept["cell"] == cell]
        found.append(
            {
                "cell": labels.cell_label(levels, factors) or "all auctions",
                "kept": len(texts),
                "texts": [
                    _text(results, row) for row in labels.rows(texts.head(_SAMPLES))
                ],
            }
        )
    return found


def _text(results: Results, row: Row) -> dict[str, Any]:
    pieces = list(row["pieces"])
    # Tokens of an auction of whole texts are not owed to anyone.
    owed = list(zip(row["favoured_by"], row["attribution"], strict=True))
    tokens = [
        _token(results, str(piece), int(agent), [float(x) for x in shares])
        for piece, (agent, shares) in zip(
            pieces, owed or [(0, [])] * len(pieces), strict=True
        )
    ]
    # Tokens of tables are numbers, which need spaces between them.
    separator = "" if row["text"] else " "
    return {
        "auction": int(row["auction"]),
        "valid": bool(row["valid"]),
        "tokens": tokens,
        "separator": separator,
    }


def _token(
    results: Results, piece: str, agent: int, shares: list[float]
) -> dict[str, Any]:
    known = [
        f"{name} {100 * share:.0f} %"
        for name, share in zip(_names(results), shares, strict=False)
        if math.isfinite(share)
    ]
    share = shares[agent] if agent < len(shares) else math.nan
    return {
        "piece": piece,
        "colour": agent % len(COLOURS),
        "opacity": f"{min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0:.2f}",
        "title": ", ".join(known),
    }


def _plain_rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The cells of a table as text, under a first row of names."""
    names = [str(name).replace("_", " ") for name in frame.columns]
    values = [tuple(_plain(v) for v in row.values()) for row in labels.rows(frame)]
    return [tuple(names), *values]


def _plain(value: Any) -> str:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        real = float(value)
        return f"{real:,.0f}" if real.is_integer() else labels.number(real)
    return labels.DASH if value is None or value is pd.NaT else str(value)
