"""Consoles that cannot show every character: no command ends on one."""

import contextlib
import io
import sys

import pytest
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.cli.main import main

pytestmark = pytest.mark.usefixtures("one_device")

STUDY = """
description = "né, 漢字"
num_auctions = 64
num_tokens = 2
[agents]
kind = "table"
probs = [[0.9, 0.1], [0.2, 0.8]]
"""


@pytest.fixture
def scenario(tmp_path):
    model = write_checkpoint(tmp_path / "modèle")
    agents = "".join(
        f"[[agents]]\nname = '{name}'\nprompt = 'to {name}'\n"
        for name in ("Ünal", "漢")
    )
    (tmp_path / "mer.toml").write_text(
        f"query = 'où ?'\nmodel = '{model}'\nnum_auctions = 3\nnum_tokens = 5\n"
        f"{agents}",
        "utf-8",
    )
    return tmp_path / "mer.toml"


def printed(monkeypatch, encoding, command):
    """What a command prints on streams that raise at what they cannot encode."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)
    )
    refused_or_help = command[0] == "simulate" and not command[1].endswith(".toml")
    ends = pytest.raises(SystemExit) if refused_or_help else contextlib.nullcontext()
    with monkeypatch.context() as patch, ends:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        main(command)
    return [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_command_prints(monkeypatch, encoding, scenario, tmp_path):
    study, folder = tmp_path / "study.toml", tmp_path / "étude"
    study.write_text(STUDY, "utf-8")
    for command, expected in (
        (["simulate", str(scenario), "--out", str(tmp_path / "où")], "nal"),
        (["simulate", "où"], "no scenario"),
        (["simulate", "--help"], "--num-auctions"),
        (["models"], "house"),
        (["study", "check", str(study)], "64"),
        (["study", "run", str(study), "--out", str(folder)], "tude"),
        (["study", "report", str(folder)], "tude"),
    ):
        out, err = printed(monkeypatch, encoding, command)
        assert expected in out + err, command
