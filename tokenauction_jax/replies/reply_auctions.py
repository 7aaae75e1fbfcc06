"""Auctions of whole replies: candidates, rewards, and the one that is returned."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.reference import ReferencePool
from tokenauction_jax.mechanism import base, keys
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.mechanism.payments import pay_your_bid
from tokenauction_jax.replies.candidates import (
    Reward,
    draw_candidates,
    log_importance,
    log_ratio_rewards,
    text_rewards,
)
from tokenauction_jax.replies.rules import ReplyMechanism
from tokenauction_jax.replies.text_auctions import WrittenTexts, observed_log_probs
from tokenauction_jax.simulation.auction_step import Observer
from tokenauction_jax.simulation.rollout import simulate

# What draws the candidates: the reference, the agents by their bids, or their mean.
Generator = Literal["reference", "bids", "mean"]
# Tells the choice of a reply from what the candidates are drawn by.
_CHOICE = 0x63686F69


@records.record
class ReplyAuction:
    """See `reply_auction`."""

    rule: ReplyMechanism
    rewards: tuple[Reward, ...] | None
    num_replies: int = records.static_field()
    generator: Generator = records.static_field()
    draws_tokens: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """That of its rule."""
        return records.describe(self.rule)

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
        """Draws candidates, and returns the one that the rule picks by their rewards.

        See `TextAuction`.

        Raises:
          ValueError: If a shape is wrong, or concrete bids are negative or not finite.
        """
        del accumulate, observe_args
        bids = base.as_float(bids)
        num_auctions, n = bids.shape
        records.check_shape("bids", bids, (num_auctions, pool.num_agents - 1))
        candidates = draw_candidates(
            key,  # As in `simulate`: the pool's agents are those of a token auction.
            pool,
            _weights(self.generator, bids),
            num_replies=self.num_replies,
            num_tokens=num_tokens,
            first_auction=first_auction,
            writers=[n] if self.generator == "reference" else range(n),
        )
        if self.rewards is None:
            all_bids = jnp.concatenate([bids, jnp.zeros_like(bids[:, :1])], axis=1)
            rewards = log_ratio_rewards(all_bids, candidates, n)[:, :n]
        else:
            rewards = text_rewards(bids, candidates, self.rewards)
        log_weights = log_importance(candidates, n)
        numbers = records.auction_numbers(first_auction, num_auctions)
        key_choice = keys.fold_in(jax.random.clone(key), _CHOICE)
        auction_keys = jax.vmap(keys.fold_in, (None, 0))(key_choice, numbers)
        reply, paid, expected, log_prob = jax.vmap(self._settle)(
            auction_keys, rewards, log_weights
        )

        def returned(x: jax.Array) -> jax.Array:
            """Of the candidates' `(A, M, ...)`, those of the returned ones."""
            place = reply.reshape(-1, 1, *[1] * (x.ndim - 2))
            return jnp.take_along_axis(x, place, axis=1)[:, 0]

        # Beside the reference, any candidate would be returned, drawn from it.
        chosen = jnp.log(self.num_replies) + log_prob
        drawn = candidates.mask.sum((1, 2)).astype(bids.dtype)
        return WrittenTexts(
            tokens=returned(candidates.tokens),
            mask=returned(candidates.mask),
            log_probs=returned(candidates.log_probs),
            payments=paid,
            expected_payments=expected,
            divergence=chosen - returned(log_weights),
            valid=jnp.isfinite(log_prob) & jnp.isfinite(paid).all(1),
            forward_passes=drawn * self._models(pool),
            drawn_tokens=drawn,
        )

    def _settle(
        self, key: jax.Array, rewards: jax.Array, log_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Which reply is returned, what is paid and on average, its log-probability."""
        rule = self.rule
        reply = rule.sample(key, rewards, log_weights)
        paid = rule.realized(rewards, log_weights, reply)
        log_prob = rule.log_prob(rewards, log_weights)[reply]
        return reply, paid, rule.expected(rewards, log_weights), log_prob

    def _models(self, pool: AgentPool) -> int:
        """How many models read every token of a candidate."""
        num_agents = pool.num_agents - 1
        own = not isinstance(pool, ReferencePool)
        if self.num_replies > 1:
            return num_agents + own  # Who does not write reads.
        return _writers(self.generator, pool)


@records.record
class NoAuction:
    """See `no_auction`."""

    generator: Generator = records.static_field()
    draws_tokens: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Of no auction."""
        return "none"

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
        """Texts of the generator. See `TextAuction`.

        Raises:
          ValueError: If a shape is wrong, or concrete bids are negative or not finite.
        """
        bids = base.as_float(bids)
        n = bids.shape[1]
        rollout = simulate(
            key,
            base.Mechanism(linear(), pay_your_bid()),
            pool,
            _weights(self.generator, bids),
            num_tokens=num_tokens,
            first_auction=first_auction,
            accumulate=jax.tree_util.Partial(observed_log_probs, accumulate),
            observe_args=observe_args,
        )
        log_probs, totals = rollout.totals
        length = rollout.mask.sum(1).astype(bids.dtype)
        return WrittenTexts(
            tokens=rollout.tokens,
            mask=rollout.mask,
            log_probs=log_probs,
            payments=jnp.zeros_like(bids),
            expected_payments=jnp.zeros_like(bids),
            divergence=rollout.log_prob.sum(1) - log_probs[:, n],
            valid=rollout.valid,
            forward_passes=length * _writers(self.generator, pool),
            drawn_tokens=length,
            totals=totals,
        )


def reply_auction(
    rule: ReplyMechanism,
    *,
    num_replies: int,
    generator: Generator = "reference",
    rewards: Sequence[Reward] | None = None,
) -> ReplyAuction:
    """An auction of whole replies: candidates, rewards, and a rule that picks one.

    Each agent reports as its reward for a reply its bid times ``log p_i(y) - log
    p_ref(y)``, or times a reward of its own.

    Args:
      rule: Such as `mosaic`.
      num_replies: Candidates of each auction, ``M``.
      generator: Whom the candidates are drawn from: the ``reference``, the agents in
        the mixture of their ``bids``, or their uniform mixture, the ``mean``.
      rewards: One for each agent, as for `text_rewards`; None for log-ratios.

    Raises:
      ValueError: If `num_replies` is no positive integer, or something is another.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> auction = reply_auction(ta.replies.mosaic(1.0), num_replies=8)
    >>> texts = auction.write(jax.random.key(0), ta.agents.with_reference(pool, "mean"),
    ...                       jnp.ones((5, 2)), num_tokens=4)
    >>> texts.tokens.shape, texts.payments.shape
    ((5, 4), (5, 2))
    """
    records.check_rule("rule", rule, ReplyMechanism)
    num_replies = records.check_integer("num_replies", num_replies, 1)
    if rewards is not None:
        rewards = tuple(
            jax.tree_util.Partial(reward)
            if jax.tree_util.all_leaves([reward])
            else reward
            for reward in rewards
        )
    return ReplyAuction(rule, rewards, num_replies, _check_generator(generator))


def no_auction(generator: Generator = "reference") -> NoAuction:
    """Texts of a generator, for nothing: what any auction should be better than.

    Args:
      generator: The ``reference``, the agents in the mixture of their ``bids``, or
        their uniform mixture, the ``mean``.

    Raises:
      ValueError: If it is another.
    """
    return NoAuction(_check_generator(generator))


def _check_generator(generator: Generator) -> Generator:
    if generator not in ("reference", "bids", "mean"):
        raise ValueError(
            f"generator must be 'reference', 'bids' or 'mean', got {generator!r}"
        )
    return generator


def _weights(generator: Generator, bids: jax.Array) -> jax.Array:
    """Of agents and reference in the law of what is drawn, `(A, n + 1)`."""
    agents, reference = bids, jnp.zeros_like(bids[:, :1])
    if generator == "reference":
        agents, reference = jnp.zeros_like(agents), jnp.ones_like(reference)
    elif generator == "mean":
        agents = jnp.ones_like(agents)
    return jnp.concatenate([agents, reference], axis=1)


def _writers(generator: Generator, pool: AgentPool) -> int:
    """How many models a generator needs."""
    if generator != "reference":
        return pool.num_agents - 1
    if isinstance(pool, ReferencePool):
        return pool.num_agents - 1 if pool.kind == "mean" else 0
    return 1
