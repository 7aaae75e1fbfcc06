"""Folders of studies that were edited, half made, or cannot be written."""

import errno
import functools
import json
import operator
import os
import shutil
import subprocess
import sys

import damage
import filelock
import numpy as np
import pyarrow as pa
import pytest
from small_study import check_line, mend, outcome, part, refused

import tokenauction_jax as ta
from tokenauction_jax import files
from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.reports.pages import write_report
from tokenauction_jax.studies import (
    chunk_files,
    parts,
    results,
)


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
    assert read == ["plan.valuations is gone", "plan.scopes is gone"]
    for case in read:
        del lines[case]
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

    monkeypatch.setattr(filelock.FileLock, "acquire", forbidden)
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
