"""Candidate replies of many auctions, and what the agents and the reference think."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool, SupportsScoring
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.mechanism.payments import pay_your_bid
from tokenauction_jax.replies.repeated import RepeatedPool
from tokenauction_jax.simulation import simulate
from tokenauction_jax.simulation.bidders import rows_by_auction
from tokenauction_jax.simulation.blocks import even_size, in_blocks

# Log-probabilities of all tokens that are looked at at a time: 64 MiB in float32.
_READ = 2**24
# Called with texts, (tokens (B, T), mask (B, T)), it answers (B,).
Reward = Callable[[jax.Array, jax.Array], Any]


@records.record
class Candidates:
    """``M`` replies of each of `A` auctions, drawn from one law.

    Attributes:
      tokens: `(A, M, T)` int32, 0 after the end of a reply.
      mask: `(A, M, T)`, True up to and including the end token.
      log_probs: `(A, M, n)`, log-probability of the reply under each agent, ``-inf`` if
        it has a token that the agent cannot write.
      log_generator: `(A, M)`, log-probability under the law that it was drawn from.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    log_generator: jax.Array


def draw_candidates(
    key: jax.Array,
    pool: AgentPool,
    weights: ArrayLike,
    *,
    num_replies: int,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    writers: Sequence[int] | None = None,
) -> Candidates:
    """Draws candidate replies, and scores them on the way.

    Every token comes from the mixture of the agents by `weights`. All agents answer
    every token, so that their log-probabilities of a reply need no second pass; but of
    language models only those that write do, and the others read all replies at once.

    Reply m of auction a is text ``a M + m`` of one `simulate`: it does not depend on
    what runs beside it, nor on chunks.

    Args:
      key: A typed PRNG key.
      pool: The agents, with the reference among them (see `agents.with_reference`).
      weights: Influence on the replies, `(n,)` or one row an auction, `(A, n)`, with a
        positive sum: one agent alone is the platform's model, the bids are a generator
        that knows them.
      num_replies: ``M``.
      num_tokens: The cap on the tokens of a reply, ``T``.
      num_auctions: ``A``; needed for weights `(n,)`.
      first_auction: The number of the first auction.
      writers: The numbers of the agents that may have a weight, in their order; None
        for those that have one, or for all if weights are not known.

    Returns:
      `Candidates`. Log-probabilities are NaN for a reply on which the pool answered
      NaN.

    Raises:
      ValueError: If shapes disagree, a count is no positive integer, or concrete
        weights are no bids.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> drawn = draw_candidates(jax.random.key(0), pool, [1.0, 0.0], num_replies=4,
    ...                         num_tokens=3, num_auctions=5)
    >>> drawn.tokens.shape, drawn.log_probs.shape
    ((5, 4, 3), (5, 4, 2))
    """
    num_replies = records.check_integer("num_replies", num_replies, 1)
    if num_auctions is not None:
        num_auctions = records.check_integer("num_auctions", num_auctions, 1)
    weights = base.as_float(weights)
    rows = rows_by_auction("weights", weights, pool.num_agents, num_auctions)
    if records.is_concrete(weights):
        base.check_amounts("weights", np.asarray(weights))
        if not (np.asarray(rows) > 0).any(1).all():
            raise ValueError("weights must have a positive sum, got only zeros")
        if writers is None:
            writers = np.nonzero((np.asarray(rows) > 0).any(0))[0].tolist()
    every = range(pool.num_agents)
    if writers is None or not isinstance(pool, SupportsScoring):
        writers = every
    readers = [agent for agent in every if agent not in writers]
    shape = rows.shape[0], num_replies
    if records.is_concrete(first_auction):
        records.auction_numbers(first_auction, shape[0])
        first_auction = np.asarray(first_auction).item()
    rollout = simulate(
        key,
        base.Mechanism(linear(), pay_your_bid()),
        RepeatedPool(_only(pool, writers) if readers else pool, num_replies),
        jnp.repeat(rows[:, np.array(writers)], num_replies, axis=0),
        num_tokens=num_tokens,
        first_auction=first_auction * num_replies,
        accumulate=_drawn_log_probs,
    )
    undefined = jnp.where(rollout.valid, 0, jnp.nan)
    log_generator = rollout.log_prob.sum(1) + undefined
    log_probs = rollout.totals + undefined[:, None]
    if readers:
        scores = _read(_only(pool, readers), rollout.tokens, rollout.mask)
        log_probs = jnp.concatenate([log_probs, scores], axis=1)
        log_probs = log_probs[:, np.argsort([*writers, *readers])]
    return Candidates(
        tokens=rollout.tokens.reshape(*shape, -1),
        mask=rollout.mask.reshape(*shape, -1),
        log_probs=log_probs.reshape(*shape, -1),
        log_generator=log_generator.reshape(shape),
    )


def _only(pool: AgentPool, agents: Sequence[int]) -> AgentPool:
    assert isinstance(pool, SupportsScoring)
    return pool.only(agents)


@jax.jit
def _read(pool: AgentPool, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-probabilities `(B, n)` of texts, so many at a time as fit into memory."""
    assert isinstance(pool, SupportsScoring)
    numbers = pool.num_agents * pool.vocab_size * tokens.shape[1]
    size = even_size(tokens.shape[0], max(1, _READ // numbers))
    return in_blocks(lambda rows: pool.score(*rows), (tokens, mask), size)


def _drawn_log_probs(
    bids: jax.Array, log_probs: jax.Array, log_q: jax.Array, token: jax.Array
) -> jax.Array:
    """The agents' log-probabilities of the drawn token, `(n,)`."""
    del bids, log_q
    return log_probs[:, token]


def log_importance(candidates: Candidates, reference: ArrayLike) -> jax.Array:
    """``log p_ref(y) - log p_gen(y)`` `(A, M)`, the `log_weights` of the rules.

    ``-inf`` for replies that the reference cannot write.

    Args:
      candidates: As drawn.
      reference: The number of the agent that is the reference.
    """
    log_reference = _log_reference(candidates, reference)
    return log_reference - candidates.log_generator


def log_ratio_rewards(
    bids: ArrayLike, candidates: Candidates, reference: ArrayLike
) -> jax.Array:
    """Reported rewards ``b_i (log p_i(y) - log p_ref(y))`` `(A, n, M)`, in money.

    The reference is one of the agents; its rewards are 0, so that it neither moves the
    choice nor pays. `single_winner` would take them for those of a rival: leave its row
    out, as `reply_auction` does. Rewards are 0, too, for replies that the reference
    cannot write, which `mosaic` never returns, and of agents that bid 0. A bidder that
    cannot write a candidate would veto it at any bid, however small; rewards are
    finite, so that is refused or, under a transformation, ``-inf``, from which the
    rules make NaN.

    Args:
      bids: Money per nat, `(n,)` or one row an auction, `(A, n)`.
      candidates: As drawn.
      reference: The number of the agent that is the reference.

    Raises:
      ValueError: If shapes disagree, concrete bids are no bids, or a bidder cannot
        write a candidate.
    """
    size, _, num_agents = candidates.log_probs.shape
    bids = base.as_float(bids)
    rows = rows_by_auction("bids", bids, num_agents, size)[..., None]
    if records.is_concrete(bids):
        base.check_amounts("bids", np.asarray(bids))
    log_reference = _log_reference(candidates, reference)[:, None]
    excluded = jnp.isneginf(log_reference)
    own = jnp.swapaxes(candidates.log_probs, 1, 2)
    ratio = jnp.where(excluded, 0, own) - jnp.where(excluded, 0, log_reference)
    rewards = rows * jnp.where(jnp.isneginf(ratio) & (rows == 0), 0, ratio)
    if records.is_concrete(rewards) and jnp.isneginf(rewards).any():
        auction, agent, reply = np.argwhere(np.isneginf(rewards))[0].tolist()
        raise ValueError(
            f"candidates: agent {agent} bids but cannot write reply {reply} of auction "
            f"{auction}; widen its sampling (no top_k, no top_p) or drop it as a bidder"
        )
    return rewards


def text_rewards(
    bids: ArrayLike, candidates: Candidates, rewards: Sequence[Reward]
) -> jax.Array:
    """Reported rewards ``b_i r_i(y)`` `(A, n, M)` for what agents see in a text.

    Args:
      bids: Money per unit of the agent's reward, `(n,)` or one row an auction,
        `(A, n)`.
      candidates: As drawn.
      rewards: One for each agent, called as ``reward(tokens, mask)`` with texts
        `(A M, T)`, it answers `(A M,)`, such as `bidding.mentions`.

    Raises:
      ValueError: If shapes disagree, concrete bids are no bids, or a concrete reward is
        not finite.
    """
    size, num_replies, length = candidates.tokens.shape
    bids = base.as_float(bids)
    rows = rows_by_auction("bids", bids, len(rewards), size)
    if records.is_concrete(bids):
        base.check_amounts("bids", np.asarray(bids))
    tokens, mask = (x.reshape(-1, length) for x in (candidates.tokens, candidates.mask))
    found = []
    for agent, reward in enumerate(rewards):
        worth = base.as_float(reward(tokens, mask))
        records.check_shape(f"rewards[{agent}]", worth, (size * num_replies,))
        if records.is_concrete(worth) and not np.isfinite(worth).all():
            wrong = np.asarray(worth)[~np.isfinite(worth)][0]
            raise ValueError(f"rewards[{agent}] must be finite, got {wrong}")
        found.append(worth.reshape(size, num_replies))
    return rows[..., None] * jnp.stack(found, axis=1)


def _log_reference(candidates: Candidates, reference: ArrayLike) -> jax.Array:
    """Log-probabilities `(A, M)` of the replies under the reference."""
    num_agents = candidates.log_probs.shape[-1]
    reference = records.check_agent("reference", reference, num_agents)
    return candidates.log_probs[..., reference]
