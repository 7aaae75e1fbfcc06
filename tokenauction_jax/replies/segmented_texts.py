"""Texts whose segments are won by auction: who wins one writes its tokens."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.mechanism import base, keys
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.mechanism.payments import pay_your_bid
from tokenauction_jax.replies import segments
from tokenauction_jax.simulation import Bidders, Info, Rollout, simulate
from tokenauction_jax.simulation.auction_step import Observer
from tokenauction_jax.simulation.bidders import rows_by_auction
from tokenauction_jax.simulation.blocks import even_size, in_blocks
from tokenauction_jax.simulation.meshes import over_mesh

# Tells the auctions of segments from what their tokens are drawn by.
_SEGMENTS = 0x73656773
# Auctions side by side: with several places, mean prices take 1 MB of a few ads each.
_BLOCK = 256


@records.record
class SegmentedTexts:
    """The texts of `A` auctions, and who won their `S` segments at what price.

    What belongs to a segment that was not reached is 0, and -1 for winners.

    Attributes:
      rollout: Its `payments` and `expected_payments` `(A, T, n)` are the prices, and
        their means, at the first token of each segment, where they are due.
      winners: `(A, S, k)` int32 in order of score, -1 for places that nobody took.
      prices: `(A, S, n)`, money per click, 0 for agents that did not win.
      expected: `(A, S, n)`, means of the prices over the segment's auction, given who
        took part in it.
      reached: `(A, S)`, True for segments that have a token.
      shares: `(A, S, n)`, weights of the agents in what the segment was drawn from.
    """

    rollout: Rollout
    winners: jax.Array
    prices: jax.Array
    expected: jax.Array
    reached: jax.Array
    shares: jax.Array

    @property
    def payments(self) -> jax.Array:
        """What agents pay for a text `(A, n)`, if each segment is clicked once."""
        return self.prices.sum(1)


def write_segments(
    key: jax.Array,
    pool: AgentPool,
    bids: ArrayLike,
    *,
    segment_tokens: int,
    num_tokens: int,
    relevance: ArrayLike | None = None,
    num_ads: int = 1,
    replacement: bool = True,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    observe: Observer | None = None,
    accumulate: Observer | None = None,
    observe_args: tuple[Any, ...] = (),
) -> SegmentedTexts:
    """Writes texts of which each segment is auctioned by `segment`.

    The winner alone writes the tokens of its segment; several winners write the uniform
    mixture of their distributions. The auctions do not depend on what was written, and
    are held for every segment, but count only for those that the text reaches.

    Prices are per click, and click probabilities enter only by the scores: `payments`
    are those of a reader who clicks each winner of each segment once. Times the
    relevance, if that is a click probability, they are the mean over clicks.

    Without replacement an agent that has won a segment stands back in the later ones of
    the text. Where nobody is left that has a positive score, all take part anew.

    Randomness belongs to `key`, the number of the auction and the segment, that of the
    tokens to the position, as in `simulate`, which also chooses how many texts are
    written side by side, and uses the mesh that is set.

    Args:
      key: A typed PRNG key.
      pool: The agents, one for each ad.
      bids: Money per click, `(n,)` or one row an auction, `(A, n)`.
      segment_tokens: How many tokens a segment has; the last may have fewer.
      num_tokens: The cap on tokens, ``T``; there are ``S = ceil(T / segment_tokens)``
        segments.
      relevance: Click probabilities or other scores of the retrieval, not negative:
        `(n,)`, or `(S, n)` for each segment its own; None for 1.
      num_ads: How many agents win each segment, ``k``.
      replacement: Whether an agent can win several segments of a text.
      num_auctions: How many auctions, ``A``; needed for bids `(n,)`.
      first_auction: The number of the first auction.
      observe: As in `simulate`, given shares in place of bids.
      accumulate: As in `simulate`, given shares in place of bids.
      observe_args: As in `simulate`.

    Returns:
      `SegmentedTexts`. Under a transformation, an auction that has a segment without a
      positive score is not valid from there on.

    Raises:
      ValueError: If shapes disagree, a count is no positive integer, concrete bids or
        relevance are negative or not finite, or all scores of a segment are 0.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> texts = write_segments(jax.random.key(0), pool, [1.0, 2.0], segment_tokens=4,
    ...                        num_tokens=10, num_auctions=5)
    >>> texts.winners.shape, texts.payments.shape
    ((5, 3, 1), (5, 2))
    """
    rule = segments.segment(num_ads)
    segment_tokens = records.check_integer("segment_tokens", segment_tokens, 1)
    num_tokens = records.check_integer("num_tokens", num_tokens, 1)
    if num_auctions is not None:
        num_auctions = records.check_integer("num_auctions", num_auctions, 1)
    bids = base.as_float(bids)
    rows = rows_by_auction("bids", bids, pool.num_agents, num_auctions)
    count = -(-num_tokens // segment_tokens)
    relevance = _by_segment(relevance, count, pool.num_agents)
    if records.is_concrete(bids):
        base.check_amounts("bids", np.asarray(bids))
    segments.check_scores(bids[..., None, :], relevance[(None,) * (bids.ndim - 1)])
    numbers = records.auction_numbers(first_auction, rows.shape[0])
    key_segments = keys.fold_in(jax.random.clone(key), _SEGMENTS)
    held = _hold(key_segments, rule, numbers, rows, relevance, replacement)
    rollout = simulate(
        key,  # The pool's agents are those of a token auction.
        base.Mechanism(linear(), pay_your_bid()),
        pool,
        _writers(held[-1], segment_tokens),
        num_tokens=num_tokens,
        first_auction=first_auction,
        observe=observe,
        accumulate=accumulate,
        observe_args=observe_args,
    )
    return _charge(rollout, held, segment_tokens)


@records.record
class _Writer:
    """The policy of an agent whose influence is its share of each segment, `(S,)`."""

    shares: jax.Array
    segment_tokens: int = records.static_field()
    pays: ClassVar[bool] = False

    def init(self) -> tuple[()]:
        return ()

    def bid(self, state: tuple[()], info: Info) -> tuple[jax.Array, tuple[()]]:
        return self.shares[info.position // self.segment_tokens], state


def _by_segment(
    relevance: ArrayLike | None, num_segments: int, num_agents: int
) -> jax.Array:
    """Relevance as `(S, n)`."""
    shape = num_segments, num_agents
    if relevance is None:
        return jnp.ones(shape)
    relevance = base.as_float(relevance)
    if relevance.shape not in (shape, shape[1:]):
        raise ValueError(
            f"relevance has shape {relevance.shape}, expected ({num_agents},) or one "
            f"row for each of {num_segments} segments, {shape}"
        )
    return jnp.broadcast_to(relevance, shape)


@functools.partial(jax.jit, static_argnames="replacement")
def _hold(
    key: jax.Array,
    rule: segments.Segment,
    numbers: jax.Array,
    bids: jax.Array,
    relevance: jax.Array,
    replacement: bool,
) -> tuple[jax.Array, ...]:
    """The auctions of all segments: arrays `(A, S, ...)`, as in `SegmentedTexts`."""

    def of_text(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        number, bids = row
        key_text = keys.fold_in(key, number)

        def step(won: jax.Array, now: tuple[jax.Array, jax.Array]) -> Any:
            position, relevance = now
            left = jnp.where(won, 0, relevance)
            # Nobody is left: all take part anew.
            anew = ~(bids * left >= base.SMALLEST_BID).any()
            left = jnp.where(anew, relevance, left)
            placed = rule.allocate(keys.fold_in(key_text, position), bids, left)
            wins = (jnp.arange(bids.size)[:, None] == placed.winners[None]).any(1)
            shares = wins / jnp.maximum(wins.sum(), 1).astype(bids.dtype)
            if not replacement:
                won = (won & ~anew) | wins
            return won, (*placed, rule.expected(bids, left), shares)

        positions = jnp.arange(relevance.shape[0], dtype=jnp.uint32)
        nobody = jnp.zeros(bids.shape, bool)
        return lax.scan(step, nobody, (positions, relevance))[1]

    def of_texts(rows: Any) -> tuple[jax.Array, ...]:
        size = even_size(rows[0].size, _BLOCK)
        return in_blocks(jax.vmap(of_text), rows, size)

    return over_mesh(of_texts, (numbers, bids))


@functools.partial(jax.jit, static_argnames="segment_tokens")
def _writers(shares: jax.Array, segment_tokens: int) -> Bidders:
    """Agents whose influence follows shares `(A, S, n)`."""
    policies = [
        _Writer(shares[..., agent], segment_tokens) for agent in range(shares.shape[-1])
    ]
    budgets = jnp.full_like(shares[:, 0], jnp.inf)
    return Bidders(policies, budgets, by_auction=True)


@functools.partial(jax.jit, static_argnames="segment_tokens")
def _charge(
    rollout: Rollout, held: tuple[jax.Array, ...], segment_tokens: int
) -> SegmentedTexts:
    """The texts, and of the auctions held those of segments that they reached."""
    reached = rollout.mask[:, ::segment_tokens]
    seen = reached[..., None]
    winners, *amounts = held
    prices, expected, shares = (jnp.where(seen, x, 0) for x in amounts)
    first = jnp.arange(rollout.mask.shape[1]) % segment_tokens == 0

    def due(x: jax.Array) -> jax.Array:
        """At the first tokens of segments, `(A, T, n)`."""
        x = jnp.repeat(x, segment_tokens, axis=1)[:, : first.size]
        return jnp.where(first[None, :, None], x, 0)

    charged = dataclasses.replace(
        rollout,
        payments=due(prices),
        expected_payments=due(expected),
        bids=None,
        exhausted=None,
        policy_states=None,
    )
    winners = jnp.where(seen, winners, -1)
    return SegmentedTexts(charged, winners, prices, expected, reached, shares)
