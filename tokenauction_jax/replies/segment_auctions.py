"""The segment auction as a mechanism of whole texts."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.mechanism import base
from tokenauction_jax.replies.segmented_texts import write_segments
from tokenauction_jax.replies.segments import segment
from tokenauction_jax.replies.text_auctions import WrittenTexts, observed_log_probs
from tokenauction_jax.simulation.auction_step import Observer


@records.record
class SegmentAuction:
    """See `segment_auction`."""

    relevance: jax.Array
    segment_tokens: int = records.static_field()
    num_ads: int = records.static_field()
    replacement: bool = records.static_field()
    draws_tokens: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Of the rule."""
        return "segment"

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
        """Texts whose segments are auctioned, each of them clicked once.

        The reference takes no part. See `TextAuction`.

        Raises:
          ValueError: If a shape is wrong, or concrete bids are negative or not finite.
        """
        bids = base.as_float(bids)
        n = pool.num_agents - 1
        records.check_shape("bids", bids, (None, n))
        relevance = jnp.broadcast_to(self.relevance, (n,))
        written = write_segments(
            key,
            pool,
            jnp.concatenate([bids, jnp.zeros_like(bids[:, :1])], axis=1),
            segment_tokens=self.segment_tokens,
            num_tokens=num_tokens,
            relevance=jnp.append(relevance, 0),
            num_ads=self.num_ads,
            replacement=self.replacement,
            first_auction=first_auction,
            accumulate=jax.tree_util.Partial(observed_log_probs, accumulate),
            observe_args=observe_args,
        )
        rollout = written.rollout
        log_probs, totals = rollout.totals
        length = rollout.mask.sum(1).astype(bids.dtype)
        # Who writes: of several, all of them answer every token.
        writers = (written.winners >= 0).sum(2).astype(bids.dtype)
        each = jnp.repeat(writers, self.segment_tokens, axis=1)[:, :num_tokens]
        return WrittenTexts(
            tokens=rollout.tokens,
            mask=rollout.mask,
            log_probs=log_probs,
            payments=written.prices.sum(1)[:, :n],
            expected_payments=written.expected.sum(1)[:, :n],
            divergence=rollout.log_prob.sum(1) - log_probs[:, n],
            valid=rollout.valid,
            forward_passes=(each * rollout.mask).sum(1),
            drawn_tokens=length,
            totals=totals,
        )


def segment_auction(
    segment_tokens: int,
    *,
    relevance: ArrayLike = 1.0,
    num_ads: int = 1,
    replacement: bool = True,
) -> SegmentAuction:
    """Texts of segments that agents win by bid and relevance; see `write_segments`.

    Bids are money per click, and each segment that an agent writes is one.

    Args:
      segment_tokens: How many tokens a segment has; the last may have fewer.
      relevance: Click probabilities or other scores of the retrieval, one number or
        one for each agent, `(n,)`, not negative.
      num_ads: How many agents write a segment together.
      replacement: Whether an agent can win several segments of a text.

    Raises:
      ValueError: If a count is no positive integer, or concrete relevance is negative,
        not finite or all 0.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> pool = ta.agents.with_reference(pool, "mean")
    >>> texts = segment_auction(4).write(jax.random.key(0), pool, jnp.ones((5, 2)),
    ...                                  num_tokens=8)
    >>> texts.tokens.shape, texts.payments.shape
    ((5, 8), (5, 2))
    """
    relevance = base.as_float(relevance)
    if relevance.ndim > 1:
        raise ValueError(
            f"relevance has shape {relevance.shape}, expected a number or (n,)"
        )
    if records.is_concrete(relevance):
        base.check_amounts("relevance", np.asarray(relevance))
        if not np.any(relevance):
            raise ValueError("relevance must not all be 0: nobody could win")
    return SegmentAuction(
        relevance,
        records.check_integer("segment_tokens", segment_tokens, 1),
        segment(num_ads).num_ads,
        bool(replacement),
    )
