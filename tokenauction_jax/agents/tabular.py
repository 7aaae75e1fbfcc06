"""Agents given by tables: fixed distributions or Markov chains."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base


@records.record
class TabularPool:
    """See `tabular`."""

    log_probs: jax.Array
    start: int = records.static_field()
    end_token: int | None = records.static_field()
    deterministic: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return self.log_probs.shape[0]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, ``V``."""
        return self.log_probs.shape[-1]

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> tuple[()]:
        """Tables have no state."""
        del num_auctions, key, first_auction, num_tokens
        return ()

    def step(self, state: tuple[()], tokens: jax.Array) -> tuple[tuple[()], jax.Array]:
        """The table, or its rows of the last tokens `(A,)`, as `(A, n, V)`."""
        if self.log_probs.ndim == 2:
            shape = (*tokens.shape, *self.log_probs.shape)
            return state, jnp.broadcast_to(self.log_probs[None], shape)
        rows = jnp.where(tokens < 0, self.start, tokens)
        return state, jnp.swapaxes(self.log_probs[:, rows], 0, 1)


def tabular(
    log_probs: ArrayLike, *, start: int = 0, end_token: int | None = None
) -> TabularPool:
    """Agents that do not read the text, or only its last token.

    Args:
      log_probs: `(n, V)`, the same distributions for each token, or `(n, V, V)`, Markov
        chains whose row is the last token. Natural logs, normalised, ``-inf`` allowed.
      start: The row of a Markov chain that answers before the first token.
      end_token: The token that ends a text, if any.

    Returns:
      A pool whose table is a leaf: sweeps over tables trace once.

    Raises:
      ValueError: If a shape, a token or (for concrete values) a distribution is wrong.

    >>> import jax.numpy as jnp
    >>> pool = tabular(jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]])))
    >>> pool.num_agents, pool.vocab_size
    (2, 2)
    """
    log_probs = base.as_float(log_probs)
    shape = log_probs.shape
    if len(shape) not in (2, 3) or 0 in shape or shape[-1] != shape[1]:
        raise ValueError(f"log_probs has shape {shape}, expected (n, V) or (n, V, V)")
    start = _check_token("start", start, shape[-1])
    if end_token is not None:
        end_token = _check_token("end_token", end_token, shape[-1])
    if records.is_concrete(log_probs):
        base.check_distributions(np.asarray(log_probs))
    return TabularPool(log_probs, start, end_token)


def _check_token(name: str, token: int, size: int) -> int:
    if not isinstance(token, int | np.integer) or not 0 <= token < size:
        raise ValueError(f"{name} must be an integer in [0, {size}), got {token!r}")
    return int(token)
