"""Single auctions of a study: their texts, who is mentioned, and what is kept whole."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tokenauction_jax import measures, simulation
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.studies import part_format
from tokenauction_jax.studies.plan import Plan

# Of a table of auctions, before the measures.
_COLUMNS = (
    *("cell", "auction", "valid", "length", "text", "tokens", "pieces"),
    *("favoured_by", "attribution", "bids", "values"),
)


def decode(cell: Population, texts: measures.Texts) -> list[str]:
    """The texts of language models, without their end tokens; "" for tables."""
    tokenizer = cell.cast.tokenizer
    if tokenizer is None:
        return [""] * len(texts.valid)
    return simulation.decode_texts(tokenizer, texts.tokens, texts.length)


def all_measures(
    cell: Population, texts: measures.Texts, written: Sequence[str]
) -> np.ndarray:
    """The measures `(A, M)` in the order of the cell's columns, mentions included."""
    if not cell.setting.has_texts:
        return np.asarray(texts.measures)
    phrases = cell.cast.mentions
    named = [[measures.mentions(text, own) for own in phrases] for text in written]
    named = np.where(np.asarray(texts.valid)[:, None], np.array(named, float), np.nan)
    return np.concatenate([texts.measures, named.astype(texts.measures.dtype)], axis=1)


def table(
    index: int,
    cell: Population,
    auctions: range,
    texts: measures.Texts,
    written: Sequence[str],
    columns: Sequence[measures.Column],
    rows: np.ndarray,
) -> pa.Table:
    """The first auctions of a chunk, one row each.

    Args:
      index: Of the cell.
      cell: Its population.
      auctions: The numbers of those to keep.
      texts: The chunk's auctions.
      written: Their texts.
      columns: The study's measures.
      rows: `(A, M)`, NaN for measures the cell does not have.
    """
    kept = slice(0, len(auctions))
    lengths = texts.length[kept]
    tokenizer = cell.cast.tokenizer
    ends = () if tokenizer is None else tokenizer.end_tokens
    tokens = simulation.text_tokens(texts.tokens[kept], lengths, ends)
    pieces = [
        [str(token) for token in text] if tokenizer is None else tokenizer.pieces(text)
        for text in tokens
    ]
    attribution = [
        texts.attribution[i, : len(text)].tolist() for i, text in enumerate(tokens)
    ]
    values, bids = cell.draw(auctions.start, len(auctions))
    number = pa.from_numpy_dtype(rows.dtype)
    content = {
        "cell": np.full(len(auctions), index),
        "auction": np.array(auctions),
        "valid": texts.valid[kept],
        "length": lengths,
        "text": list(written[kept]),
        "tokens": pa.array(tokens, pa.list_(pa.int32())),
        "pieces": pa.array(pieces, pa.list_(pa.string())),
        "favoured_by": pa.array(
            [np.argmax(x, axis=-1).tolist() if x else [] for x in attribution],
            pa.list_(pa.int32()),
        ),
        "attribution": pa.array(attribution, pa.list_(pa.list_(number))),
        "bids": pa.array(bids.tolist(), pa.list_(number)),
        "values": pa.array(values.tolist(), pa.list_(number)),
    }
    content |= {column.key: rows[kept, i] for i, column in enumerate(columns)}
    return pa.table(content)


def column_names(plan: Plan) -> list[str]:
    """What a table of auctions says of each."""
    # The length is a measure, too.
    keys = (column.key for column in plan.columns)
    return list(dict.fromkeys([*_COLUMNS, *keys]))


def check(table: pa.Table, plan: Plan, chunk: int) -> None:
    """Raises `ValueError` unless a table has the auctions that a chunk keeps."""
    cells, auctions = len(plan.agents), plan.kept_auctions(chunk)
    places = {
        "cell": np.repeat(np.arange(cells), len(auctions)),
        "auction": np.tile(auctions, cells),
    }
    if table.column_names != column_names(plan):
        raise ValueError("its columns are not those of the study's measures")
    part_format.check_places(table, places)
