import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tokenauction_jax as ta
from tokenauction_jax import testing
from tokenauction_jax.agents import filters

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "pool",
    [
        ta.agents.dirichlet(3, 5, 0.3),
        ta.agents.zipf(2, 7, 1.0),
        ta.agents.markov(jax.random.key(1), 2, 4, 1.0),
        ta.agents.dirichlet(2, 6, 1.0, sampling=filters.sampling(2, top_k=3)),
    ],
    ids=["dirichlet", "zipf", "markov", "filtered"],
)
def test_pools_pass_the_conformance_suite(pool):
    testing.check_pool(pool)


def drawn(pool, num_auctions):
    return np.exp(np.asarray(pool.init(num_auctions, key=KEY), np.float64))


def test_dirichlet_has_its_moments():
    size, c = 8, 0.3
    p = drawn(ta.agents.dirichlet(2, size, c), 4000).reshape(-1, size)
    # 8,000 draws: five standard errors, false alarms 6e-7 per token.
    variance = (1 / size) * (1 - 1 / size) / (size * c + 1)
    error = np.sqrt(variance / len(p))
    np.testing.assert_allclose(p.mean(0), 1 / size, atol=5 * error)
    np.testing.assert_allclose(p.var(0), variance, rtol=0.15)
    # Its marginals are Beta(c, (size - 1) c); false alarms 1e-4.
    assert stats.kstest(p[:, 0], stats.beta(c, (size - 1) * c).cdf).pvalue > 1e-4


def test_zipf_ranks_each_agent_at_random():
    p = drawn(ta.agents.zipf(2, 4, 1.0), 2000)
    expected = 1 / np.arange(1, 5)
    np.testing.assert_allclose(
        -np.sort(-p, axis=-1), np.broadcast_to(expected / expected.sum(), p.shape), 1e-5
    )
    # Each token is an agent's first choice in a quarter of 4,000; false alarms 6e-7.
    first = np.bincount(p.argmax(-1).ravel(), minlength=4) / 4000
    np.testing.assert_allclose(first, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    assert (p[:, 0].argmax(-1) != p[:, 1].argmax(-1)).any()


@pytest.mark.parametrize("family", [ta.agents.dirichlet, ta.agents.zipf])
def test_more_agents_keep_those_there_were(family):
    few = family(2, 6, 0.5).init(3, key=KEY)
    many = family(4, 6, 0.5).init(3, key=KEY)
    np.testing.assert_array_equal(few, many[:, :2])


def test_markov_chains_keep_those_there_were():
    few = ta.agents.markov(KEY, 2, 5, 0.5).log_probs
    many = ta.agents.markov(KEY, 3, 5, 0.5).log_probs
    np.testing.assert_array_equal(few, many[:2])


def test_a_sweep_over_concentrations_traces_once():
    traces = []

    @jax.jit
    def spread(pool):
        traces.append(1)
        return pool.init(4, key=KEY).std()

    for concentration in (0.1, 1.0, 10.0):
        spread(ta.agents.dirichlet(2, 5, concentration))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ta.agents.dirichlet(0, 5, 1.0), "num_agents must be an integer"),
        (lambda: ta.agents.dirichlet(2, 5, 0.0), "concentration must be positive"),
        (lambda: ta.agents.zipf(2, 5, -1.0), "exponent must not be negative"),
        (lambda: ta.agents.markov(KEY, 2, 2.5, 1.0), "vocab_size must be an integer"),
        (lambda: ta.agents.dirichlet(2, 5, 1.0).init(3), "need a key"),
    ],
)
def test_wrong_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_temperature_sharpens_what_is_submitted():
    plain = ta.agents.dirichlet(1, 8, 1.0)
    sharp = ta.agents.dirichlet(
        1, 8, 1.0, sampling=filters.sampling(1, temperature=0.5)
    )
    p, q = drawn(plain, 3), drawn(sharp, 3)
    np.testing.assert_allclose(q, p**2 / (p**2).sum(-1, keepdims=True), rtol=1e-4)
    assert jnp.isfinite(jnp.log(q)).all()
