"""Training learns, goes on after an interruption bit for bit, and never loses a run."""

import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from flax import nnx
from scipy import special
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.agents import finetune, load_checkpoint
from tokenauction_jax.agents.finetune import trainer

STEPS = 12
OPTIONS = {"num_steps": STEPS, "batch_size": 4, "save_every": 4, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return load_checkpoint(write_checkpoint(folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": f"ad {i % 7}", "completion": f"buy thing {i % 5} now"}
        for i in range(40)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def weights(model):
    return jax.tree.leaves(nnx.state(model))


def assert_same(one, other):
    for x, y in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module", params=[None, 2], ids=["full", "lora"])
def trained(request, base, data, tmp_path_factory):
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    options = OPTIONS | {"lora_rank": request.param}
    return options, folder, finetune.fine_tune(base, data, folder, **options)


def test_it_learns(trained, base, data):
    _, _, tuned = trained
    assert [step for step, _ in tuned.perplexity] == [0, 4, 8, 12]
    assert tuned.perplexity[-1][1] < 0.7 * tuned.perplexity[0][1]
    # The caller's model is left alone.
    assert_same(base.model, load_checkpoint(base.name).model)


def test_perplexity_by_its_definition(trained, base, data):
    """`exp` of minus the mean log-probability of the completions and their end."""
    examples = finetune.read_examples(data, base.tokenizer, max_length=64)
    plan = finetune.plan_batches(examples, 3, 0)
    losses = []
    for tokens, start in examples:
        logits = np.asarray(base.model(tokens[None, :-1]), float)[0]
        log_probs = special.log_softmax(logits, axis=-1)
        learnt = log_probs[np.arange(len(tokens) - 1), tokens[1:]]
        losses += (-learnt[start - 1 :]).tolist()
    due = np.exp(np.mean(losses))
    np.testing.assert_allclose(finetune.perplexity(base.model, plan), due, rtol=1e-4)


class Killed(Exception):
    pass


def test_an_interrupted_run_ends_the_same(trained, base, data, tmp_path):
    options, _, whole = trained

    def stop(progress):
        if progress.step == 7:
            raise Killed

    folder = tmp_path / "run"
    with pytest.raises(Killed):
        finetune.fine_tune(base, data, folder, **options, on_step=stop)
    begun = []
    tuned = finetune.fine_tune(
        base,
        data,
        folder,
        **options,
        resume=True,
        on_start=lambda training, steps: begun.append(steps),
    )
    assert begun == [4]
    assert_same(tuned.checkpoint.model, whole.checkpoint.model)
    assert tuned.perplexity == whole.perplexity


def test_the_folder_is_a_checkpoint(trained, base, oracle, oracle_logits):
    _, folder, tuned = trained
    found = load_checkpoint(folder)
    assert_same(found.model, tuned.checkpoint.model)
    tokens = base.tokenizer.encode("ad 3")
    theirs = oracle.AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = np.asarray(found.model(np.array([tokens])))[0]
    np.testing.assert_allclose(
        special.log_softmax(ours, axis=-1),
        special.log_softmax(oracle_logits(theirs, tokens), axis=-1),
        atol=1e-4,
    )
    rows = (folder / "perplexity.csv").read_text().splitlines()
    assert rows[0] == "step,perplexity"
    assert len(rows) == 1 + len(tuned.perplexity)


def test_an_adapter_is_written_beside_the_merged_model(trained, base):
    from tokenauction_jax.agents import load_adapter
    from tokenauction_jax.agents.models.lora import merge

    options, folder, tuned = trained
    if options["lora_rank"] is None:
        assert tuned.adapter is None
        assert not (folder / "adapter").exists()
        return
    adapter = load_adapter(folder / "adapter", base.model)
    assert_same(merge(base.model, adapter), tuned.checkpoint.model)


KILLED = """
import sys
from tokenauction_jax.agents import finetune, load_checkpoint
model, data, folder, steps = sys.argv[1:]
def show(progress):
    print(progress.step, flush=True)
finetune.fine_tune(load_checkpoint(model), data, folder, num_steps=int(steps),
    batch_size=4, save_every=1, learning_rate=3e-3, on_step=show)
"""


@pytest.mark.parametrize("delay", [0.0, pytest.param(0.03, marks=pytest.mark.slow)])
def test_a_killed_run_ends_the_same(base, data, tmp_path, delay):
    """Killed at any moment: most of the time goes into saving here."""
    folder, options = tmp_path / "run", OPTIONS | {"num_steps": 60, "save_every": 1}
    command = [sys.executable, "-c", KILLED, base.name, str(data), str(folder), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() == "5":
                break
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    begun = []
    tuned = finetune.fine_tune(
        base,
        data,
        folder,
        **options,
        resume=True,
        on_start=lambda training, steps: begun.append(steps),
    )
    assert 5 <= begun[0] < 60
    whole = finetune.fine_tune(
        base, data, tmp_path / "whole", **options | {"save_every": 60}
    )
    assert_same(tuned.checkpoint.model, whole.checkpoint.model)


def test_a_failed_save_keeps_the_one_before(base, data, tmp_path, monkeypatch):
    """As a full disk makes it fail."""
    folder = tmp_path / "run"

    def full(self, step, *args, **kwargs):
        if step == 8:
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    import orbax.checkpoint as ocp

    save = ocp.CheckpointManager.save
    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    wrong = "step 8 .*No space left.*; that of step 4 is whole: .* resume the run"
    with pytest.raises(finetune.TrainingError, match=wrong):
        finetune.fine_tune(base, data, folder, **OPTIONS)
    monkeypatch.undo()
    tuned = finetune.fine_tune(base, data, folder, **OPTIONS, resume=True)
    assert tuned.perplexity[-1][0] == STEPS


def test_a_failed_export_loses_nothing(base, data, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finetune.tune, "write_directory", full)
    wrong = "cannot write the trained model .*No space left.* is whole"
    with pytest.raises(finetune.TrainingError, match=wrong):
        finetune.fine_tune(base, data, tmp_path / "run", **OPTIONS)
    monkeypatch.undo()
    finetune.fine_tune(base, data, tmp_path / "run", **OPTIONS, resume=True)
    assert load_checkpoint(tmp_path / "run").model.config == base.model.config


def test_a_damaged_checkpoint_is_left_out(trained, base, data, tmp_path, capfd):
    """The run goes on from the one before, and nothing is printed by anyone."""
    options, whole_folder, whole = trained
    folder = tmp_path / "run"
    shutil.copytree(whole_folder, folder)
    for file in (folder / "checkpoints" / "12" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-9])
    begun, damaged = [], []
    again = finetune.fine_tune(
        base,
        data,
        folder,
        **options,
        resume=True,
        on_start=lambda training, steps: begun.append(steps),
        on_damaged=damaged.append,
    )
    assert begun == [8]
    assert damaged == [folder / "checkpoints" / "12"]
    assert_same(again.checkpoint.model, whole.checkpoint.model)
    assert again.perplexity == whole.perplexity
    assert capfd.readouterr() == ("", "")


def test_a_full_disk(base, data, tmp_path, monkeypatch):
    """Said before Orbax finds out, whose threads print tracebacks."""
    free = iter([10**9, 10**5])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: usage._replace(free=next(free))
    )
    wrong = r"step 8 \(needs .* bytes, 100,000 are free\); that of step 4 is whole"
    with pytest.raises(finetune.TrainingError, match=wrong):
        finetune.fine_tune(base, data, tmp_path / "run", **OPTIONS)


class TestRefusals:
    def test_an_existing_folder_is_kept(self, base, data, tmp_path):
        with pytest.raises(finetune.RunExistsError, match="kept: choose another"):
            finetune.fine_tune(base, data, tmp_path, **OPTIONS)

    def test_nothing_to_resume(self, base, data, tmp_path):
        with pytest.raises(finetune.TrainingError, match="no run to resume"):
            finetune.fine_tune(base, data, tmp_path, **OPTIONS, resume=True)

    def test_changed_options_and_data(self, trained, base, data, tmp_path):
        options, folder, _ = trained
        changed = options | {"learning_rate": 1e-3}
        message = "learning_rate was 0.003 and is 0.001$"
        with pytest.raises(finetune.TrainingError, match=message):
            finetune.fine_tune(base, data, folder, **changed, resume=True)
        other = tmp_path / "other.jsonl"
        other.write_text(data.read_text().replace("thing 3", "thing 9"))
        with pytest.raises(finetune.TrainingError, match="examples was"):
            finetune.fine_tune(base, other, folder, **options, resume=True)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
            ({"num_steps": 0}, "num_steps must be"),
            ({"learning_rate": -1.0}, "learning_rate is out of range"),
            ({"lora_rank": 0}, "rank is 0"),
            ({"max_length": 129}, "max_length must be from 2 to .* 128, got 129"),
            ({"num_steps": None, "epochs": -1.0}, "epochs must be above 0 .* got -1"),
            ({"num_steps": None, "epochs": 1e300}, "epochs must be .* at most 1e"),
            (
                {"num_steps": 10**30},
                "num_steps must be an integer from 1 to 2147483647",
            ),
            ({"batch_size": 10**9}, "batch_size must be an integer from 1 to 65536"),
            ({"lora_rank": 10**9}, "rank is 1000000000: the maps have rank .* at most"),
            ({"max_length": 10**12}, "max_length must be from 2 to .* 128"),
            ({"learning_rate": 1e300}, "learning_rate is out of range"),
            ({"save_every": 0}, "save_every must be an integer from 1 to"),
            ({"save_every": -1}, "save_every must be an integer from 1 to"),
            ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
            ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295"),
        ],
    )
    def test_numbers_out_of_range(self, base, data, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            finetune.fine_tune(base, data, tmp_path / "run", **OPTIONS | change)
        assert not (tmp_path / "run").exists()

    def test_a_diverging_run_says_so(self, base, data, tmp_path):
        options = OPTIONS | {"learning_rate": 1e30}
        with pytest.raises(finetune.TrainingError, match="lower the learning rate"):
            finetune.fine_tune(base, data, tmp_path / "run", **options)


def test_warm_up_and_decay():
    training = finetune.Training(100, learning_rate=1.0, warmup=0.1, final_rate=0.2)
    rates = [float(trainer.learning_rate(training)(step)) for step in range(100)]
    assert np.argmax(rates) == 10
    assert max(rates) == pytest.approx(1)
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[11:]) < 0).all()
    assert rates[-1] == pytest.approx(0.2, abs=0.01)
