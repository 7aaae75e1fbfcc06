"""Shards of a study, run apart and merged, are what one run makes."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_study import TEXT, check_line, content, part, refused

import tokenauction_jax as ta
from tokenauction_jax import files
from tokenauction_jax.statistics import Statistics
from tokenauction_jax.studies import StudyError, part_format, provenance, results
from tokenauction_jax.studies.shards import Shard


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """Three chunks: the last not full, the first two with auctions kept whole."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    ta.studies.run(file, folder, blocks_per_chunk=1)
    return folder


@pytest.fixture(scope="module")
def shards(file, tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    for index in (1, 2):
        shard = f"{index}/2"
        ta.studies.run(file, place / str(index), blocks_per_chunk=1, shard=shard)
    return [place / "1", place / "2"]


def test_each_chunk_belongs_to_one_shard():
    for count in (1, 2, 3, 16):
        shards = [Shard.parse(f"{k}/{count}") for k in range(1, count + 1)]
        found = [list(shard.of(range(37))) for shard in shards]
        assert sorted(itertools.chain(*found)) == list(range(37))
        assert {len(chunks) for chunks in found} <= {37 // count, 37 // count + 1}
    assert list(Shard.parse("3/16").of(range(40))) == [2, 18, 34]


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "1/2/3", "-1/2", "a/b"])
def test_what_is_no_shard(file, text, tmp_path):
    place = tmp_path / "study"
    refused(lambda: ta.studies.run(file, place, shard=text), "a shard is K/N")
    assert not place.exists()


def test_merged_shards_are_one_run_byte_for_byte(whole, shards, tmp_path):
    for order, folders in enumerate((shards, shards[::-1])):
        found = ta.studies.merge(folders, tmp_path / str(order))
        assert content(tmp_path / str(order)) == content(whole)
        assert found.finished
        # Of all sessions, what each did.
        assert found.performance["auctions"].sum() == 4 * 150


def test_a_merged_study_is_one_to_go_on_with(file, whole, shards, tmp_path):
    place = tmp_path / "study"
    ta.studies.merge(shards, place)
    (place / "SHA256SUMS").write_text("")
    assert ta.studies.resume(place, study=file).finished
    assert content(place) == content(whole)


def test_one_shard_for_each_chunk_and_one_for_all(file, whole, tmp_path):
    for count in (1, 3):
        folders = [tmp_path / f"{k}-{count}" for k in range(1, count + 1)]
        for k, folder in enumerate(folders, 1):
            shard = f"{k}/{count}"
            found = ta.studies.run(file, folder, blocks_per_chunk=1, shard=shard)
            assert found.finished == (count == 1)
        ta.studies.merge(folders, tmp_path / str(count))
        assert content(tmp_path / str(count)) == content(whole)


def test_a_shard_has_results_of_its_own_auctions(shards, whole):
    found = [results.load(folder) for folder in shards]
    assert [x.num_auctions for x in found] == [64 + 22, 64]
    assert not any(x.finished for x in found)
    auctions = pd.concat([x.auctions for x in found]).sort_values(["auction", "cell"])
    every = results.load(whole).auctions.sort_values(["auction", "cell"])
    pd.testing.assert_frame_equal(
        auctions.reset_index(drop=True), every.reset_index(drop=True)
    )
    # One part has no spread, by which ratios have their intervals.
    ratios = found[1].variance_ratios
    assert (ratios["ratio"] > 0).all()
    assert ratios["low"].isna().all()


def killed_after(chunks):
    """A listener that ends the run once so many chunks are finished."""

    def listen(study, plan):
        def show(progress):
            if progress.statistics and progress.statistics.num_auctions >= 64 * chunks:
                raise KeyboardInterrupt

        return show

    return listen


def test_an_interrupted_shard_goes_on(file, whole, shards, tmp_path):
    place = tmp_path / "shard"
    with pytest.raises(KeyboardInterrupt):
        ta.studies.run(
            *(file, place), blocks_per_chunk=1, shard="1/2", listen=killed_after(1)
        )
    assert results.load(place).num_auctions == 64
    told = r"shard 1/2\) is not finished, with 1 of its 2 chunks: resume it"
    out = tmp_path / "out"
    refused(lambda: ta.studies.merge([place, shards[1]], out), told)
    assert not out.exists()
    ta.studies.resume(place)
    assert content(place) == content(shards[0])
    ta.studies.merge([place, shards[1]], out)
    assert content(out) == content(whole)


def test_a_lost_or_damaged_list_of_a_chunk_repeats_it(shards, tmp_path):
    for harm in ("lost", "damaged"):
        place = shutil.copytree(shards[1], tmp_path / harm)
        (ahead,) = (place / "ahead").iterdir()
        if harm == "lost":
            ahead.unlink()
            refused(lambda at=place: results.load(at), "no chunk .* is finished yet")
        else:
            ahead.write_text(ahead.read_text()[:100])
            refused(lambda at=place: results.load(at), "sums is damaged: delete it and")
            ahead.unlink()
        ta.studies.resume(place)
        assert content(place) == content(shards[1])


class TestRefused:
    def test_shards_that_do_not_make_a_study(self, file, whole, shards, tmp_path):
        other = tmp_path / "other.toml"
        other.write_text(TEXT.replace("num_tokens = 3", "num_tokens = 2"))
        made = {"thirds": (file, "2/3", 1), "study": (other, "2/2", 1)}
        made["chunks"] = (file, "2/2", 2)
        for name, (study, shard, blocks) in made.items():
            if name != "chunks":
                ta.studies.run(
                    study, tmp_path / name, shard=shard, blocks_per_chunk=blocks
                )
        text = TEXT.replace("num_auctions = 150", "num_auctions = 300")
        (tmp_path / "long.toml").write_text(text)
        for k, blocks in ((1, 1), (2, 2)):
            ta.studies.run(
                *(tmp_path / "long.toml", tmp_path / f"long-{k}"),
                shard=f"{k}/2",
                blocks_per_chunk=blocks,
            )
        one, two = shards
        wrong = {
            (one, one): "are the same shard: leave one out",
            (one, two, two): "are the same shard: leave one out",
            (one,): "1 of 2 shards are missing: 2",
            (two,): "1 of 2 shards are missing: 1",
            (): "there are no shards to merge",
            (one, tmp_path / "thirds"): "of different numbers of shards",
            (one, tmp_path / "study"): r"different studies \(.*num_tokens = 2",
            (tmp_path / "long-1", tmp_path / "long-2"): "chunks of 64 and of 128",
            (one, whole): "has a whole study, and no shard of one",
            (one, tmp_path): "is not the folder of a study",
        }
        before = {folder: content(folder) for folder in (one, two, whole)}
        out = tmp_path / "out"
        for folders, told in wrong.items():
            refused(lambda of=folders: ta.studies.merge(of, out), told)
            assert not out.exists()
        assert {folder: content(folder) for folder in before} == before

    def test_a_folder_that_exists(self, shards, tmp_path):
        for place in (tmp_path, shards[0]):
            refused(lambda at=place: ta.studies.merge(shards, at), "exists and is kept")
        missing = tmp_path / "no" / "study"
        refused(lambda: ta.studies.merge(shards, missing), "is not a folder")

    def test_a_damaged_shard(self, shards, tmp_path):
        for kind in ("parts", "pairs", "auctions"):
            damaged = shutil.copytree(shards[1], tmp_path / kind)
            path = damaged / part(kind, 1)
            path.write_bytes(path.read_bytes()[:-1])
            told, both = f"{kind}/part-000001.parquet is damaged", [shards[0], damaged]
            refused(lambda of=both: ta.studies.merge(of, tmp_path / "out"), told)
            assert not (tmp_path / "out").exists()

    def test_what_cannot_be_shared(self, file, tmp_path):
        told = "the study has 3 chunks, which 4 cannot share"
        refused(
            lambda: ta.studies.run(
                file, tmp_path / "x", blocks_per_chunk=1, shard="1/4"
            ),
            told,
        )
        refused(lambda: ta.studies.run(file, shard="1/2"), "needs a folder")
        stops = tmp_path / "stops.toml"
        stops.write_text(TEXT + "[stop]\nhalf_width = 0.1\n")
        with pytest.raises(StudyError, match=r"leave out \[stop\]") as caught:
            ta.studies.run(stops, tmp_path / "x", shard="1/2")
        check_line(str(caught.value))
        assert not (tmp_path / "x").exists()

    def test_a_full_disk_leaves_nothing(self, shards, tmp_path, monkeypatch):
        whole_write = files.write

        def write(path, content):
            if path.name == "part-000002.parquet":
                raise OSError(28, "No space left on device")
            whole_write(path, content)

        monkeypatch.setattr(files, "write", write)
        out = tmp_path / "out"
        refused(lambda: ta.studies.merge(shards, out), "cannot write .*out: No space")
        assert not list(tmp_path.iterdir())


def test_shards_of_different_machines(file, whole, shards, tmp_path, monkeypatch):
    """Their files say so, and then are those of the first one's."""
    elsewhere = provenance.environment() | {"platform": "Plan 9", "devices": ["abacus"]}
    monkeypatch.setattr(provenance, "environment", lambda: elsewhere)
    place = tmp_path / "second"
    ta.studies.run(file, place, blocks_per_chunk=1, shard="2/2")
    monkeypatch.undo()
    assert (
        content(place)["parts/part-000001.parquet"]
        != (content(whole)["parts/part-000001.parquet"])
    )
    ta.studies.merge([shards[0], place], tmp_path / "out")
    assert content(tmp_path / "out") == content(whole)
    versions = elsewhere | {"versions": elsewhere["versions"] | {"jax": "0"}}
    monkeypatch.setattr(provenance, "environment", lambda: versions)
    shutil.rmtree(place)
    ta.studies.run(file, place, blocks_per_chunk=1, shard="2/2")
    refused(
        lambda: ta.studies.merge([shards[0], place], tmp_path / "other"),
        "were not run alike .*versions",
    )


@pytest.mark.parametrize("most", [2**20, 1])
def test_pairs_are_restamped_as_they_were_written(most, monkeypatch):
    """In one row group, or in one for each measure."""
    monkeypatch.setattr(part_format, "_PAIRS_AT_ONCE", most)
    every = np.random.default_rng(0).normal(size=(2, 8, 3))
    # One measure is partial.
    every[0, :3, 1] = np.inf
    absent = np.zeros((2, 3), bool)
    part = Statistics.of(every, np.ones((2, 8), bool), absent, [((0, 1),)])
    one, two = (
        part_format.pairs_to_parquet(part, {"digest": x, "chunk": "0"}) for x in "ab"
    )
    file = pq.ParquetFile(pa.BufferReader(one))
    assert file.num_row_groups == (3 if most == 1 else 1)
    assert one != two
    assert part_format.restamped(file, {"digest": "b", "chunk": "0"}) == two
