"""The package runs where POSIX's modules and encodings are missing, as on Windows."""

import json
import re
import subprocess
import sys

import one_device

from tokenauction_jax.studies import results

STUDY = """
name = "tiny"
description = "λ ≥ 0"
num_auctions = 100
num_tokens = 3

[agents]
kind = "dirichlet"
num_agents = 2
vocab_size = 5
"""

PROGRAM = """
import importlib, os, pathlib, pkgutil, sys, warnings

sys.modules["fcntl"] = sys.modules["resource"] = None  # Importing either fails.
os.linesep = "\\r\\n"
# Files are UTF-8, whatever the system's encoding is.
warnings.filterwarnings("error", category=EncodingWarning, module="tokenauction_jax")

import tokenauction_jax
from tokenauction_jax import environment
from tokenauction_jax.cli import main

for module in pkgutil.walk_packages(tokenauction_jax.__path__, "tokenauction_jax."):
    importlib.import_module(module.name)

environment._STATUS = pathlib.Path("no /proc")
file, folder = sys.argv[1:]
main(["study", "run", file, "--out", folder])
main(["simulate", "--num-auctions", "2", "--num-tokens", "3"])
"""


def test_neither_fcntl_nor_resource_is_needed(tmp_path):
    file, folder = tmp_path / "tiny.toml", tmp_path / "study"
    file.write_text(STUDY, "utf-8")
    # A cache of its own: without `fcntl` locks are files, which others leave.
    environment = one_device.environment() | {"PYTHONIOENCODING": "cp1252"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", PROGRAM, file, folder],
        capture_output=True,
        encoding="cp1252",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    # What the console cannot show does not end the command.
    assert re.search(r"^0 +\?\d", done.stdout, re.MULTILINE)
    assert "auctions/s. Tables are in" in done.stdout
    assert "entropy of q, nats" in done.stdout

    found = results.load(folder)
    assert found.finished
    assert list(found.performance["peak_memory_mib"].isna()) == [True]
    for line in (folder / "sessions.jsonl").read_text("utf-8").splitlines():
        assert json.loads(line, parse_constant=str)["peak_memory_mib"] is None
    for table in (folder / "tables").iterdir():
        assert b"\r" not in table.read_bytes()
