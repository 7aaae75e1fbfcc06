"""Whatever happens to a study's folder, it gives the right numbers or one line."""

import shutil

import damage
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_study import (
    AUCTIONS,
    CHUNKS,
    TEXT,
    check_line,
    every_table,
    kept,
    mend,
    outcome,
    part,
    refused,
)

import tokenauction_jax as ta
from tokenauction_jax.studies import part_format, results


@pytest.mark.sweep(1)
@pytest.mark.parametrize("state", ["begun", "half", "finished"])
def test_every_damage_to_every_file(folders, right, state, tmp_path):
    whole, done = folders / state, AUCTIONS[CHUNKS[state]]
    ends = {}
    for name, damaged, folder in damage.copies(whole, tmp_path / "study"):
        loaded = outcome(lambda at=folder: results.load(at), right)
        resumed = outcome(lambda at=folder: ta.studies.resume(at), right)
        ends.setdefault(name, {})[damaged] = loaded, resumed
        for other, data in kept(whole).items():
            if other != name:
                assert (folder / other).read_bytes() == data, (name, damaged, other)
    lines = [x for found in ends.values() for pair in found.values() for x in pair]
    for line in (x for x in lines if isinstance(x, str)):
        check_line(line)
    nothing = "no chunk of the study is finished yet: resume it"
    for name, found in ends.items():
        loaded, resumed = map(set, zip(*found.values(), strict=True))
        if name.endswith(".parquet"):
            # Nothing is read of a chunk that is not whole.
            assert all(isinstance(end, str) for end in loaded | resumed), name
        elif name == "manifest.json" and done:
            assert all(isinstance(end, str) for end in loaded | resumed), name
        elif name == "SHA256SUMS":
            assert {x for x in loaded if isinstance(x, int)} <= set(AUCTIONS[1:])
            assert {x for x in resumed if isinstance(x, int)} <= {150}
        elif name != "manifest.json":
            # The study's file is needed to go on, the log and the lock for nothing.
            assert loaded == {done or nothing}, (name, found)
            assert 150 in resumed or name == "study.toml", (name, found)


@pytest.mark.parametrize("kind", ["parts", "pairs", "auctions"])
@pytest.mark.parametrize("way", ["swapped", "doubled"])
def test_a_file_of_another_chunk(folder, kind, way):
    one, other = (folder / part(kind, chunk) for chunk in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    other.write_bytes(first)
    if way == "swapped":
        one.write_bytes(second)
    mend(folder)
    refused(lambda: every_table(folder), "it is of another chunk")
    if kind == "parts":
        refused(lambda: ta.studies.resume(folder), "it is of another chunk")


@pytest.mark.parametrize("kind", ["parts", "pairs", "auctions"])
def test_a_file_of_another_study(folder, file, kind, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(TEXT + "[sampling]\ntemperature = 0.5\n")
    ta.studies.run(other, tmp_path / "other", blocks_per_chunk=1)
    shutil.copy(tmp_path / "other" / part(kind, 0), folder / part(kind, 0))
    mend(folder)
    refused(lambda: every_table(folder), "it is of another study")


def rewritten(path, change):
    """A Parquet file whose tables were changed, and what it says of itself was not."""
    file = pq.ParquetFile(path)
    about = file.schema_arrow.metadata
    groups = [file.read_row_group(k) for k in range(file.num_row_groups)]
    path.write_bytes(part_format.to_parquet(map(change, groups), about))


def last_first(table):
    return table.take([table.num_rows - 1, *range(table.num_rows - 1)])


CHANGES = {
    "rows": last_first,
    "a row less": lambda table: table.slice(1),
    "a row twice": lambda table: pa.concat_tables([table, table.slice(3, 1)]),
    "columns": lambda table: table.select(table.column_names[::-1]),
    "a column less": lambda table: table.select(table.column_names[1:]),
    "nothing": lambda table: table.slice(0, 0),
}


@pytest.mark.parametrize("kind", ["parts", "pairs", "auctions"])
@pytest.mark.parametrize("change", CHANGES)
def test_rows_of_other_cells_and_measures(folder, kind, change):
    """A part without all of its cells and measures in their places is none."""
    rewritten(folder / part(kind, 0), CHANGES[change])
    mend(folder)
    refused(lambda: every_table(folder), f"{part(kind, 0)} is damaged")
