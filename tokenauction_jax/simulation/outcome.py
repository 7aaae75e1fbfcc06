"""What `simulate` returns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.simulation import frames

if TYPE_CHECKING:
    import pandas
    import xarray


@records.record
class Rollout:
    """The texts of `A` auctions and what was paid for them.

    Attributes:
      tokens: `(A, T)` int32, 0 after the end of a text.
      payments: `(A, T, n)`, charged for each token (realised), in money. Under budgets
        they are cut to what is left.
      expected_payments: `(A, T, n)`, their expectation given the drawn token. Under
        budgets it is cut, too: exact but for a token whose payment depends on the draw
        and may exceed what is left, where it is an upper bound of what is paid.
      log_prob: `(A, T)`, log-probability of the drawn token under the aggregate.
      mask: `(A, T)`, True up to and including the end token.
      valid: `(A,)`, False if an auction became undefined, or its pool answered NaN; its
        mask is False from that token on.
      observations: What `observe` returned, each array `(A, T, ...)`; else None. Not
        masked.
      totals: What `accumulate` returned, each array `(A, ...)`, summed over the tokens
        where `mask` is True; else None.
      bids: `(A, T, n)`, what policies bid, 0 after the end of a text; None where the
        bids were given. Of a token that left its auction undefined they are kept.
      exhausted: `(A,)`, True where a text stopped because all agents had spent their
        budgets, or their policies bid 0; then it is not `valid`. Else None.
      policy_states: The last state of each agent's policy, arrays `(A, ...)`; or None.
    """

    tokens: jax.Array
    payments: jax.Array
    expected_payments: jax.Array
    log_prob: jax.Array
    mask: jax.Array
    valid: jax.Array
    observations: Any = None
    totals: Any = None
    bids: jax.Array | None = None
    exhausted: jax.Array | None = None
    policy_states: tuple[Any, ...] | None = None

    def texts(self, tokenizer: Any) -> list[str]:
        """The text of each auction, without its end token.

        Args:
          tokenizer: That of the agents, such as `Checkpoint.tokenizer`.
        """
        lengths = np.asarray(self.mask).sum(axis=1)
        return frames.decode_texts(tokenizer, np.asarray(self.tokens), lengths)

    def to_pandas(
        self,
        names: Sequence[str] | None = None,
        *,
        tokenizer: Any = None,
        first_auction: int = 0,
    ) -> "pandas.DataFrame":
        """A data frame with a row for each token, where `mask` is True.

        Its columns are `auction`, `position`, `token`, with a tokenizer `piece`, then
        `log_prob`, of each agent ``payment/NAME``, ``expected_payment/NAME`` and, if
        policies bid, ``bid/NAME``, and `valid`.

        Args:
          names: What agents are called, by default their indices.
          tokenizer: That of the agents, for the text that each token adds.
          first_auction: The number of the first auction, as `simulate` was given it.

        Raises:
          ValueError: If there are not `n` different names.
        """
        return frames.to_pandas(self, names, tokenizer, first_auction)

    def to_xarray(
        self, names: Sequence[str] | None = None, *, first_auction: int = 0
    ) -> "xarray.Dataset":
        """A dataset with the dimensions `auction`, `position` and `agent`.

        Its variables are `token`, `log_prob` and `mask` of each token, `payment`,
        `expected_payment` and, if policies bid, `bid` of each agent, and `valid` (with
        policies also `exhausted`) of each auction.

        Args:
          names: What agents are called, by default their indices.
          first_auction: The number of the first auction, as `simulate` was given it.

        Raises:
          ValueError: If there are not `n` different names.
        """
        return frames.to_xarray(self, names, first_auction)
