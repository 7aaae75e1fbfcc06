"""Whatever happens to a study's folder, it gives the right numbers or one line."""

import errno
import functools
import json
import operator
import os
import shutil
import subprocess
import sys

import damage
import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_study

import tokenauction_jax as ta
from tokenauction_jax import files
from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.reports.pages import write_report
from tokenauction_jax.studies import (
    StudyError,
    chunk_files,
    part_format,
    parts,
    plan,
    results,
)

# Three chunks of one block each, the last not full; the first two keep auctions.
TEXT = tiny_study.TEXT.replace("num_auctions = 2500", "num_auctions = 150")
TEXT = TEXT.replace("keep_auctions = 2500", "keep_auctions = 70")
TABLES = ("summary", "differences", "effects", "variance_ratios", "auctions")
# Folders by how far the study was, and the auctions of so many chunks.
CHUNKS = {"begun": 0, "third": 1, "half": 2, "finished": 3}
AUCTIONS = (0, 64, 128, 150)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Small blocks, on one device: every device would compile for itself."""
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        yield


def small_blocks(patch):
    first = jax.local_devices()[:1]
    patch.setattr(jax, "local_devices", lambda: first)
    patch.setattr(plan, "_LARGEST_BLOCK", 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_study.write(tmp_path_factory.mktemp("study"), TEXT)


@pytest.fixture(scope="module")
def folders(file, tmp_path_factory):
    """A study's folder as it is before its first chunk and after each."""
    place = tmp_path_factory.mktemp("folders")
    ta.studies.run(file, place / "finished", blocks_per_chunk=1)
    # Only ever written.
    shutil.rmtree(place / "finished" / "tables")
    for name, chunks in list(CHUNKS.items())[:-1]:
        shutil.copytree(place / "finished", place / name)
        for path in place.glob(f"{name}/*/part-*.parquet"):
            if int(path.stem.removeprefix("part-")) >= chunks:
                path.unlink()
        sums = files.read_checksums(place / name)
        kept = {k: v for k, v in sums.items() if int(k[-14:-8]) < chunks}
        files.write_checksums(place / name, kept)
    return place


def tables(found):
    return {name: getattr(found, name) for name in TABLES} | {
        "difference": found.difference(3, 0),
        "covariance": pd.DataFrame(found.covariance("welfare", "forward_kl")),
    }


@pytest.fixture(scope="module")
def right(folders):
    """The tables of the study, by the number of its auctions."""
    found = [results.load(folders / name) for name in list(CHUNKS)[1:]]
    assert [x.num_auctions for x in found] == list(AUCTIONS[1:])
    return {x.num_auctions: tables(x) for x in found}


def outcome(call, right):
    """How many auctions it gives the right numbers of, or the line that it ends in."""
    try:
        found = call()
        numbers = tables(found)
    except (StoreError, StudyError) as error:
        return str(error)
    for name, table in right[found.num_auctions].items():
        pd.testing.assert_frame_equal(numbers[name], table, obj=name)
    return found.num_auctions


def check_line(line):
    assert "\n" not in line
    assert len(line) < 500


def refused(call, match):
    with pytest.raises((StoreError, StudyError), match=match) as caught:
        call()
    check_line(str(caught.value))


def kept(folder):
    """What must not be lost: the finished chunks, as they are on disk."""
    return {x: (folder / x).read_bytes() for x in files.read_checksums(folder)}


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


@pytest.fixture
def folder(folders, tmp_path):
    """A finished study to do harm to."""
    return shutil.copytree(folders / "finished", tmp_path / "study")


def mend(folder):
    """Makes the checksums those of the files as they are now."""
    names = files.read_checksums(folder)
    sums = {name: files.checksum((folder / name).read_bytes()) for name in names}
    files.write_checksums(folder, sums)


def part(kind, chunk):
    return f"{kind}/part-{chunk:06d}.parquet"


def every_table(folder):
    return tables(results.load(folder))


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


def edits(content):
    """Manifests with one of the values changed, or left out."""
    for path in [(key,) for key in content] + [
        (key, inner)
        for key in ("outline", "plan", "versions")
        for inner in content[key]
    ]:
        value = functools.reduce(operator.getitem, path, content)
        for after in (*([], {}, "x", -1, None, 1.5), near(value), GONE):
            changed = json.loads(json.dumps(content))
            holder = functools.reduce(operator.getitem, path[:-1], changed)
            if after is GONE:
                del holder[path[-1]]
            elif after == value:
                continue
            else:
                holder[path[-1]] = after
            yield f"{'.'.join(path)} {after}", changed


GONE = "is gone"


def near(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value[:-1]
    return {} if value is None else dict(list(value.items())[1:])


def test_an_edited_manifest(folder):
    """The parts say of every value that it is theirs, but for where the study began."""
    path, lines = folder / "manifest.json", {}
    for case, changed in edits(json.loads(path.read_text())):
        path.write_text(json.dumps(changed))
        if case.startswith("base"):
            continue
        try:
            results.load(folder)
        except StoreError as error:
            lines[case] = str(error)
        else:
            lines[case] = "is read"
    # What it is by default, it is without being written.
    read = [case for case, line in lines.items() if line == "is read"]
    assert read == ["plan.valuations is gone"]
    del lines[read[0]]
    for line in lines.values():
        check_line(line)


def test_another_plan_is_told_as_such(folder):
    """Not as a list of files that is too long or too short for it."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for change in ({"chunk": 128}, {"kept": 60}, {"kept": 150}):
        changed = content | {"plan": content["plan"] | change}
        path.write_text(json.dumps(changed))
        for call in (results.load, ta.studies.resume):
            refused(lambda call=call: call(folder), "the manifest .* was changed")


def test_a_manifest_edited_before_the_first_chunk(folders, right, tmp_path):
    folder = shutil.copytree(folders / "begun", tmp_path / "study")
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["plan"] |= {"chunk": 128, "kept": 150}
    path.write_text(json.dumps(content))
    refused(lambda: ta.studies.resume(folder), "manifest .* was changed")
    content["plan"] |= {"kept": 70}
    path.write_text(json.dumps(content))
    found = ta.studies.resume(folder)
    numbers = found.summary.select_dtypes("number")
    expected = right[150]["summary"][numbers.columns]
    # Other chunks are merged, to rounding.
    np.testing.assert_allclose(numbers, expected, rtol=1e-9, atol=1e-12)


class TestHalfMade:
    def test_killed_before_the_manifest(self, file, right, tmp_path, monkeypatch):
        """A run begins anew in what it left; before that there is nothing to resume."""

        def killed(*_):
            raise KeyboardInterrupt

        folder = tmp_path / "study"
        for name in ("write", "write_json"):
            monkeypatch.setattr(files, name, killed)
            with pytest.raises(KeyboardInterrupt):
                ta.studies.run(file, folder, blocks_per_chunk=1)
            monkeypatch.undo()
            refused(lambda: ta.studies.resume(folder), "not the folder of a study")
            refused(lambda: results.load(folder), "not the folder of a study")
        assert outcome(lambda: ta.studies.run(file, folder, blocks_per_chunk=1), right)
        with pytest.raises(ExistsError, match="resume the study in it"):
            ta.studies.run(file, folder)

    @pytest.mark.parametrize(
        "names", [(), ("parts/", "auctions/"), (".study.toml.writing", ".lock")]
    )
    def test_folders_without_manifest_and_parts_are_taken(
        self, file, right, names, tmp_path
    ):
        folder = tmp_path / "study"
        folder.mkdir()
        for name in names:
            (folder / name).mkdir() if name[-1] == "/" else (folder / name).touch()
        found = outcome(lambda: ta.studies.run(file, folder, blocks_per_chunk=1), right)
        assert found == 150

    def test_folders_with_anything_else_are_left_alone(self, file, folder, tmp_path):
        (folder / "manifest.json").unlink()
        other = tmp_path / "other"
        other.mkdir()
        (other / "thesis.tex").write_text("mine")
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "study.toml").write_text("mine")
        plain = tmp_path / "plain"
        plain.write_text("mine")
        wrong = {
            folder: "has parts of a study, but no manifest.json",
            other: "holds thesis.tex",
            mine: "is another study",
            plain: "Not a directory",
            tmp_path / ("x" * 300): "File name too long",
            plain / "study": "is not a folder",
        }
        before = {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()}
        for place, reason in wrong.items():
            refused(lambda at=place: ta.studies.run(file, at), reason)
            refused(lambda at=place: results.load(at), "manifest.json")
        (mine / ".lock").unlink(missing_ok=True)
        after = {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()}
        assert after == before


def test_a_torn_line_of_the_log(folder):
    log = folder / "sessions.jsonl"
    (line,) = log.read_text().splitlines()
    log.write_text(line + "\n" + line[:40])
    assert len(parts.Folder(folder).sessions()) == 1
    parts.Folder(folder).log(json.loads(line))
    assert len(parts.Folder(folder).sessions()) == 2
    assert len(results.load(folder).performance) == 2


def test_a_study_that_nobody_may_write(folder, right, monkeypatch):
    """It loads; to go on needs a place to write."""

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(parts.filelock.FileLock, "acquire", forbidden)
    monkeypatch.setattr(files.tempfile, "TemporaryDirectory", forbidden)
    assert outcome(lambda: results.load(folder), right) == 150
    refused(lambda: ta.studies.resume(folder), "cannot write .*: Permission denied")
    found = results.load(folder)
    refused(lambda: write_report(found, folder / "report"), "cannot write .*denied")


def test_reports_are_of_whole_chunks_only(folder, tmp_path):
    """What is read late fails before anything is replaced."""
    found = results.load(folder)
    page = write_report(found, tmp_path / "report").read_bytes()
    damage.truncated(folder / part("auctions", 1))
    mend(folder)
    for call in (lambda: results.load(folder).auctions,):
        refused(call, "auctions/part-000001.parquet is damaged")
    refused(
        lambda: write_report(results.load(folder), tmp_path / "report"),
        "auctions/part-000001.parquet is damaged",
    )
    assert (tmp_path / "report" / "index.html").read_bytes() == page
    refused(lambda: write_report(found, tmp_path / ("x" * 300)), "too long")


def test_what_other_threads_read_is_not_the_interpreters(folder):
    """They may let go of it while that ends, which aborted one exit in twenty."""
    path = folder / part("parts", 0)
    before = pa.total_allocated_bytes()
    data = chunk_files._buffer(path)
    assert pa.total_allocated_bytes() - before >= len(data) == path.stat().st_size


PROGRAM = """
import sys
import tokenauction_jax as ta
ta.studies.load(sys.argv[1])
"""


@pytest.mark.slow
def test_errors_end_with_their_own_exit_code(folder):
    """None of 100; on two cores, one in 25 was aborted by a thread of Arrow's."""
    damage.flipped(folder / part("parts", 1))
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    for _ in range(100):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
