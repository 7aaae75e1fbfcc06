"""Imports point one way, and importing the package stays cheap."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("tokenauction_jax").origin).parent
# What each part may import; the command line, the display and `testing` are on top.
ALLOWED = {
    "mechanism": {"mechanism"},
    "agents": {"agents", "environment", "mechanism"},
    "simulation": {"simulation", "mechanism"},
    "bidding": {"bidding", "simulation", "mechanism"},
    "auditing": {"auditing", "environment", "mechanism"},
    "studies": {
        "studies",
        "environment",
        "bidding",
        "simulation",
        "agents",
        "mechanism",
    },
}
MODULES = sorted(path for part in ALLOWED for path in (PACKAGE / part).rglob("*.py"))
HEAVY = [
    *("torch", "transformers", "pandas", "pyarrow", "scipy.stats", "tyro", "flax"),
    *("optax", "matplotlib", "xarray", "pydantic"),
]


def imported(path):
    """Full names of the modules a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    allowed = ALLOWED[path.relative_to(PACKAGE).parts[0]]
    parts = {entry.stem for entry in PACKAGE.iterdir() if entry.stem != "__init__"}
    for name in imported(path):
        package, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if package == "tokenauction_jax" and part in parts:
            assert part in allowed, f"{name} is out of reach"


def test_simulation_knows_agents_as_a_protocol_only():
    """It takes any pool: not even the protocol's own module is needed."""
    for path in (PACKAGE / "simulation").rglob("*.py"):
        for name in imported(path):
            assert not name.startswith("tokenauction_jax.agents."), name


def test_mechanism_never_imports_flax():
    for path in (PACKAGE / "mechanism").rglob("*.py"):
        assert not any(name.partition(".")[0] == "flax" for name in imported(path))


def test_importing_the_package_is_cheap():
    """Nothing heavy comes along before a language model or a study is used."""
    program = "import sys, tokenauction_jax; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert set(HEAVY).isdisjoint(done.stdout.split())


def test_importing_the_package_does_not_start_a_backend():
    """Environment variables such as XLA_FLAGS still count after the import."""
    program = (
        "import tokenauction_jax; from jax._src import xla_bridge as bridge;"
        "print(len(bridge._backends))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
