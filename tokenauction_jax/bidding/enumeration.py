"""The exact worth of texts of tables: every context counts with its probability."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.tabular import TabularPool
from tokenauction_jax.bidding.gradients import check_rewards
from tokenauction_jax.bidding.objectives import Objective, check_objective, has_reward
from tokenauction_jax.bidding.problem import check_values
from tokenauction_jax.bidding.texts import Numbers, token_worth
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation.bidders import check_bids

# Tokens of all texts that are listed for the sake of a reward.
_MOST_LISTED = 2**24


def exact(
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    objective: Objective,
    *,
    values: ArrayLike,
    num_tokens: int,
) -> jax.Array:
    """The worth of a text, in expectation over all texts.

    Where tokens alone are worth something, the contexts of a table are one, or the last
    tokens: ``T V`` of them are added up, whatever the length. A reward for finished
    texts needs all ``V^T`` of them.

    Args:
      mechanism: The rules.
      pool: `agents.tabular` or `agents.markov`.
      bids: Money per unit of value, `(n,)`, or `(A, n)` for a mean over rows.
      objective: What texts are worth.
      values: True values, `(n,)` or `(A, n)`.
      num_tokens: The cap on tokens, ``T``.

    Returns:
      A scalar, money per text, differentiable in every number, those of the pool
      included. An undefined auction stops there and counts with what came before; a
      context of infinite worth that can be reached makes it infinite.

    Raises:
      ValueError: If the pool is no table, a shape or a number is wrong, a reward would
        need more texts than fit, or a concrete result shows that it is not finite.

    >>> import jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> mechanism = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    >>> print(ta.bidding.exact(mechanism, pool, [1.0, 1.0], ta.bidding.revenue(),
    ...                        values=[4.0, 1.0], num_tokens=3))
    6.0
    """
    if not isinstance(pool, TabularPool):
        raise ValueError(
            "exact adds up the contexts of a table, agents.tabular or agents.markov, "
            f"got {type(pool).__name__}; sample other agents with expected"
        )
    check_objective(objective, pool.num_agents)
    num_tokens = records.check_integer("num_tokens", num_tokens, 1)
    size = np.shape(bids)[0] if np.ndim(bids) == 2 else np.shape(values)[0]
    rows = size if 2 in (np.ndim(bids), np.ndim(values)) else 1
    bids = check_bids(bids, pool.num_agents, rows)
    values = check_values(values, bids)
    worth, unfit = _exact(mechanism, pool, bids, objective, values, num_tokens)
    check_rewards(unfit)
    return worth


@functools.partial(jax.jit, static_argnames="num_tokens")
def _exact(
    mechanism: Mechanism,
    pool: TabularPool,
    bids: jax.Array,
    objective: Objective,
    values: jax.Array,
    num_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """The mean over rows, and how many of their texts have rewards that are unfit."""
    rewards = has_reward(objective, num_tokens)
    if rewards and num_tokens * pool.vocab_size**num_tokens > _MOST_LISTED:
        raise ValueError(
            f"num_tokens is {num_tokens}: the {pool.vocab_size}**{num_tokens} texts of "
            "a reward do not fit; sample them with expected"
        )

    def one(bids: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        contexts = _contexts(mechanism, pool, bids, objective, values)
        total = _sum_tokens(pool, contexts, num_tokens)
        if not rewards:
            return total, jnp.zeros((), jnp.int32)
        reward, unfit = _sum_rewards(pool, contexts, objective, num_tokens)
        return total + reward, unfit

    total, unfit = jax.vmap(one)(bids, values)
    return total.mean(), unfit.sum()


def _contexts(
    mechanism: Mechanism,
    pool: TabularPool,
    bids: jax.Array,
    objective: Objective,
    values: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Worth `(C,)`, probabilities `(C, V)` and definedness `(C,)` of each context."""
    tokens = jnp.arange(1 if pool.log_probs.ndim == 2 else pool.vocab_size)
    _, log_probs = pool.step((), tokens)

    def is_defined(log_probs: jax.Array) -> jax.Array:
        log_q = mechanism.aggregation.log_prob(bids, log_probs)
        defined = jnp.isfinite(jnp.max(log_q))
        if isinstance(mechanism.payment, base.SupportsDefined):
            defined &= mechanism.payment.defined(bids, log_probs)
        return defined

    defined = lax.stop_gradient(jax.vmap(is_defined)(log_probs))
    # An auction that is defined stands in: the derivatives of others are no numbers.
    safe = jnp.where(defined[:, None, None], log_probs, -jnp.log(pool.vocab_size))
    numbers = Numbers(mechanism, objective, jnp.ones_like(bids), bids, values)
    worth, log_q = jax.vmap(token_worth, (None, 0))(numbers, safe)
    q = jnp.where(defined[:, None], jnp.exp(log_q), 0)
    return jnp.where(defined, worth, 0), q, defined


def _sum_tokens(
    pool: TabularPool, contexts: tuple[jax.Array, ...], num_tokens: int
) -> jax.Array:
    """The worth of all tokens, by how likely each context is at each position."""
    worth, q, _ = contexts
    goes_on = jnp.arange(pool.vocab_size) != (
        -1 if pool.end_token is None else pool.end_token
    )

    def step(reached: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
        finite = jnp.isfinite(worth)
        total = (reached * jnp.where(finite, worth, 0)).sum()
        lost = jnp.where(~finite & (reached > 0), worth, 0).sum()
        drawn = jnp.where(goes_on, reached @ q, 0)
        return (drawn if worth.size > 1 else drawn.sum(keepdims=True)), total + lost

    start = pool.start if worth.size > 1 else 0
    reached = jnp.zeros_like(worth).at[start].set(1)
    return lax.scan(step, reached, length=num_tokens)[1].sum()


def _sum_rewards(
    pool: TabularPool,
    contexts: tuple[jax.Array, ...],
    objective: Objective,
    num_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """The rewards of all texts times their probabilities; how many are not finite."""
    _, q, defined = contexts
    size = pool.vocab_size
    tokens = jnp.indices((size,) * num_tokens).reshape(num_tokens, -1)

    def step(carry: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        context, running, probability = carry
        running &= defined[context]
        # After its end a text goes on with zeros, and is counted once.
        chance = jnp.where(running, q[context, token], token == 0)
        mask, probability = running, probability * chance
        if pool.end_token is not None:
            running &= token != pool.end_token
        context = token if q.shape[0] > 1 else context
        return (context, running, probability), mask

    start = jnp.full(size**num_tokens, pool.start if q.shape[0] > 1 else 0)
    carry = (start, jnp.ones(start.shape, bool), jnp.ones(start.shape, q.dtype))
    (_, _, probability), mask = lax.scan(step, carry, tokens)
    reward = jnp.asarray(objective.per_text(jnp.where(mask, tokens, 0).T, mask.T))
    unfit = ~jnp.isfinite(reward) & (probability > 0)
    counted = jnp.where(probability > 0, reward, 0)
    return (probability * counted).sum(), unfit.sum()
