"""Several real processes run one study, and one of them may not come, or be killed."""

import re
import signal
import socket
import subprocess
import sys

import jax
import one_device
import pytest
import tiny_study
from small_study import check_line, content, refused

import tokenauction_jax as ta
from tokenauction_jax import files
from tokenauction_jax.studies import parts

# Small blocks; some processes are killed after so many chunks of their own.
PROGRAM = """
import os, signal, sys
from tokenauction_jax.cli import main
from tokenauction_jax.studies import parts, plan

plan._LARGEST_BLOCK = 64
left, write = int(sys.argv.pop(1)), parts.Folder.write_part


def write_part(*arguments):
    global left
    write(*arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)


parts.Folder.write_part = write_part
main(["study", *sys.argv[1:]])
"""
# As it is installed: nothing else imports JAX before the command does.
PLAIN = """
import sys
from tokenauction_jax.cli import main
main(["study", *sys.argv[2:]])
"""
OTHER = re.compile("SLURM|OMPI|KUBERNETES|JAX_COORDINATOR|TF_CPP")


def start(*arguments, killed_after=-1, program=PROGRAM):
    # No cluster but the one of the test.
    given = one_device.environment()
    environment = {k: v for k, v in given.items() if not OTHER.match(k)}
    command = [sys.executable, "-c", program, killed_after, *arguments]
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, code=0):
    """What a process printed, and the lines of the command in its errors."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    # But for progress, which a slow machine tells.
    lines = [line for line in err.splitlines() if "auctions/s" not in line]
    for line in lines:
        assert line.startswith("tokenauction: ")
        check_line(line)
    return out, lines


def together(count, *arguments, killed=(), absent=(), timeout=120, program=PROGRAM):
    """Starts processes that know each other, but for some that never come."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = ("--coordinator", address, "--num-processes", count)
    common += ("--join-timeout", timeout)
    return [
        start(
            *(*arguments, *common, "--process-id", index),
            killed_after=1 if index in killed else -1,
            program=program,
        )
        for index in range(count)
        if index not in absent
    ]


# Nine chunks, the last not full, of few small programs.
TEXT = """
name = "tiny"
num_auctions = 550
num_tokens = 2
keep_auctions = 100
[agents]
kind = "table"
probs = [[0.9, 0.1], [0.2, 0.8]]
[factors]
bids.factor = [1.0, 0.5]
[bids]
kind = "shaded"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_study.write(tmp_path_factory.mktemp("study"), TEXT)


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """What one process makes."""
    place = tmp_path_factory.mktemp("whole") / "study"
    end(start("run", file, "--out", place, "--blocks-per-chunk", 1))
    return place


COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_several_processes_make_what_one_makes(file, whole, count, tmp_path):
    out = tmp_path / "study"
    run = together(count, "run", file, "--out", out, "--blocks-per-chunk", 1)
    first, *others = [end(process) for process in run]
    assert content(out) == content(whole)
    assert "Tables are in" in first[0]
    assert others == [("", [])] * (count - 1)
    sessions = [x["auctions"] for x in parts.Folder(out).sessions()]
    assert len(sessions) == count
    assert sum(sessions) == 2 * 550
    # It exists now, and nobody waits for the others to find that out.
    for process in together(2, "run", file, "--out", out):
        (line,) = end(process, code=2)[1]
        assert "exists: resume the study in it" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "count", "then"),
    [
        (1, 2, 3),
        pytest.param(0, 2, 1, marks=pytest.mark.slow),
        pytest.param(2, 4, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_is_named(file, whole, killed, count, then, tmp_path):
    """The others do what is theirs, and another number of processes the rest."""
    out = tmp_path / "study"
    arguments = ("run", file, "--out", out, "--blocks-per-chunk", 1)
    run = together(count, *arguments, killed=[killed])
    for index, process in enumerate(run):
        if index == killed:
            end(process, code=-signal.SIGKILL)
        else:
            (line,) = end(process, code=2)[1]
            assert f"process {killed} of {count} (counted from 0) ended before" in line
            assert "resume the study in it" in line
    share = range(killed, 9, count)
    left = list(share[1:])
    assert left
    assert sorted({*range(9)} - {*parts.Folder(out).finished()}) == left
    again = start("resume", out) if then == 1 else None
    for process in [again] if again else together(then, "resume", out):
        end(process)
    assert content(out) == content(whole)
    assert ta.studies.load(out).finished
    sessions = [x["auctions"] for x in parts.Folder(out).sessions()]
    # Nothing that was finished ran again.
    size = 64 * len(left) - (26 if 8 in left else 0)
    assert sum(sessions[-then:]) == 2 * size


@pytest.mark.slow
def test_a_process_that_never_joins_is_named(file, tmp_path):
    out = tmp_path / "study"
    arguments = ("run", file, "--out", out)
    for count, absent in ((3, [2]), (2, [0])):
        how = {"absent": absent, "timeout": 8, "program": PLAIN}
        for process in together(count, *arguments, **how):
            (line,) = end(process, code=2)[1]
            assert f"process {absent[0]} of {count} (counted from 0) did not" in line
            assert "join within 8 s" in line
    assert not list(out.rglob("*"))


def test_what_goes_wrong_in_the_first_process_ends_all(file, tmp_path):
    """Here studies of too few chunks, and of a number of auctions that is not known."""
    stops = tmp_path / "stops.toml"
    stops.write_text(TEXT + "[stop]\nhalf_width = 0.1\n")
    wrong = {
        file: "the study has 1 chunks, which 2 cannot share",
        stops: "leave out [stop]",
    }
    for study, told in wrong.items():
        run = together(2, "run", study, "--out", tmp_path / "study")
        (first,), (other,) = (end(process, code=2)[1] for process in run)
        assert told in first
        assert "process 0 ended before it had begun the study, and says why" in other


def test_two_processes_that_say_they_are_the_same(file, tmp_path):
    out = tmp_path / "study"
    with files.lock(out, f"{files.LOCK}-1"):
        process = start(
            *("run", file, "--out", out, "--coordinator", "127.0.0.1:1"),
            *("--num-processes", 2, "--process-id", 1, "--join-timeout", 5),
        )
        (line,) = end(process, code=2)[1]
    assert "is being run by another process" in line


def test_who_they_are_must_be_known(file, tmp_path):
    out = ("--out", tmp_path / "study")
    wrong = {
        ("--distributed", *out): "no cluster says who they are: give the address",
        ("--coordinator", "127.0.0.1", *out): "coordinator is HOST:PORT, got",
        ("--distributed",): "several processes need a folder to share",
        ("--distributed", "--shard", "1/2", *out): "a shard runs in one process",
        ("--distributed", "--join-timeout", -1, *out): "must be a number of seconds",
    }
    runs = {start("run", file, *extra): told for extra, told in wrong.items()}
    for process, told in runs.items():
        (line,) = end(process, code=2)[1]
        assert told in line
    assert not (tmp_path / "study" / "manifest.json").exists()


def test_jax_must_not_be_in_use(file, tmp_path):
    """As in this process, which runs tests."""
    jax.devices()
    processes = ta.studies.Processes("127.0.0.1:1", 2, 0, timeout=5.0)
    refused(
        lambda: ta.studies.run(file, tmp_path / "study", processes=processes),
        "JAX was used before in this process",
    )
