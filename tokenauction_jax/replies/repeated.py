"""Several texts of the agents of one auction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.wrapped import WrappedPool


@records.record
class RepeatedPool(WrappedPool):
    """A pool that answers texts, of which every auction has `num_texts` in a row.

    Where the agents are drawn for each auction, all its texts are of the same ones.
    """

    pool: AgentPool
    num_texts: int = records.static_field()

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> Any:
        """The state of so many texts, from number `first_auction` on."""
        if self.deterministic:
            return self.pool.init(num_auctions, key=key, num_tokens=num_tokens)
        numbers = records.auction_numbers(first_auction, num_auctions)
        auctions = numbers // np.uint32(self.num_texts)
        # The first and the last of them may have fewer texts here.
        most = (num_auctions - 1) // self.num_texts + 2

        def init(size: int) -> Any:
            return self.pool.init(
                size, key=key, first_auction=auctions[0], num_tokens=num_tokens
            )

        one, two = (jax.eval_shape(lambda n=n: init(n)) for n in (1, 2))
        rows = auctions - auctions[0]

        def repeat(x: jax.Array, one: Any, two: Any) -> jax.Array:
            grows = [a != b for a, b in zip(one.shape, two.shape, strict=True)]
            return jnp.take(x, rows, grows.index(True)) if any(grows) else x

        return jax.tree.map(repeat, init(most), one, two)

    def step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """What the agents answer to each text."""
        return self.pool.step(state, tokens)
