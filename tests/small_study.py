"""A study of three small chunks, and what is asked of its folder after any harm."""

import pandas as pd
import pytest
import tiny_study

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.studies import StudyError, results

# Three chunks of one block each, the last not full; the first two keep auctions.
TEXT = tiny_study.TEXT.replace("num_auctions = 2500", "num_auctions = 150")
TEXT = TEXT.replace("keep_auctions = 2500", "keep_auctions = 70")
TABLES = ("summary", "differences", "effects", "variance_ratios", "auctions")
# Folders by how far the study was, and the auctions of so many chunks.
CHUNKS = {"begun": 0, "third": 1, "half": 2, "finished": 3}
AUCTIONS = (0, 64, 128, 150)


def tables(found):
    return {name: getattr(found, name) for name in TABLES} | {
        "difference": found.difference(3, 0),
        "covariance": pd.DataFrame(found.covariance("welfare", "forward_kl")),
    }


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


def content(folder):
    """The bytes of all files of a study, but for what records when and where it ran."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (files.LOCK, "sessions.jsonl")
    }


def mend(folder):
    """Makes the checksums those of the files as they are now."""
    names = files.read_checksums(folder)
    sums = {name: files.checksum((folder / name).read_bytes()) for name in names}
    files.write_checksums(folder, sums)


def part(kind, chunk):
    return f"{kind}/part-{chunk:06d}.parquet"


def every_table(folder):
    return tables(results.load(folder))
