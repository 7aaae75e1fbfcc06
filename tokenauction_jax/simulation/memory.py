"""How many texts are written side by side: as many as the memory of a device holds."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tokenauction_jax.agents.pool import AgentPool, SupportsMemory
from tokenauction_jax.environment import memory_of

# What may be used of a device's memory, or of a host's; the rest is for the weights,
# for what a caller has, and for other programs.
_SHARE = 0.5
# Copies of what the agents answer, and of their states. With SmolLM2 XLA has 2 of the
# answers, with top-p 4, and 1 of the states; observers take more.
_ANSWERS, _STATES = 6, 2


def most_texts(pool: AgentPool, num_tokens: int) -> int | None:
    """How many texts of a pool fit into a device's memory, None if it is not known."""
    device = jax.local_devices()[0]
    size = memory_of(device)
    if size is None:
        return None
    if device.platform == "cpu":  # All of them share the machine's.
        size //= jax.local_device_count()
    numbers = pool.num_agents * pool.vocab_size
    each = _ANSWERS * numbers * jnp.result_type(float).itemsize
    if isinstance(pool, SupportsMemory):
        each += _STATES * pool.bytes_per_auction(num_tokens)
    return max(1, int(_SHARE * size / each))


@contextlib.contextmanager
def explained(num_auctions: int) -> Iterator[None]:
    """Says what to change where a device has too little memory.

    Raises:
      MemoryError: Instead of JAX's own error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"{num_auctions} auctions do not fit into the memory of the device: run "
            "fewer at a time (first_auction numbers the next ones), shorter texts, or "
            "models in bfloat16; or share out auctions or weights over the devices of "
            f"a mesh. {str(error).splitlines()[0]}"
        ) from error
