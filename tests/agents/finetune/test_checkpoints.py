"""Whatever happens to the files of a run, it ends with the same state or in a line."""

import json
import logging
import os
import shutil

import damage
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tokenauction_jax.agents.finetune import TrainingError, TrainingRun
from tokenauction_jax.agents.finetune.trainer import TrainState

ASKED = {"learning_rate": 1e-3, "sizes": (1, 2)}
STEPS = (4, 8, 12)


def state(step):
    weights = nnx.State({"w": nnx.Param(jnp.arange(64.0).reshape(8, 8) + step)})
    return TrainState(step, weights, optax.EmptyState())


def history(step):
    return [(x, 100.0 / (1 + x)) for x in range(0, step + 1, 4)]


def write(folder, steps=STEPS):
    with TrainingRun(folder, ASKED) as run:
        for step in steps:
            run.save(state(step), history(step))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    write(folder)
    return folder


def resumed(folder):
    """The step that a resumed run begins at, once all it read was found right."""
    with TrainingRun(folder, ASKED, resume=True) as run:
        found, read = run.restore(state(0)), run.history()
    expected = state(found.step)
    np.testing.assert_array_equal(found.trained["w"][...], expected.trained["w"][...])
    assert read == (history(found.step) if found.step else [])
    return found.step


def content(folder):
    files = (x for x in sorted(folder.rglob("*")) if x.is_file())
    return {x.relative_to(folder).as_posix(): x.read_bytes() for x in files}


@pytest.mark.slow
def test_every_damage_to_every_file(whole, tmp_path, caplog, capfd):
    """The run goes on from a checkpoint that is whole, or is refused in one line."""
    ends, before = {}, content(whole)
    for name, damaged, folder in damage.copies(whole, tmp_path / "run"):
        case = f"{name} {damaged}"
        with caplog.at_level(logging.ERROR):
            try:
                ends[case] = resumed(folder)
            except TrainingError as error:
                ends[case] = str(error)
                # A refusal touches nothing.
                assert content(folder) | {name: b""} == before | {name: b""}, case
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    for case, end in ends.items():
        if isinstance(end, str):
            assert "\n" not in end, case
            assert len(end) < 500, case
        if case.startswith("checkpoints/12/"):
            assert end == 8, case
        elif case.startswith("checkpoints/8/"):
            assert end == 12, case
        elif case.startswith("training.json"):
            # What the settings are is compared, where the run began is not.
            assert isinstance(end, str) or end == 12, case
        else:
            assert case.startswith("checkpoints/SHA256SUMS"), case
            assert isinstance(end, str) or end in (8, 12), case
    assert len(ends) > 200


def test_all_checkpoints_damaged(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for step in (8, 12):
        damage.flipped(folder / "checkpoints" / str(step) / "state" / "_METADATA")
    before = content(folder)
    with pytest.raises(TrainingError, match=r"all checkpoints .* damaged: restore 12"):
        resumed(folder)
    assert content(folder) == before


@pytest.mark.parametrize("steps", [(4,), STEPS])
def test_killed_before_a_checkpoint_was_listed(steps, tmp_path):
    folder = tmp_path / "run"
    write(folder, steps[:-1])
    listed = (folder / "checkpoints" / "SHA256SUMS").read_bytes()
    with TrainingRun(folder, ASKED, resume=True) as run:
        run.save(state(steps[-1]), history(steps[-1]))
    (folder / "checkpoints" / "SHA256SUMS").write_bytes(listed)
    assert resumed(folder) == (steps[-2] if steps[:-1] else 0)
    with TrainingRun(folder, ASKED, resume=True) as run:
        run.save(state(steps[-1]), history(steps[-1]))
    assert resumed(folder) == steps[-1]


def test_after_a_damaged_checkpoint_the_newest_counts_again(whole, tmp_path):
    """Also if checkpoints are further apart than they were."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    damage.truncated(folder / "checkpoints" / "12" / "_CHECKPOINT_METADATA")
    with TrainingRun(folder, ASKED, resume=True) as run:
        assert run.last_step == 8
        assert run.damaged == [folder / "checkpoints" / "12"]
        for step in (10, 11):
            run.save(state(step), history(8))
    with TrainingRun(folder, ASKED, resume=True) as run:
        assert run.restore(state(0)).step == 11
        assert not run.damaged
    assert {x for x in os.listdir(folder / "checkpoints") if x.isdigit()} == {
        "10",
        "11",
    }


def test_a_run_killed_while_its_folder_was_made_leaves_none(tmp_path, monkeypatch):
    from tokenauction_jax.agents.finetune import run

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    write(tmp_path / "run", (4,))
    assert resumed(tmp_path / "run") == 4


def test_settings_of_another_kind(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for asked in ([], [[1, 2]], "x", None, 3):
        (folder / "training.json").write_text(json.dumps({"asked": asked}))
        with pytest.raises(
            TrainingError, match=r"training.json is damaged|other settings"
        ):
            resumed(folder)


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (
        tmp_path / ("x" * 300),
        tmp_path / "file" / "run",
        tmp_path / "no/no",
    ):
        with pytest.raises(TrainingError) as refused:
            TrainingRun(place, ASKED)
        assert "\n" not in str(refused.value)
        with pytest.raises(TrainingError):
            TrainingRun(place, ASKED, resume=True)
