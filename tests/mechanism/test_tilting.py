"""Divergences from tilts against their definition in extended precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.compare import assert_within, smooth_auction

import tokenauction_jax as ta
from tokenauction_jax.mechanism import tilting

LD = np.longdouble


def between(log_q, x):
    """``KL(q || r)`` `(n,)`, r of weights ``q exp(-x)``: a sum of no negative terms."""
    q, x = np.exp(np.asarray(log_q, LD)), np.asarray(x, LD)
    q = q / q.sum()
    small = np.abs(x) < 1e-3
    s = np.where(small, x, 0)
    series = s * s * (LD(1) / 2 - s * (LD(1) / 6 - s * (LD(1) / 24 - s / 120)))
    gaps = np.where(small, series, np.expm1(-np.where(small, 0, x)) + x)
    possible = x < tilting.NEVER
    gap = (q * np.where(possible, gaps, 0)).sum(-1)
    middle = (q * np.where(possible, x, 0)).sum(-1)
    return middle + np.log1p(gap - middle)


@jax.jit
def divergence(log_q, x):
    q = jnp.exp(log_q)
    return tilting.divergence(q, log_q, log_q[None] - x, x)


def of_a_coin(a):
    """Of two equally likely tokens, which the agent makes less and more likely."""
    half = jnp.log(jnp.full(2, 0.5))
    return divergence(half, jnp.stack([a, -a])[None])[0]


def test_all_tilts():
    """``log cosh(a)``, over the range of a float."""
    a = np.append(np.geomspace(1e-18, 1e4, 50_000), [0, 0.34657, 0.34658, 1e-19])
    a = a.astype(np.float32)
    exact = a.astype(LD)
    due = np.where(a < 20, np.log1p(2 * np.sinh(np.minimum(exact, 20) / 2) ** 2), 0)
    due = np.where(a < 20, due, exact - np.log(LD(2)))
    for sign in (1, -1):
        found = jax.jit(jax.vmap(of_a_coin))(sign * a)
        assert_within(found, due, 5e-7 * due + 1e-37)


def test_derivatives_of_all_tilts():
    """``tanh(a)`` and ``1 / cosh(a)^2``."""
    a = np.append(np.geomspace(1e-18, 1e4, 5_000), 0).astype(np.float32)
    first, second = jax.grad(of_a_coin), jax.grad(jax.grad(of_a_coin))
    found = jax.jit(jax.vmap(first))(a)
    np.testing.assert_allclose(found, np.tanh(a.astype(float)), rtol=1e-6, atol=1e-37)
    found = jax.jit(jax.vmap(second))(a)
    due = 1 / np.cosh(np.minimum(a.astype(float), 300)) ** 2
    np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [1.0, 30.0, 100.0, 300.0])
@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0, 30.0, 1e3])
def test_rare_tokens(depth, size):
    """Whatever is left of them in q, others may draw nothing else."""
    rng = np.random.default_rng(0)
    for vocabulary in (3, 300):
        log_q = -depth * rng.gamma(1, size=(200, vocabulary))
        log_q -= log_q.max(-1, keepdims=True)
        log_q -= np.log(np.exp(log_q).sum(-1, keepdims=True))
        x = size * rng.normal(size=(200, 2, vocabulary))
        vanishes = rng.uniform(size=(200, vocabulary)) < 0.2
        x[:, 0] += min(size, 1) * np.where(vanishes, log_q, 0)
        log_q, x = np.float32(log_q), np.float32(x)
        q = np.exp(log_q.astype(LD))[:, None]
        top = np.take_along_axis(x, log_q.argmax(-1)[:, None, None], -1)
        x = x - top
        x = np.float32(x - (q * x).sum(-1, keepdims=True) / q.sum(-1, keepdims=True))
        found = jax.vmap(divergence)(log_q, x)
        due = np.stack([between(*row) for row in zip(log_q[:, None], x, strict=True)])
        assert_within(found, due, 2e-6 * due * (1 + depth / 30) + 1e-35)


def test_tokens_that_are_not_drawn():
    """One that q lost by the agent counts in full; one that r has not, not at all."""
    q = jnp.array([0.25, 0.75, 0, 0])
    log_q = jnp.log(jnp.array([0.25, 0.75, 0.5, 1]))
    x = jnp.array([[0, 0, 0, tilting.NEVER], [0.3, -0.1, tilting.NEVER, 0]])
    found = jax.jit(tilting.divergence)(q, log_q, log_q[None] - x, x)
    masses = np.array([0.25, 0.75]) * np.exp([-0.3, 0.1])
    np.testing.assert_allclose(found, np.log([1.5, masses.sum() + 1]), rtol=1e-6)


def by_definition(bids, logits):
    """Clarke payments under log-linear aggregation, in plain logarithms."""
    log_probs = jax.nn.log_softmax(logits)
    log_q = jax.nn.log_softmax(bids @ log_probs / bids.sum())
    pays = []
    for i in range(len(bids)):
        rest = bids.at[i].set(0)
        log_r = jax.nn.log_softmax(rest @ log_probs / rest.sum())
        pays.append(rest.sum() * (jnp.exp(log_q) * (log_q - log_r)).sum())
    return jnp.stack(pays)


@pytest.mark.parametrize("ratio", [1e-3, 1.0, 1e3])
def test_second_derivatives(ratio, x64):
    bids, logits = smooth_auction()
    bids[0] *= ratio
    payment = ta.clarke(ta.log_linear())

    def found(bids, logits):
        return payment.expected(bids, jax.nn.log_softmax(logits))

    numbers = jnp.asarray(bids), jnp.asarray(logits)
    curves = (jax.jit(jax.hessian(f, (0, 1)))(*numbers) for f in (found, by_definition))
    for mine, theirs in zip(*map(jax.tree.leaves, curves), strict=True):
        np.testing.assert_allclose(
            mine, theirs, rtol=1e-7, atol=1e-9 * np.abs(theirs).max()
        )


def test_clarke_takes_logits():
    """What is added to all of an agent's logarithms changes no payment."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(3, 300))).astype(np.float32)
    logits[1, ::7] = -np.inf
    bids = np.array([1, 2, 0.5], np.float32)
    payment = ta.clarke(ta.log_linear())
    due = payment.expected(bids, jax.nn.log_softmax(logits))
    added = np.array([[5], [-3], [20]], np.float32)
    found = jax.jit(payment.expected)(bids, logits + added)
    np.testing.assert_allclose(found, due, rtol=1e-5)
    assert payment.takes_logits
    assert not ta.clarke(ta.linear()).takes_logits
