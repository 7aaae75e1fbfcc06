"""Where the dynamics of bids, or of policies, are."""

from typing import Any

import jax
import jax.numpy as jnp

from tokenauction_jax import records

# Numbers that move by less, relative to the largest, have come to rest.
_AT_REST = 1e-6


@records.record
class Position:
    """Where the dynamics are after some steps.

    Attributes:
      bids: `(n,)`, in units of the problem; or a tuple of policies.
      step: How many steps were taken.
      moved: By how much the last one moved numbers, relative to the largest.
      memory: What the next step needs besides.
      unfit: How many texts had a reward that is infinite or NaN.
    """

    bids: Any
    step: jax.Array
    moved: jax.Array
    memory: Any
    unfit: jax.Array

    @property
    def at_rest(self) -> jax.Array:
        """Whether the last step led nowhere."""
        return self.moved <= _AT_REST

    def after(
        self, bids: Any, moved: jax.Array, memory: Any, unfit: jax.Array
    ) -> "Position":
        """The position after a step."""
        unfit = jnp.maximum(self.unfit, unfit.astype(jnp.int32))
        return Position(bids, self.step + 1, moved, memory, unfit)


def first_position(bids: Any, memory: Any, dtype: Any) -> Position:
    """Before the first step."""
    zero, far = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, dtype)
    return Position(bids, zero, far, memory, zero)
