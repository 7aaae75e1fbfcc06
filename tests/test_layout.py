"""Imports point one way, and importing the package stays cheap."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("tokenauction_jax").origin).parent
# The floors of the package, the ground first: imports point down only.
FLOORS = [
    *("version", "compiler", "records", "outside", "files", "environment"),
    *("mechanism", "agents", "statistics", "simulation", "replies", "measures"),
    *("auditing", "testing", "bidding"),
    *("scenarios", "studies", "optimisation", "reports", "receipts", "plots"),
    *("suite", "cli"),
]
# What these may import besides themselves; others, all that lies below.
ONLY = {
    "version": set(),
    "compiler": set(),
    "records": set(),
    "outside": set(),
    "files": {"outside"},
    "environment": {"version"},
    "mechanism": {"records"},
    "agents": {"version", "records", "outside", "files", "environment", "mechanism"},
    "statistics": set(),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
MODULES += sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")
HEAVY = [
    *("torch", "transformers", "pandas", "pyarrow", "scipy.stats", "tyro", "flax"),
    *("optax", "matplotlib", "xarray", "pydantic", "jax", "numpy"),
]


def imported(path):
    """Full names of the modules a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module != "tokenauction_jax":
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    """The room that a file is in: its folder, or itself on the ground."""
    return Path(path.relative_to(PACKAGE).parts[0]).stem


def test_every_room_has_a_floor():
    assert {room(path) for path in MODULES} <= set(FLOORS)


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
    own = room(path)
    allowed = ONLY.get(own, FLOORS[: FLOORS.index(own)])
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package != "tokenauction_jax":
            continue
        part = rest.partition(".")[0]
        assert part, f"{name}: import the module that has it"
        assert part == own or part in allowed, f"{name} is out of reach"


def test_simulation_knows_agents_as_a_protocol_only():
    for path in (PACKAGE / "simulation").rglob("*.py"):
        agents = [n for n in imported(path) if n.startswith("tokenauction_jax.agents")]
        assert all(n.startswith("tokenauction_jax.agents.pool") for n in agents)


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
