"""What the policy of one agent sees, and what it must answer."""

from typing import Any, Protocol, runtime_checkable

import jax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import distributions


@records.record
class Info:
    """What the policy of one agent sees before it bids for a token of one auction.

    Attributes:
      agent: Which of the ``n`` agents it bids for.
      position: How many tokens the text has; 0 at the first.
      num_tokens: The cap on tokens, ``T``.
      budget: Money for the whole text, infinity if there is no budget.
      spent: What the agent was charged so far.
      remaining: The most that it can still be charged: its budget less what was spent,
        and less what rounding may make of the sum. 0 once it is spent; its bids are
        then 0, whatever the policy says.
      log_probs: `(n, V)`, what all agents submit for this token.
      last_token: The token drawn last, -1 before the first.
      last_payment: What the agent paid for it.
      last_log_prob: Its log-probability in what the agent had submitted.
      last_log_q: Its log-probability under the aggregate.
    """

    agent: ArrayLike
    position: jax.Array
    num_tokens: ArrayLike
    budget: jax.Array
    spent: jax.Array
    remaining: jax.Array
    log_probs: jax.Array
    last_token: jax.Array
    last_payment: jax.Array
    last_log_prob: jax.Array
    last_log_q: jax.Array

    @property
    def own_log_probs(self) -> jax.Array:
        """What the agent itself submits, `(V,)`."""
        return self.log_probs[self.agent]

    @property
    def entropy(self) -> jax.Array:
        """Of its own distribution, in nats."""
        return distributions.entropy(self.own_log_probs)


@runtime_checkable
class Policy(Protocol):
    """How one agent bids, token by token; see `bidding` for some.

    A policy of your own is a class with these two methods, decorated with `record`, so
    that its numbers are leaves of a pytree. It sees one auction; `simulate` makes it
    many. A class attribute ``pays = False`` says that its agent is never charged.
    """

    def init(self) -> Any:
        """The state before the first token: a pytree of arrays."""
        ...

    def bid(self, state: Any, info: Info) -> tuple[ArrayLike, Any]:
        """The bid, a scalar in money per unit of value, and the next state.

        A bid is 0, for staying out, or from 1e-30 to 1e30. The state keeps its
        structure, shapes and dtypes.
        """
        ...
