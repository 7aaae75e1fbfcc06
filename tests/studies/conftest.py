"""The folder of a small study, at every stage of it."""

import shutil

import pytest
import tiny_study
from small_study import AUCTIONS, CHUNKS, TEXT, tables

import tokenauction_jax as ta
from tokenauction_jax import files
from tokenauction_jax.studies import plan, results


@pytest.fixture(scope="module")
def small(one_device):
    """Small blocks, on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_LARGEST_BLOCK", 64)
        yield


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
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


@pytest.fixture(scope="module")
def right(folders):
    """The tables of the study, by the number of its auctions."""
    found = [results.load(folders / name) for name in list(CHUNKS)[1:]]
    assert [x.num_auctions for x in found] == list(AUCTIONS[1:])
    return {x.num_auctions: tables(x) for x in found}


@pytest.fixture
def folder(folders, tmp_path):
    """A finished study to do harm to."""
    return shutil.copytree(folders / "finished", tmp_path / "study")
