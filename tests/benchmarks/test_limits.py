"""Limits do the work that they count."""

import jax
import numpy as np
import pytest
from flax import nnx

import tokenauction_jax as ta
from benchmarks import limits


@pytest.mark.parametrize("layout", [limits._rows, limits._columns, limits._blocks])
@pytest.mark.parametrize("num_auctions", [1, 2, 37, 64])
def test_all_layouts_sum_the_exponentials_that_they_count(layout, num_auctions):
    logits = jax.random.normal(jax.random.key(0), (num_auctions, 3, 2_000))
    contender = layout(logits)
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(contender.call(0))])
    count = int(contender.count)
    assert 0 < count <= num_auctions
    assert len(found) == 3 * count
    expected = np.exp(np.asarray(logits, np.float64)).sum(2).ravel()
    if count == num_auctions:
        expected, found = np.sort(expected), np.sort(found)
    else:  # Each of them is one of some auction.
        expected = expected[np.abs(expected[:, None] - found).argmin(0)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_copy_counts_what_it_reads_and_writes(monkeypatch):
    monkeypatch.setattr(limits, "_COPIED", {"cpu": 2**12})
    contender = limits.copy(100.0)
    contender.call(0)
    assert contender.count == pytest.approx(2 * 2**12 / 100)


def test_the_products_of_a_model_use_every_weight_once():
    model = ta.agents.load_checkpoint("house").model
    weights = jax.tree.leaves(nnx.state(model, nnx.Param))
    size = sum(weight.size for weight in weights if weight.ndim == 2)
    shapes = limits.product_shapes(model.config)
    assert sum(inputs * outputs for inputs, outputs in shapes) == size
    outputs = limits.decoder_products(model.config, 4, "float32").call(0)
    assert [x.shape for x in outputs] == [(4, size) for _, size in shapes]


def test_the_peak_counts_two_operations_a_multiplication():
    width = limits._WIDTH["cpu"]
    contender = limits.matrix_products(10.0, "float32")
    assert contender.count == pytest.approx(2 * width**3 / 10)
    assert contender.call(0).shape == (width, width)
