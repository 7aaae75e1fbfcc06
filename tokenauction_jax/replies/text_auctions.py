"""Auctions that bring about whole texts, not one token after another."""

from typing import Any, Protocol, runtime_checkable

import jax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.simulation.auction_step import Observer


@records.record
class WrittenTexts:
    """The texts that `A` auctions brought about, and what was paid for them.

    Attributes:
      tokens: `(A, T)` int32, 0 after the end of a text.
      mask: `(A, T)`, True up to and including the end token.
      log_probs: `(A, n + 1)`, log-probability of the text under each agent, and last
        under the reference.
      payments: `(A, n)`, charged for the text, in money.
      expected_payments: `(A, n)`, their mean over what the auction draws last.
      divergence: `(A,)`, log-probability of what was drawn, less that of the same under
        the reference, in nats; its mean is at least the KL divergence of the text's
        law from it.
      valid: `(A,)`, False where the auction is undefined.
      forward_passes: `(A,)`, how often a model read a token to answer a distribution.
      drawn_tokens: `(A,)`, tokens that were drawn, of all candidates.
      totals: What `accumulate` returned, each array `(A, ...)`, summed over the tokens;
        None if tokens have no distribution of their own.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    payments: jax.Array
    expected_payments: jax.Array
    divergence: jax.Array
    valid: jax.Array
    forward_passes: jax.Array
    drawn_tokens: jax.Array
    totals: Any = None


@runtime_checkable
class TextAuction(Protocol):
    """A mechanism that brings about whole texts, not one token after another.

    One of your own is a class with these members, decorated with `record`. A class
    attribute ``draws_tokens = True`` says that every token is drawn from a distribution
    that it knows, and that `accumulate` is called with it.
    """

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def write(
        self,
        key: jax.Array,
        pool: AgentPool,
        bids: jax.Array,
        *,
        num_tokens: int,
        first_auction: ArrayLike = 0,
        accumulate: Observer | None = None,
        observe_args: tuple[Any, ...] = (),
    ) -> WrittenTexts:
        """The texts of some auctions.

        Args:
          key: A typed PRNG key; auction k uses what is folded in k.
          pool: ``n`` bidders, and after them the reference.
          bids: `(A, n)`, money per nat of an agent's log-ratio.
          num_tokens: The cap on the tokens of a text, ``T``.
          first_auction: The number of the first auction.
          accumulate: As for `simulate`, of n + 1 agents of whom the reference bids 0.
          observe_args: Its further arguments, as for `simulate`.
        """
        ...


def draws_tokens(auction: TextAuction) -> bool:
    """Whether every token is drawn from a distribution that the auction knows."""
    return getattr(auction, "draws_tokens", False)


def observed_log_probs(
    accumulate: Observer | None,
    bids: jax.Array,
    log_probs: jax.Array,
    log_q: jax.Array,
    token: jax.Array,
    *observe_args: Any,
) -> tuple[jax.Array, Any]:
    """The agents' log-probabilities of a token, and what else is observed of it."""
    seen = bids, log_probs, log_q, token, *observe_args
    return log_probs[:, token], None if accumulate is None else accumulate(*seen)
