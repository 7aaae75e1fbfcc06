"""Pools of tables: the interface and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

LOG_PROBS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 3, 3), (0, 3)], ids=str)
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="log_probs"):
        ta.agents.tabular(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.log(0.3), np.nan, np.inf, -np.inf])
def test_rows_must_be_distributions(bad):
    log_probs = np.array(LOG_PROBS)
    log_probs[1, 2] = bad
    with pytest.raises(ValueError, match="log_probs"):
        ta.agents.tabular(log_probs)


@pytest.mark.parametrize("name", ["start", "end_token"])
@pytest.mark.parametrize("token", [-1, 3])
def test_bad_tokens(name, token):
    with pytest.raises(ValueError, match=name):
        ta.agents.tabular(np.tile(LOG_PROBS[:, None], (1, 3, 1)), **{name: token})


def test_interface():
    pool = ta.agents.tabular(LOG_PROBS)
    assert (pool.num_agents, pool.vocab_size, pool.end_token) == (2, 3, None)
    state = pool.init(5)
    _, log_probs = pool.step(state, jnp.full(5, -1))
    np.testing.assert_array_equal(log_probs, np.tile(LOG_PROBS, (5, 1, 1)))
    assert len(jax.tree.leaves(pool)) == 1
