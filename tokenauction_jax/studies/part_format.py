"""The statistics of a chunk as a Parquet table, and back."""

from typing import Any

import numpy as np
import pyarrow as pa

from tokenauction_jax.statistics.moments import (
    BUCKETS,
    Moments,
    PairMoments,
    Sketch,
    Statistics,
)


def to_table(statistics: Statistics) -> pa.Table:
    """A table with one row for each measure of each cell, then of each comparison."""
    cells, compared = statistics.cells, statistics.comparisons
    num_cells, num_columns = cells.n.shape
    num_compared = compared.n.shape[0]
    pairs = {
        name: getattr(statistics.pairs, name).transpose(1, 0, 2)
        for name in ("n", "mean", "m2", "cross")
    }
    series = np.arange(num_cells * num_columns + 1) * BUCKETS
    offsets = np.searchsorted(statistics.sketch.keys, series)
    empty = np.full(num_compared * num_columns, offsets[-1])
    offsets = pa.array(np.concatenate([offsets, empty]).astype(np.int32))

    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x.ravel(), y.ravel()])

    nothing = np.zeros((num_compared, num_columns), np.int64)
    undefined = np.repeat(statistics.undefined, num_columns)
    columns: dict[str, Any] = {
        "kind": ["cell"] * cells.n.size + ["comparison"] * compared.n.size,
        "series": both(
            *(np.repeat(np.arange(k), num_columns) for k in (num_cells, num_compared))
        ),
        "measure": np.tile(np.arange(num_columns), num_cells + num_compared),
        "auctions": np.full(len(offsets) - 1, statistics.num_auctions),
        "undefined": both(undefined, nothing),
        "infinite": both(statistics.infinite, nothing),
        "n": both(cells.n, compared.n),
        "mean": both(cells.mean, compared.mean),
        "m2": both(cells.m2, compared.m2),
        "buckets": pa.ListArray.from_arrays(
            offsets, pa.array((statistics.sketch.keys % BUCKETS).astype(np.uint16))
        ),
        "counts": pa.ListArray.from_arrays(offsets, pa.array(statistics.sketch.counts)),
    }
    for name, values in pairs.items():
        flat = values.astype(np.int64 if name == "n" else np.float64).ravel()
        ends = np.minimum(
            np.arange(len(offsets)) * num_cells, num_columns * num_cells**2
        )
        columns[f"pair_{name}"] = pa.ListArray.from_arrays(
            pa.array(ends.astype(np.int32)), pa.array(flat)
        )
    return pa.table(columns)


def from_table(table: pa.Table) -> Statistics:
    """The statistics that `to_table` made a table of."""
    kind = np.array(table["kind"].to_pylist())
    num_columns = table["measure"].to_numpy().max() + 1
    is_cell = kind == "cell"

    def numbers(name: str, chosen: np.ndarray) -> np.ndarray:
        return table[name].to_numpy()[chosen].reshape(-1, num_columns)

    def moments(chosen: np.ndarray) -> Moments:
        return Moments(*(numbers(name, chosen) for name in ("n", "mean", "m2")))

    num_cells = int(is_cell.sum()) // num_columns

    def pair(name: str) -> np.ndarray:
        flat = table[f"pair_{name}"].combine_chunks().flatten().to_numpy()
        shaped = flat.reshape(num_cells, num_columns, num_cells).transpose(1, 0, 2)
        return shaped.astype(np.float64)

    buckets = table["buckets"].combine_chunks()
    lengths = np.diff(buckets.offsets.to_numpy())
    series = np.repeat(np.arange(lengths.size), lengths)
    keys = series * BUCKETS + buckets.flatten().to_numpy()
    return Statistics(
        int(table["auctions"][0].as_py()),
        numbers("undefined", is_cell)[:, 0],
        numbers("infinite", is_cell),
        moments(is_cell),
        moments(~is_cell),
        PairMoments(*(pair(name) for name in ("n", "mean", "m2", "cross"))),
        Sketch(keys, table["counts"].combine_chunks().flatten().to_numpy()),
    )
