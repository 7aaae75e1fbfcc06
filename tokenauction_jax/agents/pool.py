"""What supplies the agents' next-token distributions."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class AgentPool(Protocol):
    """``n`` agents that answer every auction's text so far with ``n`` distributions.

    A pool is a pytree: its numbers (tables, weights) are leaves, passed into the
    compiled program as arguments. Its methods are traced inside that program.
    """

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens, ``V``."""
        ...

    @property
    def end_token(self) -> int | None:
        """The token that ends a text, None if texts only end at their cap."""
        ...

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: jax.typing.ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> Any:
        """The state before the first token.

        Args:
          num_auctions: How many auctions, ``A``, run side by side.
          key: Randomness of the pool, if it has any; auction ``k`` must use
            ``fold_in(key, k)`` so that it does not depend on its neighbours.
          first_auction: The number of the first auction.
          num_tokens: How many tokens will be drawn at most.
        """
        ...

    def step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """Reads the last tokens `(A,)` and answers `log_probs` `(A, n, V)`.

        The first call receives -1, "nothing drawn yet". After a text has ended its
        tokens are 0 and the answer is not used, but must not fail.
        """
        ...


@runtime_checkable
class SupportsCertainty(Protocol):
    """A pool that says whether it answers a text the same in every auction.

    For the first token of deterministic agents nothing has to be sampled.
    """

    @property
    def deterministic(self) -> bool:
        """Whether the answers depend on the text alone, and not on a key."""
        ...


@runtime_checkable
class SupportsBlocks(Protocol):
    """A pool that says whether its auctions may be run in blocks, one after another.

    Then `init` is called once for each block, with the number of its first auction, and
    all of a block stays in the cache of a CPU. Language models are better off with all
    auctions at once: they read their weights anew for each block.
    """

    @property
    def divisible(self) -> bool:
        """Whether blocks get what the auctions of one call would."""
        ...


@runtime_checkable
class SupportsFilters(Protocol):
    """A pool whose filters leave few tokens, of which alone payments are found then."""

    @property
    def most_tokens(self) -> int | None:
        """How many tokens of one auction agents can produce, None if it is not known.

        Ties may leave more: it only has to be right as a rule.
        """
        ...


@runtime_checkable
class SupportsScoring(Protocol):
    """A pool that can read whole texts at once, without writing them."""

    def only(self, agents: Sequence[int]) -> AgentPool:
        """A pool of some of the agents, by their numbers and in their order."""
        ...

    def score(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Log-probabilities `(A, n)` of the tokens `(A, T)` where `mask` is True."""
        ...


@runtime_checkable
class SupportsMemory(Protocol):
    """A pool whose states take much of a device's memory, as keys and values do."""

    def bytes_per_auction(self, num_tokens: int) -> int:
        """Bytes of the state of one auction whose text has `num_tokens` tokens."""
        ...
