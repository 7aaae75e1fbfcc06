"""Helpers on log-distributions against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, instances, valuations
from reference.compare import assert_within
from scipy import special

import tokenauction_jax as ta
from tokenauction_jax.mechanism import distributions

PAIRS = {
    "total_variation_distance": valuations.total_variation,
    "kl_divergence": lambda log_p, log_q: valuations.forward_kl(log_q, log_p),
}


def rows(shape):
    batch = instances.batch(2, 50, *shape)
    return batch.log_probs[:, 0], batch.log_probs[:, 1]


@pytest.mark.parametrize("shape", instances.SHAPES)
def test_normalize(shape):
    log_weights, _ = rows(shape)
    log_weights = log_weights + np.float32(3.7)
    found = jax.jit(jax.vmap(distributions.normalize))(log_weights)
    expected = aggregation.renormalize(log_weights)
    size = 1 + np.where(np.isfinite(expected), np.abs(expected), 0)
    assert_within(found, expected, 1e-6 * size)
    assert found.dtype == jnp.float32


def test_normalize_keeps_the_scale_of_extreme_weights():
    for shift in (-1e30, -1e4, 0.0, 1e4, 1e30):
        log_weights = np.log(np.array([1, 3], np.float32)) + np.float32(shift)
        found = distributions.normalize(log_weights)
        assert_within(found, aggregation.renormalize(log_weights), 2e-7)


def test_normalize_without_any_weight_is_all_minus_infinity():
    log_weights = jnp.full(3, -jnp.inf)
    np.testing.assert_array_equal(distributions.normalize(log_weights), log_weights)
    gradient = jax.grad(lambda x: jnp.exp(distributions.normalize(x)).sum())
    assert np.isfinite(gradient(log_weights)).all()


@pytest.mark.parametrize("size", [1, 3, 64, 1000, 49_152])
@pytest.mark.parametrize("shift", [0.0, -1e4, 1e30])
def test_log_softmax(size, shift):
    rng = np.random.default_rng(size)
    logits = (5 * rng.normal(size=(4, size)) + shift).astype(np.float32)
    logits[1, ::2] = -np.inf
    logits[2] = -np.inf
    logits[3, -1] = np.nan
    found = ta.agents.log_softmax(logits)
    assert np.isnan(found[2:]).all()
    if size > 1:
        expected = special.log_softmax(logits[:2].astype(float), axis=-1)
        size = np.where(np.isfinite(expected), np.abs(expected), 1)
        assert_within(found[:2], expected, 3e-7 * (1 + size))


def test_gradients_of_log_softmax():
    logits = 5 * jax.random.normal(jax.random.key(0), (3, 100))
    weights = jax.random.normal(jax.random.key(1), logits.shape)
    gradients = [
        jax.grad(lambda x, f=f: (weights * f(x)).sum())(logits)
        for f in (ta.agents.log_softmax, jax.nn.log_softmax)
    ]
    assert_within(*gradients, 1e-5)


@pytest.mark.parametrize("shape", instances.SHAPES)
def test_entropy(shape):
    log_q, _ = rows(shape)
    found = jax.jit(jax.vmap(distributions.entropy))(log_q)
    expected = valuations.entropy(aggregation.renormalize(log_q))
    assert_within(found, expected, 1e-5 * (np.abs(expected) + 1))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", instances.SHAPES)
def test_distances(name, shape):
    log_p, log_q = rows(shape)
    found = jax.jit(jax.vmap(getattr(distributions, name)))(log_p, log_q)
    log_p, log_q = map(aggregation.renormalize, (log_p, log_q))
    expected = -PAIRS[name](log_p, log_q)
    # p (log p - log q) may cancel against the normalisation, both of size |log|.
    with np.errstate(invalid="ignore"):
        terms = np.exp(log_p) * (np.abs(log_p) + np.abs(log_q))
    terms = np.where(np.isfinite(terms), terms, 0).sum(-1)
    assert_within(found, expected, 1e-5 * np.abs(expected) + 2e-6 * (1 + terms))


def test_zero_probabilities():
    half, first = jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.0, -jnp.inf])
    second = first[::-1]
    assert distributions.kl_divergence(half, first) == jnp.inf
    assert distributions.kl_divergence(first, second) == jnp.inf
    assert distributions.kl_divergence(first, first) == 0
    assert distributions.kl_divergence(first, half) == pytest.approx(np.log(2))
    assert distributions.entropy(first) == 0
    assert distributions.total_variation_distance(first, second) == 1


@pytest.mark.parametrize("name", ["entropy", *PAIRS])
def test_gradients_are_finite_at_zero_probability(name):
    first, half = jnp.array([0.0, -jnp.inf]), jnp.log(jnp.array([0.5, 0.5]))
    function = getattr(distributions, name)
    pairs = [(first, half), (half, first), (first, first), (first, first[::-1])]
    arguments = [(first,), (half,)] if name == "entropy" else pairs
    for args in arguments:
        for which in range(len(args)):
            assert np.isfinite(jax.grad(function, which)(*args)).all()


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 64, 100, 1000])
def test_max_last(size):
    x = np.random.default_rng(size).normal(size=(5, 3, size)).astype(np.float32)
    x[0] = -np.inf
    x[1, 0, size // 2] = np.inf
    x[2, 1, -1] = np.nan
    found = jax.jit(distributions.max_last)(x)
    np.testing.assert_array_equal(found, x.max(axis=-1))
    assert not jax.grad(lambda x: distributions.max_last(x).sum())(x[3]).any()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [1, 31, 32, 50, 528, 1000, 1024, 1025, 3000, 50_257])
def test_sum_last(size, backend, monkeypatch):
    """A part of a row that is left out or counted twice is off by 1 / size at least."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = np.random.default_rng(size).uniform(0.5, 1, (2, 3, size)).astype(np.float32)
    found = jax.jit(distributions.sum_last)(x)
    np.testing.assert_allclose(found, x.sum(-1, dtype=np.float64), rtol=2e-6)
    slope = jax.grad(lambda x: distributions.sum_last(x).sum())(jnp.asarray(x))
    assert (slope == 1).all()


@pytest.mark.parametrize("num_agents", [3, 12])
@pytest.mark.parametrize("rule", [ta.linear(), ta.log_linear()], ids=lambda r: r.name)
def test_accelerators_find_the_same(rule, num_agents, monkeypatch):
    """They take other sums and products, which are checked here on a CPU."""
    logits = 3 * jax.random.normal(jax.random.key(0), (5, num_agents, 1000))
    bids = jax.random.gamma(jax.random.key(1), 2.0, (5, num_agents))
    mechanism = ta.Mechanism(rule, ta.clarke(rule))
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        jax.clear_caches()
        found.append(ta.step(jax.random.key(2), mechanism, bids, logits))
    jax.clear_caches()
    expected, other = found
    np.testing.assert_array_equal(other.tokens, expected.tokens)
    np.testing.assert_allclose(other.payments, expected.payments, rtol=2e-5)
    np.testing.assert_allclose(other.log_prob, expected.log_prob, rtol=1e-5)


@pytest.mark.parametrize("size", [1024, 49_152, 131_072])
def test_sums_of_equal_numbers_do_not_drift(size):
    """Rounding errors of equal numbers are of one sign, and add up."""
    x = jnp.full(size, np.float32(0.1))
    found = jax.jit(distributions.sum_last)(x)
    assert abs(float(found) / (size * float(x[0])) - 1) < 5e-6


@pytest.mark.parametrize(
    "rule", [ta.linear(), ta.log_linear(), ta.power_mean(0.5)], ids=lambda r: r.name
)
def test_laws_of_what_is_not_a_number_are_none(rule):
    log_probs = jnp.log(jnp.array([[0.5, 0.5], [jnp.nan, jnp.nan]]))
    law = jax.jit(lambda x: jnp.exp(rule.log_prob(jnp.ones(2), x)))(log_probs)
    assert not jnp.isfinite(law).any() or (law == 0).all()
