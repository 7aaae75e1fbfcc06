"""Sums of many small products are right, whatever XLA makes of them."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenauction_jax import compiler

OPTION = "xla_cpu_experimental_ynn_fusion_type"
FINISH = [jnp.abs, jnp.square, lambda x: x * x[::-1], jnp.exp]


@pytest.mark.parametrize("finish", FINISH, ids=["abs", "square", "product", "exp"])
@pytest.mark.parametrize(("rows", "size"), [(40_000, 3), (200_000, 3), (40_000, 8)])
def test_sums_of_products(rows, size, finish):
    """They add a row's own numbers; see jax-ml/jax#39103."""
    matrix = jax.random.normal(jax.random.key(0), (size, size)) / size
    x = jax.random.normal(jax.random.key(1), (rows, size))

    def row(x):
        return finish(jnp.dot(matrix, x, precision="highest")).sum()

    found = jax.jit(jax.vmap(row))(x)
    some = np.random.default_rng(0).choice(rows, 500)
    each = jnp.stack([jax.jit(row)(x) for x in x[some]])
    np.testing.assert_allclose(found[some], each, rtol=1e-5, atol=1e-5)


def environment(monkeypatch, version, flags):
    """`XLA_FLAGS` after the import of the package."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setitem(sys.modules, "jax._src.xla_bridge", None)
    compiler.avoid_wrong_sums()
    return os.environ["XLA_FLAGS"]


def test_flags(monkeypatch):
    found = environment(monkeypatch, "0.10.2", "--xla_cpu_use_onednn=false")
    assert found == f"--xla_cpu_use_onednn=false --{OPTION}=individual_dot"
    assert environment(monkeypatch, "0.10.2", found) == found
    own = f"--{OPTION}=reduce"
    assert environment(monkeypatch, "0.10.2", own) == own
    for version in ("0.10.1", "0.11.0", "0.10.20"):
        assert environment(monkeypatch, version, "") == ""


@pytest.mark.skipif(
    importlib.metadata.version("jaxlib") != "0.10.2", reason="the others add well"
)
@pytest.mark.parametrize("used", [True, False])
def test_a_late_import_is_told(used):
    program = f"import jax\nif {used}: jax.devices()\nimport tokenauction_jax"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    assert (done.returncode != 0) == used
    if used:
        assert "gets some sums wrong on CPUs" in done.stderr
        assert "line 3" in done.stderr
