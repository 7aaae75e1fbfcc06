"""What agents submit in the place of what they prefer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.wrapped import WrappedPool
from tokenauction_jax.mechanism import base, distributions


@records.record
class TemperedPool(WrappedPool):
    """See `tempered`."""

    pool: AgentPool
    temperature: jax.Array

    def step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """The answers of the pool, sharpened or flattened."""
        state, log_probs = self.pool.step(state, tokens)
        return state, distributions.normalize(
            log_probs / self.temperature[None, :, None]
        )


def tempered(pool: AgentPool, temperature: ArrayLike) -> TemperedPool:
    """Agents that submit ``p_i^(1 / temperature_i)``, normalised.

    Below a temperature of 1 they exaggerate, above it they hedge. `expected` is
    differentiable in it: for filters that keep the same tokens, as top-k does, it is
    the temperature of a language model.

    Args:
      pool: The agents.
      temperature: One for all agents, or `(n,)`; positive.

    Raises:
      ValueError: If there is not one a agent, or one is not positive and finite.
    """
    temperature = base.as_float(temperature)
    if temperature.shape not in ((), (pool.num_agents,)):
        raise ValueError(
            f"temperature has shape {temperature.shape}, expected one number or "
            f"({pool.num_agents},), one an agent"
        )
    if records.is_concrete(temperature):
        found = np.asarray(temperature)
        if not ((found > 0) & np.isfinite(found)).all():
            raise ValueError(f"temperature must be positive and finite, got {found}")
    return TemperedPool(pool, jnp.broadcast_to(temperature, (pool.num_agents,)))
