"""The segment auction: ads compete for a segment of a reply, by bid and relevance.

Source: Hajiaghayi, Lahaie, Rezaei and Shin, "Ad Auctions for LLMs via Retrieval
Augmented Generation" (NeurIPS 2024, arXiv 2406.09459).
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, influence, mean_price
from tokenauction_jax.replies import exponential_race


class Placement(NamedTuple):
    """Who is in a segment, and at what price.

    Attributes:
      winners: `(k,)` int32 in order of score, -1 for places that nobody takes.
      prices: `(n,)`, money per click, 0 for ads that have no place.
    """

    winners: jax.Array
    prices: jax.Array


@records.record
class Segment:
    """See `segment`."""

    num_ads: int = records.static_field(default=1)
    name: ClassVar[str] = "segment"

    def log_prob(self, bids: ArrayLike, relevance: ArrayLike) -> jax.Array:
        """Log-probabilities `(n,)` with which each ad comes first."""
        scores = _check_ads(bids, relevance)[2]
        return distributions.normalize(distributions.safe_log(scores))

    def win_prob(self, bids: ArrayLike, relevance: ArrayLike) -> jax.Array:
        """Probabilities `(n,)` of a place, exact to 1e-6 of each in float32."""
        return self._win_prob(_check_ads(bids, relevance)[2])

    def allocate(
        self, key: jax.Array, bids: ArrayLike, relevance: ArrayLike
    ) -> Placement:
        """Draws the winners and their prices per click, from one noise.

        Events of probability 1e-18 keep their relative frequency. A price does not
        depend on the ad's own bid but by whether it wins, and is no more than the bid.
        """
        bids, relevance, scores, defined = _check_ads(bids, relevance)
        clocks = exponential_race.draw_clocks(key, scores)
        winners, after = exponential_race.first_rings(clocks, scores, self.num_ads)
        wins = (jnp.arange(scores.size)[:, None] == winners[None]).any(1)
        # The next ad rang at clock / score: of a score below it this ad had rung later.
        threshold = clocks / clocks[after] * jnp.where(after < 0, 0, scores[after])
        price = jnp.where(wins, threshold, 0) / jnp.where(wins, relevance, 1)
        # Rounding may not take it above the bid.
        price = jnp.minimum(price, jnp.where(wins, bids, 0))
        return Placement(winners, jnp.where(defined, price, jnp.nan))

    def sample(
        self, key: jax.Array, bids: ArrayLike, relevance: ArrayLike
    ) -> jax.Array:
        """The winners `(k,)` of `allocate`."""
        return self.allocate(key, bids, relevance).winners

    def realized(
        self, key: jax.Array, bids: ArrayLike, relevance: ArrayLike
    ) -> jax.Array:
        """The prices per click `(n,)` of `allocate`, 0 for ads without a place."""
        return self.allocate(key, bids, relevance).prices

    def expected(self, bids: ArrayLike, relevance: ArrayLike) -> jax.Array:
        """Means `(n,)` of `realized`: win probability times mean price, per click."""
        bids, relevance, scores, defined = _check_ads(bids, relevance)
        if self.num_ads == 1:
            paid = self._win_prob(scores) * _price_of_first(bids, scores)
        else:
            paid = exponential_race.mean_threshold(scores, self.num_ads)
            paid = distributions.divide(paid, distributions.nonzero(relevance))
        return jnp.where(defined, paid, jnp.nan)

    def conditional(self, bids: ArrayLike, relevance: ArrayLike) -> jax.Array:
        """Mean price per click of each ad given that it has a place, `(n,)`.

        0 for ads that never have.
        """
        bids, relevance, scores, defined = _check_ads(bids, relevance)
        if self.num_ads == 1:
            return jnp.where(defined, _price_of_first(bids, scores), jnp.nan)
        paid = exponential_race.mean_threshold(scores, self.num_ads)
        paid = distributions.divide(paid, distributions.nonzero(relevance))
        chance = distributions.nonzero(self._win_prob(scores))
        return jnp.where(defined, distributions.divide(paid, chance), jnp.nan)

    def _win_prob(self, scores: jax.Array) -> jax.Array:
        if self.num_ads == 1:
            return influence.influence_weights(scores, 1.0)
        return exponential_race.early_prob(scores, self.num_ads)


def segment(num_ads: int = 1) -> Segment:
    """The segment auction: ads win places at random, by bid times relevance.

    Ad i of bid ``b_i`` and relevance ``q_i`` has the score ``log(b_i q_i)`` plus
    Gumbel noise; the `num_ads` highest scores win. So i comes first with probability
    ``b_i q_i / sum_j b_j q_j``, which maximises `log_social_welfare` if bids are
    values, each next place goes by the same rule to one of those that are left, and ads
    of score 0 never win. A winner pays its critical bid given the noise ``G``,
    ``exp(S - G_i) / q_i`` with S the highest score that did not win, and nothing if
    nobody else is left: with values per click truth is dominant for any noise, and
    nobody is worse off than without taking part.

    With one place it is the token auction `linear` with `second_price` on point masses,
    at bids ``b q`` and prices over ``q``.

    All prices are money *per click*. If relevance is the probability of a click, i is
    worth ``v_i q_i`` to its advertiser in a segment where it has a place, and brings
    the platform ``q_i`` times its price on average; ``q`` need not be a probability, as
    only ratios matter.

    The rule's methods work on one auction's `bids` `(n,)`, money per click, and
    `relevance` `(n,)`, not negative. Products of the two are 0 or from 1e-30 to 1e30;
    smaller ones count as 0. Probabilities and mean payments have a relative error below
    1e-5 in float32 for products up to 1e30 apart. Under a transformation, from what
    cannot be used nobody wins, and payments are NaN.

    Args:
      num_ads: How many ads a segment has, ``k``.

    Raises:
      ValueError: If `num_ads` is no positive integer. Methods raise it if shapes are
        wrong, or concrete numbers are out of range or all products 0.

    >>> import jax, jax.numpy as jnp
    >>> rule = segment()
    >>> bids, relevance = jnp.array([3.0, 1.0]), jnp.array([0.1, 0.2])
    >>> print(jnp.exp(rule.log_prob(bids, relevance)).round(3))
    [0.6 0.4]
    >>> print(rule.expected(bids, relevance).round(3))
    [0.633 0.166]
    >>> rule.allocate(jax.random.key(0), bids, relevance).winners.shape
    (1,)
    """
    return Segment(records.check_integer("num_ads", num_ads, 1))


def log_social_welfare(
    values: ArrayLike, relevance: ArrayLike, shares: ArrayLike
) -> jax.Array:
    """Logarithmic social welfare ``sum_i v_i q_i log x_i``, of one segment.

    The logarithm of the paper's ``prod_i x_i^(v_i q_i)``; those of independent segments
    add up. It is ``-inf`` if an ad of positive worth has no share, and ``0 log 0 = 0``.

    Args:
      values: Money per click, `(..., n)`.
      relevance: Click probabilities, `(..., n)`.
      shares: Probabilities of a place, `(..., n)`.

    Returns:
      `(...)`, money.
    """
    worth = _worth(values, relevance, shares)
    logs = distributions.safe_log(jnp.asarray(shares))
    return jnp.where(worth > 0, worth * logs, 0).sum(-1)


def social_welfare(
    values: ArrayLike, relevance: ArrayLike, shares: ArrayLike
) -> jax.Array:
    """Expected value of all clicks ``sum_i v_i q_i x_i`` of one segment, `(...)`.

    Takes what `log_social_welfare` does.
    """
    return (_worth(values, relevance, shares) * jnp.asarray(shares)).sum(-1)


def minimum_social_welfare(
    values: ArrayLike, relevance: ArrayLike, shares: ArrayLike
) -> jax.Array:
    """That of the ad that has least of it, ``min_i v_i q_i x_i``, `(...)`.

    Takes what `log_social_welfare` does; of a text of several segments, shares that are
    summed over them.
    """
    return (_worth(values, relevance, shares) * jnp.asarray(shares)).min(-1)


def _worth(values: ArrayLike, relevance: ArrayLike, shares: ArrayLike) -> jax.Array:
    """Expected value `(..., n)` of each ad if it is shown."""
    values, relevance = base.as_float(values), base.as_float(relevance)
    for name, x in (("relevance", relevance), ("shares", shares)):
        if jnp.ndim(values) == 0 or jnp.shape(x) != jnp.shape(values):
            raise ValueError(
                f"{name} has shape {jnp.shape(x)}, expected that of values, "
                f"{jnp.shape(values)}, with one number for each ad"
            )
    return values * relevance


def _price_of_first(bids: jax.Array, scores: jax.Array) -> jax.Array:
    """Mean price per click of each ad if it wins the one place, `(n,)`."""
    odds = influence.influence_odds(influence.influence_scores(scores, 1.0))
    price = bids * mean_price.mean_share(odds, 1.0)
    return jnp.where(odds.contested & (scores > 0), price, 0)


def _check_ads(
    bids: ArrayLike, relevance: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Bids, relevance and scores ``b q`` `(n,)` of one dtype; whether all can be used.

    All scores are 0 if not.
    """
    bids, relevance = base.as_float(bids), base.as_float(relevance)
    records.check_shape("bids", bids, (None,))
    records.check_shape("relevance", relevance, bids.shape)
    if not bids.size:
        raise ValueError("bids has shape (0,), expected at least one ad")
    check_scores(bids, relevance)
    dtype = jnp.result_type(bids, relevance)
    bids, relevance = bids.astype(dtype), relevance.astype(dtype)
    scores = bids * relevance
    scores = jnp.where((scores > 0) & (scores < base.SMALLEST_BID), 0, scores)
    usable = ((bids >= 0) & (relevance >= 0) & (scores <= base.LARGEST_BID)).all()
    defined = usable & jnp.isfinite(bids).all() & jnp.isfinite(relevance).all()
    defined &= (scores > 0).any()
    return bids, relevance, jnp.where(defined, scores, 0), defined


def check_scores(bids: jax.Array, relevance: jax.Array) -> None:
    """Raises `ValueError` for concrete bids and relevance that make no auctions.

    Args:
      bids: `(..., n)`.
      relevance: `(..., n)`.
    """
    if records.is_concrete(bids):
        base.check_amounts("bids", np.asarray(bids))
    if records.is_concrete(relevance):
        found = np.asarray(relevance)
        wrong = ~((found >= 0) & (found < np.inf))
        if wrong.any():
            where = ", ".join(str(index) for index in np.argwhere(wrong)[0])
            raise ValueError(
                "relevance must be finite and not negative, got "
                f"{found[wrong][0]} at [{where}]"
            )
    if records.is_concrete(bids, relevance):
        with np.errstate(over="ignore", under="ignore"):
            scores = np.asarray(bids) * np.asarray(relevance)
        base.check_amounts("bids * relevance", scores)
        if not (scores > 0).any(-1).all():
            raise ValueError(
                "bids * relevance must have a positive sum in every auction, got only "
                "zeros: some ad must bid and be relevant"
            )
