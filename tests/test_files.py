"""Files and folders that appear whole or not at all."""

import json
import math
import os
import stat

import pytest

from tokenauction_jax import files
from tokenauction_jax.files import ExistsError, StoreError


def test_a_written_file_replaces_the_one_before(tmp_path):
    file = tmp_path / "a.txt"
    files.write(file, "one")
    files.write(file, b"two")
    assert file.read_bytes() == b"two"
    assert [x.name for x in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    files.write(file, "one")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(file, "two")
    assert file.read_text() == "one"
    assert [x.name for x in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_once_it_is_whole(tmp_path):
    folder = tmp_path / "out"
    with files.write_folder(folder) as part:
        (part / "a").write_text("x")
        assert not folder.exists()
    assert (folder / "a").read_text() == "x"
    assert [x.name for x in tmp_path.iterdir()] == ["out"]
    if os.name == "posix":
        plain = tmp_path / "plain"
        plain.mkdir()
        modes = [stat.S_IMODE(x.stat().st_mode) for x in (folder, plain)]
        assert modes[0] == modes[1]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def interrupted():
        with files.write_folder(tmp_path / "out") as part:
            (part / "a").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_only_if_asked(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(ExistsError), files.write_folder(folder):
        pass
    assert (folder / "old").read_text() == "old"
    with files.write_folder(folder, replace=True) as part:
        (part / "new").write_text("new")
    assert [x.name for x in folder.iterdir()] == ["new"]
    assert [x.name for x in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_written_are_told_before(tmp_path, monkeypatch):
    files.check_new(tmp_path / "new")
    with pytest.raises(ExistsError, match="exists"):
        files.check_new(tmp_path)
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExistsError, match="exists"):
        files.check_new(dangling)
    with pytest.raises(StoreError, match="is not a folder"):
        files.check_new(tmp_path / "no" / "results")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        files.check_new(tmp_path / "file" / "results")
    with pytest.raises(StoreError, match="cannot write"):
        files.check_new(tmp_path / ("x" * 300))
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="cannot be written"):
        files.check_new(tmp_path / "results")


def test_json_has_no_infinities(tmp_path):
    content = {"a": [math.inf, math.nan, 1.5], 2: (-math.inf, "x", None, True)}
    files.write_json(tmp_path / "a.json", content)
    expected = {"a": ["inf", "nan", 1.5], "2": ["-inf", "x", None, True]}
    assert json.loads((tmp_path / "a.json").read_text()) == expected
