"""A run that is interrupted ends like one that is not, or says what is wrong."""

import signal
import subprocess
import sys
import time

import damage
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokenauction_jax as ta
from tokenauction_jax import optimisation
from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.optimisation import OptimisationError, history, launch


def assert_same(found, other):
    pd.testing.assert_frame_equal(found.estimates, other.estimates)
    pd.testing.assert_frame_equal(found.answers, other.answers)
    assert found.gap == other.gap


@pytest.mark.sweep(1)
def test_resumed_after_a_kill_at_any_step(whole, tmp_path):
    last = len(whole.steps) - 1
    for step in sorted({0, 1, 5, last // 2, last - 1, last} & set(range(last + 1))):
        place = whole.killed(step, tmp_path / str(step))
        before = ta.optimisation.load(place)
        assert len(before.estimates) <= len(whole.results.estimates)
        assert_same(ta.optimisation.resume(place), whole.results)
        for name in ("answers", "estimates"):
            table = f"tables/{name}.csv"
            assert (place / table).read_bytes() == (whole.folder / table).read_bytes()
    assert whole.results.finished


def test_in_memory_it_finds_the_same(equilibrium):
    assert_same(ta.optimisation.run(equilibrium.file), equilibrium.results)


def test_loaded_it_is_what_was_returned(whole):
    assert_same(ta.optimisation.load(whole.folder), whole.results)


def test_interrupted_by_the_user(equilibrium, tmp_path):
    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ta.optimisation.run(equilibrium.file, tmp_path / "run", listen=stop)
    found = ta.optimisation.load(tmp_path / "run")
    assert not found.finished
    assert found.converged is None
    assert set(found.estimates["step"]) == {0, 1}
    assert_same(ta.optimisation.resume(tmp_path / "run"), equilibrium.results)


@pytest.mark.slow
def test_killed_for_real(equilibrium, tmp_path):
    """Another process, killed while it runs."""
    place = tmp_path / "run"
    program = (
        "import sys; from tokenauction_jax.optimisation import launch;"
        "launch._SAVE_EVERY = -1.0; launch.run(sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", program, str(equilibrium.file), str(place)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    until = time.monotonic() + 300
    while not (place / "history.parquet").exists() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not ta.optimisation.load(place).finished
    assert_same(ta.optimisation.resume(place), equilibrium.results)


def test_every_damage_to_every_file(equilibrium, tmp_path):
    """The right answer, or one line: never another number."""
    ends = {}
    for name, how, folder in damage.copies(equilibrium.folder, tmp_path / "run"):
        for call in (ta.optimisation.load, ta.optimisation.resume):
            try:
                found = call(folder)
            except (StoreError, OptimisationError) as error:
                line = str(error)
                assert "\n" not in line
                assert len(line) < 500
                ends.setdefault(name, set()).add("refused")
            else:
                # Without a history it begins again.
                if found.finished:
                    assert_same(found, equilibrium.results)
                else:
                    assert (name, how) == ("history.parquet", "deleted")
                ends.setdefault(name, set()).add("read")
    assert ends["manifest.json"] == {"refused"}
    assert ends["history.parquet"] == {"refused", "read"}
    # What was found can be read without the file and the tables.
    assert "read" in ends["tables/answers.csv"]
    assert "read" in ends["optimisation.toml"]


@pytest.mark.parametrize("what", ["rows", "state"])
def test_an_edited_history(equilibrium, tmp_path, what):
    """A whole Parquet file, in which one number or the state was changed."""
    place = equilibrium.killed(2, tmp_path / "run")
    file = place / "history.parquet"
    table = pq.read_table(file)
    about = dict(table.schema.metadata)
    if what == "state":
        about[b"state"] = about[b"state"].replace(b'"step": ', b'"step": 1')
    else:
        means = table["mean"].to_numpy().copy()
        means[0] += 1e-9
        column = table.column_names.index("mean")
        table = table.set_column(column, "mean", pa.array(means))
    pq.write_table(table.replace_schema_metadata(about), file)
    for call in (ta.optimisation.load, ta.optimisation.resume):
        with pytest.raises(StoreError, match="its checksum is not that of what was"):
            call(place)


def test_a_history_of_another_run(equilibrium, tmp_path):
    place = equilibrium.killed(-1, tmp_path / "run")
    other = history.History.read(
        place / "history.parquet", ta.optimisation.folder.Folder(place).manifest.stamp
    )
    other.write(place / "history.parquet", "another")
    with pytest.raises(StoreError, match="is of another run, or the manifest was ch"):
        ta.optimisation.load(place)


def test_a_changed_file(equilibrium, tmp_path):
    place = equilibrium.killed(0, tmp_path / "run")
    file = place / "optimisation.toml"
    file.write_text(file.read_text().replace("seed = 5", "seed = 6"))
    with pytest.raises(
        StoreError, match=r"another configuration \(-seed = 5, \+seed = 6"
    ):
        ta.optimisation.resume(place)
    with pytest.raises(StoreError, match="another configuration"):
        ta.optimisation.resume(place, given=optimisation.read(file))


def test_folders_that_are_taken(equilibrium, tmp_path):
    with pytest.raises(ExistsError, match="exists: resume what is in it, or choose"):
        ta.optimisation.run(equilibrium.file, equilibrium.folder)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds mine.txt, which is not an optimisat"):
        ta.optimisation.run(equilibrium.file, tmp_path)
    with pytest.raises(StoreError, match="is not the folder of an optimisation"):
        ta.optimisation.load(tmp_path)


def test_a_disk_that_is_full(equilibrium, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == "history.parquet":
            raise OSError(28, "No space left on device")
        write(path, content)

    write = history.files.write
    monkeypatch.setattr(history.files, "write", full)
    monkeypatch.setattr(launch, "_SAVE_EVERY", -1.0)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        ta.optimisation.run(equilibrium.file, tmp_path / "run")
