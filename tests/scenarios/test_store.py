import json

import pytest
from table_scenario import cells, scenario

from tokenauction_jax.scenarios import runner, store


def write(folder):
    chosen = scenario()
    found = cells(chosen)
    texts = [["text"] * chosen.num_auctions] * len(found)
    summaries = [runner.summarize(chosen, cell, texts[0]) for cell in found]
    manifest = store.manifest(chosen, "table", found)
    store.write_results(folder, chosen, found, texts, summaries, manifest)


def test_a_folder_appears_whole(tmp_path):
    write(tmp_path / "results")
    names = {file.name for file in (tmp_path / "results").iterdir()}
    assert names == {"texts.parquet", "summary.csv", "manifest.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["results"]
    manifest = json.loads((tmp_path / "results" / "manifest.json").read_text())
    assert manifest["model"] == "table"
    assert "race" in manifest["sampler"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.pq, "write_table", full)
    with pytest.raises(store.StoreError, match="No space left"):
        write(tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    with pytest.raises(store.StoreError, match="exists"):
        store.check_new(folder)
    with pytest.raises(store.StoreError, match="exists"):
        write(folder)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store.os, "access", lambda *_: False)
    with pytest.raises(store.StoreError, match="cannot be written"):
        store.check_new(tmp_path / "results")
    with pytest.raises(store.StoreError, match="is no folder"):
        store.check_new(tmp_path / "no" / "results")
