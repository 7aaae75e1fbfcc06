"""The statistics of a chunk as Parquet tables, and back."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax.statistics import (
    NUM_BATCHES,
    Batches,
    CellPairs,
    Moments,
    PairMoments,
    Statistics,
)
from tokenauction_jax.statistics.sketch import Sketch

# More products of pairs than these are written and read measure by measure.
_PAIRS_AT_ONCE = 2**20
_MOMENTS = ("n", "mean", "m2")
_HIGHER = ("m3", "m4")
_NUMBERS = pa.list_(pa.float64())
_PART = pa.schema(
    [
        ("kind", pa.string()),
        *((name, pa.int64()) for name in ("series", "measure", "auctions")),
        *((name, pa.int64()) for name in ("undefined", "infinite", "nan", "n")),
        *((name, pa.float64()) for name in ("mean", "m2", "m3", "m4")),
        ("buckets", pa.list_(pa.uint16())),
        ("counts", pa.list_(pa.int32())),
        ("batch_n", pa.list_(pa.int64())),
        ("batch_mean", _NUMBERS),
        ("batch_m2", _NUMBERS),
    ]
)
# Columns of what pairs have of their own: their attribute, and which row of it.
_PARTIAL: dict[str, tuple[str, Any]] = {
    "pair_n": ("n", ...),
    "pair_mean": ("mean", 0),
    "pair_other_mean": ("mean", 1),
    "pair_m2": ("m2", 0),
    "pair_other_m2": ("m2", 1),
}
_PAIRS = pa.schema(
    [
        *((name, pa.int64()) for name in ("measure", "cell", "n")),
        *((name, pa.float64()) for name in ("mean", "m2")),
        *((name, _NUMBERS) for name in ("cross", *_PARTIAL)),
    ]
)
# Incompressible numbers but for their exponents.
_PAIR_OPTIONS: dict[str, Any] = {
    "use_dictionary": False,
    "column_encoding": dict.fromkeys(
        (f"{name}.list.element" for name in ("cross", *_PARTIAL)), "BYTE_STREAM_SPLIT"
    ),
}


class Shape(NamedTuple):
    """What the statistics of a chunk are of.

    Attributes:
      auctions: How many ran in each cell.
      cells: How many there are, `C`.
      measures: `M`.
      comparisons: `P`.
      batched: Measures that it has in `NUM_BATCHES` parts, too.
    """

    auctions: int
    cells: int
    measures: int
    comparisons: int
    batched: Sequence[int] = ()


def to_table(statistics: Statistics) -> pa.Table:
    """All but the pairs: a row for each measure of each cell, then comparison."""
    sketch = statistics.sketch
    cells, compared = statistics.cells, statistics.comparisons
    num_cells, num_columns = cells.n.shape
    num_compared = compared.n.shape[0]
    empty = np.full(num_compared * num_columns, sketch.offsets[-1])
    offsets = pa.array(np.concatenate([sketch.offsets, empty]).astype(np.int32))

    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x.ravel(), y.ravel()])

    nothing = np.zeros((num_compared, num_columns), np.int64)
    undefined = np.repeat(statistics.undefined, num_columns)
    shape = Shape(statistics.num_auctions, num_cells, num_columns, num_compared)
    columns: dict[str, Any] = {
        **_places(shape),
        "undefined": both(undefined, nothing),
        "infinite": both(statistics.infinite, nothing),
        "nan": both(statistics.nan, nothing),
        **{
            name: both(getattr(cells, name), getattr(compared, name))
            for name in (*_MOMENTS, *_HIGHER)
        },
        "buckets": pa.ListArray.from_arrays(offsets, pa.array(sketch.buckets)),
        "counts": pa.ListArray.from_arrays(offsets, pa.array(sketch.counts)),
        **_batch_columns(statistics.batches, shape),
    }
    return pa.table(columns, _PART)


def _batch_columns(batches: Batches | None, shape: Shape) -> dict[str, pa.Array]:
    """The moments of the batches of each row, most rows without."""
    if batches is None:
        moments = Moments(*[np.zeros((NUM_BATCHES, shape.cells, 0))] * 3)
        batches = Batches((), moments)
    lengths = _batch_lengths(shape._replace(batched=batches.measures))
    # A row has its own ones.
    of_rows = {name: getattr(batches.moments, name).T for name in _MOMENTS}
    return {
        f"batch_{name}": _lists(lengths, x.swapaxes(0, 1))
        for name, x in of_rows.items()
    }


def _batch_lengths(shape: Shape) -> np.ndarray:
    """How many batches each row has."""
    of_cell = np.isin(np.arange(shape.measures), shape.batched) * NUM_BATCHES
    none = np.zeros(shape.comparisons * shape.measures, np.int64)
    return np.concatenate([np.tile(of_cell, shape.cells), none])


def _read_batches(table: pa.Table, shape: Shape) -> Batches | None:
    """Those that `_batch_columns` made columns of, None if there are none."""
    lists = [table[f"batch_{name}"].combine_chunks() for name in _MOMENTS]
    due = _batch_lengths(shape)
    if any(not np.array_equal(x.value_lengths().to_numpy(), due) for x in lists):
        raise ValueError("its batches are not those of its chunk")
    if not shape.batched:
        return None
    size = (shape.cells, len(shape.batched), NUM_BATCHES)
    found = (x.flatten().to_numpy().reshape(size) for x in lists)
    return Batches(shape.batched, Moments(*(np.moveaxis(x, -1, 0) for x in found)))


def _places(shape: Shape) -> dict[str, np.ndarray]:
    """What each row of a part is of."""
    series = (shape.cells, shape.comparisons)
    rows = [shape.measures * count for count in series]
    numbers = [np.repeat(np.arange(k), shape.measures) for k in series]
    return {
        "kind": np.repeat(np.array(["cell", "comparison"], object), rows),
        "series": np.concatenate(numbers),
        "measure": np.tile(np.arange(shape.measures), sum(series)),
        "auctions": np.full(sum(rows), shape.auctions),
    }


def check_places(table: pa.Table, places: Mapping[str, np.ndarray]) -> None:
    """Raises `ValueError` unless the rows of a table are of what they should be.

    Args:
      table: That was read.
      places: The columns that tell what each row is of.
    """
    for name, place in places.items():
        if name not in table.column_names or not np.array_equal(
            table[name].to_numpy(), place
        ):
            raise ValueError(f"its column {name} is not that of its chunk")


def from_table(table: pa.Table, shape: Shape) -> Statistics:
    """The statistics that `to_table` made a table of, without pairs.

    Raises:
      ValueError: If they are not of that shape.
    """
    table = table.cast(_PART)
    check_places(table, _places(shape))
    num_rows = shape.cells * shape.measures
    cells, compared = slice(0, num_rows), slice(num_rows, None)

    def numbers(name: str, chosen: slice) -> np.ndarray:
        return table[name].to_numpy()[chosen].reshape(-1, shape.measures)

    def moments(chosen: slice) -> Moments:
        names = (*_MOMENTS, *_HIGHER)
        return Moments.of_sample(*(numbers(name, chosen) for name in names))

    buckets = table["buckets"].combine_chunks()
    counts = table["counts"].combine_chunks().flatten().to_numpy()
    offsets = buckets.offsets.to_numpy()[: num_rows + 1].astype(np.int64)
    return Statistics(
        shape.auctions,
        numbers("undefined", cells)[:, 0],
        numbers("infinite", cells),
        numbers("nan", cells),
        moments(cells),
        moments(compared),
        Sketch(
            offsets, buckets.flatten().to_numpy(), counts.astype(np.int32, copy=False)
        ),
        batches=_read_batches(table, shape),
    )


def to_pair_tables(statistics: Statistics) -> Iterator[pa.Table]:
    """Tables of the pairs with one row for each cell of each measure.

    A row has the cell's pairs with itself and later ones, as lists. Those but of
    `cross` are empty where the numbers are those of the cells. Few pairs make one
    table, many make one for each measure.

    Raises:
      ValueError: If `statistics` are a running total.
    """
    pairs = statistics.pairs
    if pairs is None:
        raise ValueError("a running total has no pairs: write each chunk's")
    if pairs.cross.size <= _PAIRS_AT_ONCE:
        yield _pair_table(pairs, range(len(pairs.cross)))
        return
    for measure in range(len(pairs.cross)):
        yield _pair_table(pairs, range(measure, measure + 1))


def _pair_table(pairs: CellPairs, measures: range) -> pa.Table:
    num_cells, chosen = len(pairs.cells.n), slice(measures.start, measures.stop)
    lengths = np.tile(np.arange(num_cells, 0, -1), (len(measures), 1))
    columns: dict[str, Any] = {**_pair_places(measures, num_cells)}
    for name in _MOMENTS:
        columns[name] = getattr(pairs.cells, name)[:, chosen].T.ravel()
    columns["cross"] = _lists(lengths, pairs.cross[chosen])
    partial = [measure for measure in measures if measure in pairs.partial]
    lengths *= np.isin(measures, partial)[:, None]
    for column, (name, row) in _PARTIAL.items():
        found = [getattr(pairs.partial[measure], name)[row] for measure in partial]
        columns[column] = _lists(lengths, np.concatenate([*found, np.zeros(0)]))
    return pa.table(columns, _PAIRS)


def _pair_places(measures: range, num_cells: int) -> dict[str, np.ndarray]:
    """What each row of a table of pairs is of."""
    return {
        "measure": np.repeat(measures, num_cells),
        "cell": np.tile(np.arange(num_cells), len(measures)),
    }


def from_pair_table(table: pa.Table, measures: range, num_cells: int) -> CellPairs:
    """The pairs of the measures of one of the tables of `to_pair_tables`.

    Raises:
      ValueError: If they are not of these measures and cells.
    """
    table = table.cast(_PAIRS)
    check_places(table, _pair_places(measures, num_cells))
    cells = (table[name].to_numpy().reshape(-1, num_cells).T for name in _MOMENTS)
    lists = {name: table[name].combine_chunks() for name in ("cross", *_PARTIAL)}
    size = num_cells * (num_cells + 1) // 2
    flat = {name: x.flatten().to_numpy().reshape(-1, size) for name, x in lists.items()}
    lengths = lists["pair_n"].value_lengths().to_numpy()
    partial = {
        int(measure): PairMoments(
            flat["pair_n"][k],
            np.stack([flat["pair_mean"][k], flat["pair_other_mean"][k]]),
            np.stack([flat["pair_m2"][k], flat["pair_other_m2"][k]]),
            flat["cross"][measure],
        )
        for k, measure in enumerate(np.flatnonzero(lengths[::num_cells]))
    }
    return CellPairs(Moments(*cells), flat["cross"], partial)


def read_measure(file: pq.ParquetFile, shape: Shape, measure: int) -> PairMoments:
    """Joint moments `(P,)` of a measure in all pairs, from the tables of a chunk.

    Raises:
      ValueError: If they are not of that shape.
    """
    group, measures = next(
        (group, measures)
        for group, measures in enumerate(_groups(file, shape))
        if measure in measures
    )
    found = from_pair_table(file.read_row_group(group), measures, shape.cells)
    return found.of_measure(measure - measures.start)


def read_pair(file: pq.ParquetFile, shape: Shape, cell: int, other: int) -> PairMoments:
    """Joint moments `(M,)` of all measures in two cells, from those tables.

    Raises:
      ValueError: If they are not of that shape.
    """
    found = [
        from_pair_table(file.read_row_group(group), measures, shape.cells).of_pair(
            cell, other
        )
        for group, measures in enumerate(_groups(file, shape))
    ]
    return PairMoments(*(np.concatenate(x, -1) for x in zip(*found, strict=True)))


def _groups(file: pq.ParquetFile, shape: Shape) -> list[range]:
    """The measures of each table of a chunk's pairs."""
    if file.num_row_groups == 1:
        return [range(shape.measures)]
    if file.num_row_groups != shape.measures:
        raise ValueError("it is not of the measures of its chunk")
    return [range(measure, measure + 1) for measure in range(shape.measures)]


def pairs_to_parquet(statistics: Statistics, about: Mapping[str, str]) -> pa.Buffer:
    """The file of a chunk's pairs."""
    return to_parquet(to_pair_tables(statistics), about, **_PAIR_OPTIONS)


def restamped(file: pq.ParquetFile, about: Mapping[str, str]) -> pa.Buffer:
    """The file of a chunk as it would have been written with other metadata."""
    schema = pa.schema((x.name, _renamed(x.type)) for x in file.schema_arrow)
    groups = map(file.read_row_group, range(file.num_row_groups))
    options = _PAIR_OPTIONS if schema.names == _PAIRS.names else {}
    return to_parquet((group.cast(schema) for group in groups), about, **options)


def _renamed(kind: pa.DataType) -> pa.DataType:
    """A type as it was written: Parquet has a name of its own for what is in a list."""
    if pa.types.is_list(kind):
        return pa.list_(_renamed(kind.value_type))
    return kind


def to_parquet(
    tables: Iterable[pa.Table], about: Mapping[str, str], **options: Any
) -> pa.Buffer:
    """A Parquet file with a row group for each table.

    Args:
      tables: At least one, all of one schema.
      about: Metadata of the file.
      **options: Of `pyarrow.parquet.ParquetWriter`.
    """
    sink, tables = pa.BufferOutputStream(), iter(tables)
    first = next(tables)
    schema = first.schema.with_metadata(dict(about))
    with pq.ParquetWriter(sink, schema, compression="zstd", **options) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    return sink.getvalue()


def _lists(lengths: np.ndarray, values: np.ndarray) -> pa.ListArray:
    """Values in order as lists of so many each."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
