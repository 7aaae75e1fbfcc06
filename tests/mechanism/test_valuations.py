"""Valuations against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, instances, valuations
from reference.compare import assert_within, gradients, smooth_auction
from reference.definitions import derivative

import tokenauction_jax as ta
from tokenauction_jax.mechanism.distributions import divergence_terms

NAMES = ("total_variation", "forward_kl", "reverse_kl")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", instances.SHAPES)
def test_against_the_definition(name, shape):
    batch = instances.batch(4, 50, *shape)
    log_q, log_p = batch.log_probs[:, 0], batch.log_probs[:, 1]
    valuation = getattr(ta, name)()
    found = jax.jit(jax.vmap(valuation.value))(log_q, log_p)
    log_q, log_p = map(aggregation.renormalize, (log_q, log_p))
    expected = getattr(valuations, name)(log_q, log_p)
    weight = np.exp(log_p if name == "forward_kl" else log_q)
    with np.errstate(invalid="ignore"):
        terms = weight * (np.abs(log_p) + np.abs(log_q))
    terms = np.where(np.isfinite(terms), terms, 0).sum(-1)
    assert_within(found, expected, 1e-5 * np.abs(expected) + 2e-6 * (1 + terms))
    assert found.dtype == jnp.float32
    assert (np.asarray(found) <= 2e-6 * (1 + terms)).all()


@pytest.mark.parametrize("name", NAMES)
def test_properties(name):
    valuation = getattr(ta, name)()
    assert valuation.name == name
    assert jax.tree.leaves(valuation) == []
    log_p = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    value = valuation.value(log_p, log_p)
    assert value.shape == ()
    np.testing.assert_allclose(value, 0, atol=1e-7)


def test_values_without_common_support():
    first, half = jnp.array([0.0, -jnp.inf]), jnp.log(jnp.array([0.5, 0.5]))
    assert ta.total_variation().value(half, first) == pytest.approx(-0.5)
    assert ta.forward_kl().value(first, half) == -jnp.inf
    assert ta.forward_kl().value(half, first) == pytest.approx(-np.log(2))
    assert ta.reverse_kl().value(half, first) == -jnp.inf
    assert ta.reverse_kl().value(first, half) == pytest.approx(-np.log(2))


@pytest.mark.parametrize("name", NAMES)
def test_undefined_outcomes_have_no_nan(name):
    undefined, half = jnp.full(2, -jnp.inf), jnp.log(jnp.array([0.5, 0.5]))
    value = getattr(ta, name)().value
    assert not np.isnan(value(undefined, half))
    assert np.isfinite(jax.grad(value)(undefined, half)).all()
    assert np.isfinite(jax.grad(value, 1)(undefined, half)).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, x64):
    _, log_probs = smooth_auction()

    def through(value, normalize):
        def function(log_q, log_p):
            return value(normalize(log_q), normalize(log_p))

        return function

    valuation = getattr(ta, name)()
    found = jax.grad(through(valuation.value, jax.nn.log_softmax), (0, 1))(
        jnp.asarray(log_probs[0]), jnp.asarray(log_probs[1])
    )
    by_definition = through(getattr(valuations, name), aggregation.renormalize)
    expected = gradients(by_definition, derivative, log_probs[0], log_probs[1])
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == jnp.float64
        np.testing.assert_allclose(f, e, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("log_q", "log_p"), [((4,), (3,)), ((2, 3), (2, 3)), ((), ())], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes(name, log_q, log_p):
    value = getattr(ta, name)().value
    with pytest.raises(ValueError, match=r"log_(q|p)"):
        value(jnp.full(log_q, -1.0), jnp.full(log_p, -1.0))


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_no_logs(name):
    p, logs = np.array([0.3, 0.7]), np.log([0.3, 0.7])
    for pair in ((p, logs), (logs, p), (logs, np.array([np.nan, -0.1]))):
        with pytest.raises(ValueError, match="logs of probabilities"):
            getattr(ta, name)().value(*pair)
        with pytest.raises(ValueError, match="logs of probabilities"):
            ta.robustly_prefers(pair[0], logs, pair[1])


def test_divergences_of_nearly_equal_distributions_in_float64(x64):
    """To 1e-12 of themselves, where their terms cancel to second order."""
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 0.49):
        p = rng.dirichlet(np.ones(6)).astype(np.longdouble)
        q = p * np.exp(size * rng.uniform(-1, 1, 6).astype(np.longdouble))
        q /= q.sum()
        log_p, log_q = np.log(p), np.log(q)
        ratio = log_p - log_q
        due = float((p * ratio - p + q).sum())
        terms = divergence_terms(*(jnp.asarray(x, float) for x in (p, q, ratio)))
        assert abs(float(terms.sum()) / due - 1) < 1e-12
