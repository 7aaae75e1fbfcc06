"""Fake agents, to run auctions with before there are real ones."""

import jax

from tokenauction_jax.agents.tabular import TabularPool, tabular
from tokenauction_jax.mechanism import distributions


def random_log_probs(key: jax.Array, num_agents: int, vocab_size: int) -> jax.Array:
    """Log-probabilities `(n, V)` of agents that disagree, all of them finite.

    >>> import jax
    >>> random_log_probs(jax.random.key(0), 2, 5).shape
    (2, 5)
    """
    return distributions.normalize(2 * jax.random.normal(key, (num_agents, vocab_size)))


def random_pool(key: jax.Array, num_agents: int, vocab_size: int) -> TabularPool:
    """Fake agents: random Markov chains, whose texts only end at their cap."""
    rows = random_log_probs(key, num_agents * vocab_size, vocab_size)
    return tabular(rows.reshape(num_agents, vocab_size, vocab_size))
