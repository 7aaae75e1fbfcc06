"""A page to explore kept auctions with: a slider, switches, texts and their tokens."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps

from tokenauction_jax import files, simulation
from tokenauction_jax.files import StoreError
from tokenauction_jax.outside import visible
from tokenauction_jax.reports import labels, writer
from tokenauction_jax.reports.labels import Row
from tokenauction_jax.studies.results import Results

_SUFFIX = ".html"
# What links call a factor, where its name would be long.
_KEYS = {"bids.weight": "share"}
# Texts of all cells together: a page stays below 3 MB with 40 tokens each.
_MOST_TEXTS = 500


def write_explorer(
    results: Results,
    path: str | pathlib.Path,
    *,
    title: str = "",
    rollouts: Sequence[simulation.Rollout] = (),
    level_labels: Mapping[str, str] | None = None,
) -> None:
    """Writes a new page, which needs no other file, of the auctions that were kept.

    A slider moves through the levels of a swept number, the first agent's weight if
    that is one, and buttons through those of other factors.

    Args:
      results: Of a study or a sweep.
      path: Ending in ``.html``.
      title: By default the study's name.
      rollouts: Of each cell the first auctions again, which know of single tokens what
        is not kept: log-probabilities and payments.
      level_labels: What to call levels instead.

    Raises:
      StoreError: If no auctions were kept, the file is there already, its name ends
        otherwise, or it cannot be written.
    """
    path = pathlib.Path(path)
    check_path(path)
    page = writer.render(
        "explorer.html.jinja",
        title=title or results.study.name,
        data=htmlsafe_json_dumps(
            content(results, rollouts, level_labels or {}),
            separators=(",", ":"),
            allow_nan=False,
        ),
    )
    try:
        files.write(path, page)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {files.reason(error)}") from None


def check_path(path: pathlib.Path) -> None:
    """Raises `StoreError` unless a page can be written there."""
    if path.suffix != _SUFFIX:
        raise StoreError(f"{path} is not FILE{_SUFFIX}")
    files.check_new(path)


def most_texts(num_cells: int) -> int:
    """How many texts of each cell a page has."""
    return max(1, _MOST_TEXTS // num_cells)


def content(
    results: Results,
    rollouts: Sequence[simulation.Rollout] = (),
    level_labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the page shows, as plain values; see `write_explorer`.

    Raises:
      StoreError: If no auctions were kept.
    """
    kept = results.auctions.sort_values(["cell", "auction"])
    if kept.empty:
        raise StoreError(
            f"no auctions of {results.study.name} were kept: run it with a larger "
            "keep_auctions"
        )
    # Pieces come again and again: a text has their numbers.
    pieces: dict[str, int] = {}
    table, factors = labels.estimates(results), _factors(results)
    drawn = _drawn(results)
    cells = []
    for cell, levels in labels.cells(results).items():
        rows = labels.rows(kept.loc[kept["cell"] == cell])
        rollout = rollouts[cell] if rollouts else None
        shown = rows[: most_texts(len(results.cells))]
        cells.append(
            {
                "levels": [own.index(levels[name]) for name, own in factors.items()],
                "kept": len(rows),
                "texts": [
                    _text(results, row, pieces, rollout, i)
                    for i, row in enumerate(shown)
                ],
                "estimates": [
                    [_estimate(table.get((cell, *key))) for key in keys]
                    for _, keys in drawn
                ],
            }
        )
    return {
        "agents": [_shown(labels.agent_label(name)) for name in results.agent_names],
        "factors": [
            _about(results, name, own, level_labels or {})
            for name, own in factors.items()
        ],
        # Tokens of tables are numbers, which need spaces between them.
        "separator": "" if any(kept["text"]) else " ",
        "welfare": _shown(labels.measure_label(results.study.valuation)),
        "measures": [
            {
                "name": labels.measure_label(name),
                "unit": results.units.get(name, ""),
                "curves": [_shown(labels.agent_label(a)) for *_, a in keys if a],
            }
            for name, keys in drawn
        ],
        "pieces": list(pieces),
        "cells": cells,
    }


def _factors(results: Results) -> dict[str, list[str]]:
    """The levels of what varies as they are shown; what the slider moves comes first.

    Without a swept number the first factor is none.
    """
    names = labels.varying(results)
    swept = [name for name in names if labels.numeric(results, name)]
    first = min(swept, key=lambda name: name not in _KEYS, default=None)
    names.sort(key=lambda name: name != first)
    return {
        name: sorted(results.factors[name], key=lambda x: labels.rank(results, name, x))
        for name in names
    }


def _about(
    results: Results, name: str, levels: Sequence[str], known: Mapping[str, str]
) -> dict[str, Any]:
    numeric = labels.numeric(results, name)
    label = labels.factor_label(name)
    if name in _KEYS:
        label = f"weight of {labels.agent_label(results.agent_names[0])}"
    return {
        "key": _KEYS.get(name, name),
        "name": _shown(label),
        "levels": [_shown(known.get(level, level)) for level in levels],
        "numbers": [float(level) for level in levels] if numeric else None,
    }


def _drawn(results: Results) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The measures of the curves, each with where its estimates are."""
    columns = labels.headline(results)[:2]
    found = [(name, [(name, valuation, "")]) for name, valuation in columns]
    if "mention" in set(results.summary["measure"]):
        keys = [("mention", "", name) for name in results.agent_names]
        found.insert(0, ("mention", keys))
    return found


def _estimate(row: Row | None) -> list[float | None] | None:
    if row is None:
        return None
    return [_short(row[name], 5) for name in ("mean", "low", "high")]


def _text(
    results: Results,
    row: Row,
    pieces: dict[str, int],
    rollout: simulation.Rollout | None,
    number: int,
) -> dict[str, Any]:
    """A kept auction, and of its tokens what a rollout of the same number knows."""
    agents, words = range(len(row["bids"])), list(row["pieces"])
    welfare, valuation = labels.welfare(results)
    found = {
        "auction": int(row["auction"]),
        "valid": bool(row["valid"]),
        "bids": _numbers(row["bids"]),
        "paid": _numbers(row.get(f"payment/{i}", math.nan) for i in agents),
        "mentioned": _numbers(row.get(f"mention/{i}", math.nan) for i in agents),
        "welfare": _short(row.get(f"{welfare}/{valuation}".rstrip("/"), math.nan)),
        "logProb": _short(row.get("log_prob", math.nan)),
        "tokens": [
            pieces.setdefault(visible(str(word), keep="\n"), len(pieces))
            for word in words
        ],
        # Tokens of an auction of whole texts are not owed to anyone.
        "owed": [_numbers(owed, 3) for owed in row["attribution"]],
    }
    if rollout is not None and number < len(rollout.tokens):
        tokens = np.asarray(rollout.tokens[number])[: len(words)]
        if np.array_equal(tokens, row["tokens"]):
            paid = np.asarray(rollout.payments[number], np.float64).cumsum(axis=0)
            found["logs"] = _numbers(rollout.log_prob[number][: len(words)])
            found["soFar"] = [_numbers(x) for x in paid[: len(words), agents]]
    return found


def _numbers(values: Any, digits: int = 4) -> list[float | None]:
    return [_short(float(value), digits) for value in values]


def _short(value: float, digits: int = 4) -> float | None:
    """A number of few digits, whole ones without a point; None if it is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def _shown(name: str) -> str:
    return visible(str(name))
