"""Files of results: texts as Parquet, the summary as CSV, a manifest as JSON."""

import csv
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax.environment import environment
from tokenauction_jax.scenarios import runner
from tokenauction_jax.scenarios.runner import Cell, Measure
from tokenauction_jax.scenarios.scenario import Scenario

SAMPLER = "exponential race in two levels, 64-bit uniforms, keys by auction"


class StoreError(ValueError):
    """Results that cannot be written, with what to change in one line."""


def check_new(folder: pathlib.Path) -> None:
    """Raises `StoreError` if `folder` exists or could not be made.

    Called before anything runs, so that no run is lost to its last step.
    """
    try:
        exists = folder.exists()
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}") from None
    if exists:
        raise StoreError(f"{folder} exists and is kept: give another --out")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"{parent} is no folder: create it or give another --out")
    if not os.access(parent, os.W_OK):
        raise StoreError(f"{parent} cannot be written to: give another --out")


def write_results(
    folder: pathlib.Path,
    scenario: Scenario,
    cells: Sequence[Cell],
    texts: Sequence[Sequence[str]],
    summaries: Sequence[Sequence[Measure]],
    manifest: Mapping[str, Any],
) -> None:
    """Writes texts.parquet, summary.csv and manifest.json into a new folder.

    The folder appears whole or not at all.

    Raises:
      StoreError: If it cannot be written, or exists by now.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as scratch:
            part = pathlib.Path(scratch) / "results"
            part.mkdir()
            pq.write_table(_text_table(scenario, cells, texts), part / "texts.parquet")
            _write_summary(part / "summary.csv", cells, summaries)
            (part / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            check_new(folder)
            part.rename(folder)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error}") from None


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a new JSON file, whole or not at all.

    Numbers that JSON does not have (infinity, NaN) become strings.

    Raises:
      StoreError: If it cannot be written, or exists by now.
    """
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    try:
        with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
            part = pathlib.Path(scratch) / path.name
            part.write_text(text)
            check_new(path)
            part.rename(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from None


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content


def manifest(scenario: Scenario, model: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """What a rerun needs: versions, devices, dtype, seed, scenario and bids run."""
    return environment() | {
        "dtype": str(cells[0].log_prob.dtype),
        "seed": scenario.seed,
        "sampler": SAMPLER,
        "block": runner.BLOCK,
        "runs": [
            {"rule": cell.rule.name, "share": cell.share, "bids": cell.bids.tolist()}
            for cell in cells
        ],
        "model": model,
        "scenario": dataclasses.asdict(scenario),
    }


def _text_table(
    scenario: Scenario, cells: Sequence[Cell], texts: Sequence[Sequence[str]]
) -> pa.Table:
    rows = [
        row
        for cell, cell_texts in zip(cells, texts, strict=True)
        for row in _text_rows(scenario, cell, cell_texts)
    ]
    return pa.Table.from_pylist(rows)


def _text_rows(
    scenario: Scenario, cell: Cell, texts: Sequence[str]
) -> Iterable[dict[str, Any]]:
    favoured = cell.favoured_by()
    for auction, text in enumerate(texts):
        kept = cell.mask[auction]
        yield {
            "rule": cell.rule.name,
            "payment_rule": cell.rule.build().payment.name,
            "share": cell.share,
            "auction": auction,
            "valid": bool(cell.valid[auction]),
            "text": text,
            "tokens": cell.tokens[auction][kept].tolist(),
            "favoured_by": favoured[auction][kept].tolist(),
            "log_prob": float(cell.log_prob[auction][kept].sum(dtype=np.float64)),
            "bids": cell.bids.tolist(),
            "payments": _totals(cell.payments[auction][kept]),
            "expected_payments": _totals(cell.expected_payments[auction][kept]),
            "values": _totals(cell.values[auction][kept]),
        }


def _totals(per_token: np.ndarray) -> list[float]:
    """Sums over the tokens of a text, one an agent."""
    return per_token.sum(axis=0, dtype=np.float64).tolist()


def _write_summary(
    path: pathlib.Path,
    cells: Sequence[Cell],
    summaries: Sequence[Sequence[Measure]],
) -> None:
    names = ("rule", "payment_rule", "share", "measure", "agent")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*names, "mean", "low", "high", "n"))
        for cell, summary in zip(cells, summaries, strict=True):
            payment = cell.rule.build().payment.name
            for measure in summary:
                place = (cell.rule.name, payment, cell.share, *measure[:2])
                writer.writerow((*place, *measure.estimate))
