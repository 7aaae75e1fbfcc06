"""The `tokenauction study` command, as its users run it."""

import errno
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import one_device
import pytest
import tiny_study

import tokenauction_jax as ta
from tokenauction_jax.cli import main
from tokenauction_jax.reports.tables import headline
from tokenauction_jax.studies import launch, parts, provenance, results

pytestmark = pytest.mark.usefixtures("one_device")

# A process that is started in the background may have been told to ignore Ctrl-C.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tokenauction_jax.cli import main
main()
"""


def study(*arguments):
    main(["study", *map(str, arguments)])


def failure(capsys, *arguments):
    """The one line of an error."""
    with pytest.raises(SystemExit) as stopped:
        study(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert error.startswith("tokenauction: ")
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command")


@pytest.fixture(scope="module")
def file(folder):
    text = tiny_study.TEXT.replace("keep_auctions = 2500", "keep_auctions = 5")
    return tiny_study.write(folder, text)


@pytest.fixture(scope="module")
def whole(folder, file):
    study("run", file, "--out", folder / "whole", "--blocks-per-chunk", "1")
    return folder / "whole"


def tables(folder):
    return {x.name: x.read_bytes() for x in sorted((folder / "tables").iterdir())}


def test_new_writes_a_study_to_start_from(tmp_path, capsys):
    study("new", tmp_path / "mine.toml", "--template", "misreport")
    assert "tokenauction study check" in capsys.readouterr().out
    assert "bids.factor" in (tmp_path / "mine.toml").read_text()
    error = failure(capsys, "new", tmp_path / "mine.toml")
    assert "exists and is kept" in error


def test_check_tells_cells_memory_and_time(file, capsys):
    study("check", file)
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 cells, 10,000 auctions" in printed
    assert "MiB of memory" in printed
    assert "2 programs compiled" in printed


def test_run_prints_the_headline_and_where_to_go_on(whole, capsys):
    study("resume", whole)
    printed = " ".join(capsys.readouterr().out.split())
    assert "second_price" in printed
    assert "95 % intervals; 2,500 auctions in each cell" in printed
    assert f"tokenauction study report {whole}" in printed
    # The numbers are those of the report's headline.
    table = headline(ta.studies.load(whole))
    for _, estimates in table.rows:
        for estimate in estimates[:3]:
            assert estimate.mean in printed


def test_report_writes_a_page(whole, capsys):
    study("report", whole)
    page = (whole / "report" / "index.html").read_text()
    assert "tiny" in page
    assert "<svg" in page


def test_the_call_that_the_readme_names_reads_results(whole, tmp_path, monkeypatch):
    (tmp_path / "misreport").symlink_to(whole)
    monkeypatch.chdir(tmp_path)
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    (call,) = re.findall(r"`(ta\.studies\.load\(.*?\))`", readme)
    assert eval(call, {"ta": ta}).num_auctions == 2500


def start(*arguments):
    command = [sys.executable, "-c", PROGRAM, "study", *map(str, arguments)]
    environment = one_device.environment()
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def run(file, folder):
    return start("run", file, "--out", folder, "--blocks-per-chunk", "1")


def wait_for_parts(process, folder, count):
    """Whether the process still runs with so many parts written; it may be too fast."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if parts.Folder(folder).num_parts() >= count:
            return True
        time.sleep(0.01)
    error = process.communicate()[1].decode()
    assert process.returncode == 0, f"no {count} parts: {error}"
    return False


def killed(process, folder, count):
    """Whether the process was killed with so many parts written, before it ended."""
    if not wait_for_parts(process, folder, count):
        return False
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return parts.Folder(folder).num_parts() < 15


@pytest.mark.slow
def test_killed_twice_and_resumed_a_study_ends_with_the_same_bytes(folder, file):
    # Long enough that a part is a small share of it.
    text = file.read_text().replace("num_auctions = 2500", "num_auctions = 15000")
    long = folder / "long.toml"
    long.write_text(text)
    study("run", long, "--out", folder / "calm", "--blocks-per-chunk", "1")
    # On a busy machine a run may end before this process looks: then another one.
    for attempt in range(5):
        place = folder / f"killed-{attempt}"
        if killed(run(long, place), place, 2):
            done = parts.Folder(place).num_parts()
            if killed(start("resume", place), place, done + 2):
                break
    else:
        raise AssertionError("every run ended before it could be killed")
    assert done >= 2
    study("resume", place)
    assert tables(place) == tables(folder / "calm")
    ran = [session["auctions"] for session in results.load(place).folder.sessions()]
    # A kill leaves no log; what the last session ran is what was missing.
    assert ran[-1] <= 4 * (15_000 - 1024 * (done + 2))


def test_control_c_leaves_everything_so_far_usable(folder, file):
    text = file.read_text().replace("num_auctions = 2500", "num_auctions = 300000")
    long = folder / "stopped.toml"
    long.write_text(text)
    process = run(long, folder / "stopped")
    assert wait_for_parts(process, folder / "stopped", 2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error.decode()
    assert "interrupted; to go on: tokenauction study resume" in error.decode()
    found = results.load(folder / "stopped")
    assert 2048 <= found.num_auctions < 300_000
    assert not found.finished
    assert "summary.csv" in tables(folder / "stopped")


def test_shards_are_merged_into_one_run(whole, file, tmp_path, capsys):
    shards = [tmp_path / "1", tmp_path / "2"]
    for k, shard in enumerate(shards, 1):
        extra = ("--out", shard, "--shard", f"{k}/2", "--blocks-per-chunk", 1)
        study("run", file, *extra)
        printed = " ".join(capsys.readouterr().out.split())
        assert f"this is shard {k}/2, to put all together: tokenauction st" in printed
    study("resume", shards[0])
    study("report", shards[0])
    page = (shards[0] / "report" / "index.html").read_text()
    assert "shard 1/2: 1,476 auctions so far" in page
    out = tmp_path / "out"
    study("merge", *shards, "--out", out)
    printed = " ".join(capsys.readouterr().out.split())
    assert "2,500 auctions in each cell" in printed
    assert f"tokenauction study report {out}" in printed
    assert tables(out) == tables(whole)
    error = failure(capsys, "merge", *shards, "--out", out)
    assert "exists and is kept" in error
    assert "another --out" in error
    error = failure(capsys, "merge", shards[0], "--out", tmp_path / "x")
    assert "1 of 2 shards are missing: 2" in error
    error = failure(capsys, "run", file, "--out", tmp_path / "x", "--shard", "3/2")
    assert "a shard is K/N with K from 1 to N, such as 3/16: got '3/2'" in error


def test_a_changed_study_is_refused_with_the_difference(whole, file, tmp_path, capsys):
    changed = tmp_path / "tiny.toml"
    changed.write_text(file.read_text().replace("num_tokens = 3", "num_tokens = 4"))
    error = failure(capsys, "resume", whole, "--study", changed)
    assert "-num_tokens = 3, +num_tokens = 4" in error
    kept = (whole / "study.toml").read_text()
    try:
        (whole / "study.toml").write_text(kept + "\n[bids]\nkind='shaded'\n")
        error = failure(capsys, "resume", whole)
        assert '+bids.kind = "shaded"' in error
    finally:
        (whole / "study.toml").write_text(kept)


def test_another_version_is_refused(whole, capsys, monkeypatch):
    now = provenance.environment() | {"backend": "abacus"}
    monkeypatch.setattr(provenance, "environment", lambda: now)
    assert "backend was cpu, is abacus" in failure(capsys, "resume", whole)


def test_a_damaged_part_is_named(whole, capsys):
    part = whole / "parts" / "part-000001.parquet"
    good = part.read_bytes()
    try:
        for bad in (good[:-9], good[:500] + b"\0" + good[501:], b""):
            part.write_bytes(bad)
            error = failure(capsys, "report", whole)
            assert "part-000001.parquet is damaged" in error
            assert "SHA256SUMS" in error
        part.unlink()
        assert "part-000001.parquet is damaged" in failure(capsys, "report", whole)
    finally:
        part.write_bytes(good)


def test_following_the_advice_on_a_damaged_part_repairs_it(file, whole, tmp_path):
    place = tmp_path / "damaged"
    shutil.copytree(whole, place)
    (place / "parts" / "part-000001.parquet").write_bytes(b"rot")
    sums = (place / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [line for line in sums if "part-000000" in line]
    (place / "SHA256SUMS").write_text("".join(kept))
    study("resume", place)
    assert tables(place) == tables(whole)


def test_a_full_disk_is_named_and_what_was_done_is_kept(
    file, tmp_path, capsys, monkeypatch
):
    whole_write = parts.files.write

    def write(path, content):
        if path.name == "part-000002.parquet" and path.parent.name == "parts":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole_write(path, content)

    monkeypatch.setattr(parts.files, "write", write)
    out = tmp_path / "full"
    error = failure(capsys, "run", file, "--out", out, "--blocks-per-chunk", 1)
    assert "part-000002.parquet: No space left on device" in error
    assert "free some space and resume; the 2 chunks before it are kept" in error
    monkeypatch.undo()
    study("resume", out)
    assert results.load(out).finished


def test_two_processes_cannot_run_one_folder(whole, capsys):
    with parts.Folder(whole).lock():
        # Another process would find it locked: `flock` belongs to the open file.
        error = failure(capsys, "resume", whole)
    assert "is being run by another process" in error


def test_damaged_folders_end_in_one_line(whole, file, tmp_path, capsys):
    place = tmp_path / "damaged"
    harm = {
        "manifest.json": (b"[]", "manifest.json is damaged"),
        "SHA256SUMS": (b"\xff", "SHA256SUMS is damaged from line 1 on"),
        "pairs": (None, "parts of a study, but no manifest.json"),
    }
    for name, (data, told) in harm.items():
        shutil.copytree(whole, place)
        if data is None:
            (place / "manifest.json").unlink()
            assert told in failure(capsys, "run", file, "--out", place)
        else:
            (place / name).write_bytes(data)
            assert told in failure(capsys, "resume", place)
            assert told in failure(capsys, "report", place)
        shutil.rmtree(place)


def test_a_damaged_log_is_left_out(whole, tmp_path, capsys):
    place = tmp_path / "damaged"
    shutil.copytree(whole, place)
    (place / "sessions.jsonl").write_bytes(b"\xff{]\n[]\n3")
    study("report", place)
    assert "Written to" in capsys.readouterr().out
    (place / ".lock").unlink()
    (place / ".lock").mkdir()
    assert "cannot write" in failure(capsys, "resume", place)
    (place / ".lock").rmdir()
    study("resume", place)
    assert "0 auctions in" in " ".join(capsys.readouterr().out.split())


def test_interrupted_before_it_began_there_is_nothing_to_resume(
    file, tmp_path, capsys, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.Folder, "create", interrupted)
    with pytest.raises(SystemExit) as stopped:
        study("run", file, "--out", tmp_path / "study")
    assert stopped.value.code == 130
    assert "resume" not in capsys.readouterr().err
    monkeypatch.undo()
    assert "it has no manifest.json" in failure(capsys, "resume", tmp_path / "study")


def test_errors_are_one_line(tmp_path, whole, file, capsys):
    error = failure(capsys, "run", file, "--out", whole)
    assert "exists: resume the study in it" in error
    assert f"(`tokenauction study resume {whole}`, or another --out)" in error
    assert "is not the folder of a study" in failure(capsys, "resume", tmp_path)
    long = tmp_path / ("x" * 300)
    assert "File name too long" in failure(capsys, "run", file, "--out", long)
    assert "File name too long" in failure(capsys, "report", whole, "--out", long)
    assert "no study 'nope'" in failure(capsys, "check", "nope")
    bad = ("run", file, "--out", tmp_path / "x", "--blocks-per-chunk", "0")
    assert "blocks_per_chunk must be at least 1" in failure(capsys, *bad)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("sed = 1\n[agents]\nkind = 'dirichlet'\nvocab_sise = 3\n")
    error = failure(capsys, "check", wrong)
    assert "line 1: sed: unknown key, did you mean 'seed'?" in error
    assert "line 4: agents.vocab_sise: unknown key, did you mean 'vocab_size'" in error
