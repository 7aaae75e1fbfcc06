"""A reference beside agents: what it answers, and that agents answer as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

TABLE = np.array([[0.7, 0.3, 0.0], [0.1, 0.1, 0.8]])


def test_what_it_answers():
    with np.errstate(divide="ignore"):
        pool = ta.agents.tabular(np.log(TABLE), end_token=2)
    tokens = jnp.array([-1, 0])
    for kind, wanted in (("mean", TABLE.mean(0)), ("uniform", np.full(3, 1 / 3))):
        own = ta.agents.with_reference(pool, kind)
        assert (own.num_agents, own.vocab_size, own.end_token) == (3, 3, 2)
        assert own.deterministic
        assert own.divisible
        state, log_probs = jax.jit(lambda p: p.step(p.init(2), tokens))(own)
        del state
        found = np.exp(log_probs)
        np.testing.assert_allclose(found[:, :2], [TABLE] * 2, rtol=1e-6)
        np.testing.assert_allclose(found[:, 2], [wanted] * 2, rtol=1e-6)


def test_random_agents_are_those_of_their_own_pool():
    pool = ta.agents.dirichlet(2, 5, 0.5)
    own = ta.agents.with_reference(pool, "mean")
    assert not own.deterministic
    key = jax.random.key(0)
    alone = pool.init(3, key=key, first_auction=4)
    _, log_probs = own.step(own.init(3, key=key, first_auction=4), jnp.full(3, -1))
    np.testing.assert_array_equal(log_probs[:, :2], alone)


def test_another_kind():
    pool = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]])))
    with pytest.raises(ValueError, match="must be 'uniform' or 'mean', got 'median'"):
        ta.agents.with_reference(pool, "median")
