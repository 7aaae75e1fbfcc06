"""A reference beside the agents that is no model of its own."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.wrapped import WrappedPool
from tokenauction_jax.mechanism import distributions

Kind = Literal["uniform", "mean"]


@records.record
class ReferencePool(WrappedPool):
    """See `with_reference`."""

    pool: AgentPool
    kind: Kind = records.static_field()

    @property
    def num_agents(self) -> int:
        """Number of agents, the reference included."""
        return self.pool.num_agents + 1

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the agents and the reference can produce."""
        return None if self.kind == "uniform" else super().most_tokens

    def step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """What the agents answer, and after them the reference, `(A, n + 1, V)`."""
        state, log_probs = self.pool.step(state, tokens)
        num_auctions, n, size = log_probs.shape
        if self.kind == "uniform":
            shape = (num_auctions, size)
            reference = jnp.full(shape, -jnp.log(size), log_probs.dtype)
        else:
            weights = jnp.full(n, 1 / n, log_probs.dtype)
            mixture = jax.vmap(distributions.log_mixture, (None, 0))
            reference = mixture(weights, log_probs)
        return state, jnp.concatenate([log_probs, reference[:, None]], axis=1)


def with_reference(pool: AgentPool, kind: Kind) -> ReferencePool:
    """The agents of a pool, and after them a reference.

    Args:
      pool: ``n`` agents.
      kind: ``uniform``, the same probability for each token, or ``mean``, the uniform
        mixture of the agents.

    Raises:
      ValueError: If it is another kind.

    >>> import jax, jax.numpy as jnp
    >>> import tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.8, 0.2], [0.4, 0.6]])))
    >>> pool = with_reference(pool, "mean")
    >>> state, log_probs = pool.step(pool.init(1), jnp.array([-1]))
    >>> print(jnp.exp(log_probs[0, -1]))
    [0.6 0.4]
    """
    if kind not in ("uniform", "mean"):
        raise ValueError(f"kind must be 'uniform' or 'mean', got {kind!r}")
    return ReferencePool(pool, kind)
