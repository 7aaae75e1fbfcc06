"""What pools have in common that change what another one answers."""

from typing import Any

import jax
from jax.typing import ArrayLike

from tokenauction_jax.agents.pool import (
    AgentPool,
    SupportsBlocks,
    SupportsCertainty,
    SupportsFilters,
    SupportsMemory,
)


class WrappedPool:
    """Another `pool`, with its texts; a subclass answers something else."""

    pool: AgentPool

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return self.pool.num_agents

    @property
    def vocab_size(self) -> int:
        """Number of tokens, ``V``."""
        return self.pool.vocab_size

    @property
    def end_token(self) -> int | None:
        """The token that ends a text, None if texts only end at their cap."""
        return self.pool.end_token

    @property
    def deterministic(self) -> bool:
        """Whether the pool is."""
        return isinstance(self.pool, SupportsCertainty) and self.pool.deterministic

    @property
    def divisible(self) -> bool:
        """Whether the pool is."""
        return isinstance(self.pool, SupportsBlocks) and self.pool.divisible

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the pool's agents can produce, None if it does not say."""
        return self.pool.most_tokens if isinstance(self.pool, SupportsFilters) else None

    def bytes_per_auction(self, num_tokens: int) -> int:
        """Bytes of the state of one auction, 0 if the pool does not say."""
        if isinstance(self.pool, SupportsMemory):
            return self.pool.bytes_per_auction(num_tokens)
        return 0

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> Any:
        """The state of the pool."""
        return self.pool.init(
            num_auctions, key=key, first_auction=first_auction, num_tokens=num_tokens
        )
