"""The worth of sampled texts, token by token, and its slopes, which need no memory.

Given its tokens the agents' distributions are constants of a text. What a token is
worth and how likely it was depend on few numbers (bids, values, those of the
mechanism), so the slopes in these are taken as the text grows, and no distribution is
kept.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding.objectives import Objective, Outcome
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Rollout, simulate

T = TypeVar("T")


@records.record
class Numbers:
    """All that the worth of given texts may be differentiated in.

    Attributes:
      mechanism: The rules.
      objective: What texts are worth.
      temperature: `(n,)`, of the distributions that the agents submit.
      bids: `(A, n)`, or `(n,)` of one auction.
      values: As the bids.
    """

    mechanism: Mechanism
    objective: Objective
    temperature: jax.Array
    bids: jax.Array
    values: jax.Array


@records.record
class Texts:
    """What the texts of `A` auctions are worth.

    Attributes:
      worth: `(A, T)`, of each token before it was drawn; 0 after the end of a text.
      reward: `(A,)`, of the finished text.
      mask: `(A, T)`, True up to and including the end token.
      valid: `(A,)`, False if an auction became undefined.
      worth_slopes: Of `worth`, `(A, T, ...)` for each leaf that varies.
      reward_slopes: Of `reward`, `(A, ...)`, None where that does not depend on it.
      score: Slopes of the log-probability of each token, `(A, T, ...)`.
    """

    worth: jax.Array
    reward: jax.Array
    mask: jax.Array
    valid: jax.Array
    worth_slopes: list[jax.Array]
    reward_slopes: list[jax.Array | None]
    score: list[jax.Array]

    def totals(self) -> jax.Array:
        """Worth `(A,)` of each text."""
        return self.worth.sum(axis=1) + self.reward


def sample_texts(
    key: jax.Array,
    pool: AgentPool,
    numbers: Numbers,
    num_tokens: int,
    first_auction: ArrayLike,
    varies: tuple[bool, ...] | None = None,
) -> Texts:
    """Samples texts.

    Args:
      key: A typed PRNG key.
      pool: What supplies the distributions.
      numbers: Those of `A` auctions.
      num_tokens: ``T``.
      first_auction: The number of the first auction.
      varies: For each leaf of the numbers, whether slopes in it are wanted; None for no
        slopes.
    """
    varies = varies or (False,) * len(jax.tree.leaves(numbers))
    shared = numbers.mechanism, numbers.objective, numbers.temperature
    rows = {"bids": numbers.bids, "values": numbers.values}
    rollout = simulate(
        *(key, numbers.mechanism, pool, numbers.bids),
        num_tokens=num_tokens,
        first_auction=first_auction,
        observe=_Token(shared, varies),
        observe_args=(rows,),
    )
    worth, *slopes = rollout.observations
    worth_slopes, score = (
        [_keep(rollout.mask, slope) for slope in found] for found in slopes
    )
    reward, reward_slopes = _rewards(numbers, varies, rollout)
    return Texts(
        worth=jnp.where(rollout.mask, worth, 0),
        reward=jnp.zeros_like(worth[:, 0]) if reward is None else reward,
        mask=rollout.mask,
        valid=rollout.valid,
        worth_slopes=worth_slopes,
        reward_slopes=reward_slopes,
        score=score,
    )


def token_worth(numbers: Numbers, log_probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Worth of one token of one auction, and ``log q`` `(V,)`."""
    mechanism, bids = numbers.mechanism, numbers.bids
    log_q = mechanism.aggregation.log_prob(bids, log_probs)
    pays = mechanism.payment.expected(bids, log_probs)
    outcome = Outcome(bids, numbers.values, log_probs, log_q, pays)
    worth = jnp.asarray(numbers.objective.per_token(outcome), log_q.dtype)
    records.check_shape("per_token(outcome)", worth, ())
    return worth, log_q


@records.record
class _Token:
    """Observes the worth of a token, its slopes, and those of its log-probability."""

    shared: tuple[Mechanism, Objective, jax.Array]
    varies: tuple[bool, ...] = records.static_field()

    def __call__(
        self,
        _bids: jax.Array,
        log_probs: jax.Array,
        _log_q: jax.Array,
        token: jax.Array,
        rows: dict[str, jax.Array],
    ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        numbers = Numbers(*self.shared, **rows)
        varying, rebuild = _vary(numbers, self.varies)
        tempers = jax.tree.unflatten(jax.tree.structure(numbers), self.varies)

        def of(varying: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
            moved, submitted = rebuild(varying), log_probs
            if tempers.temperature:
                # What was submitted has the temperature already.
                power = numbers.temperature / moved.temperature
                submitted = distributions.normalize(power[:, None] * log_probs)
            worth, log_q = token_worth(moved, submitted)
            return worth, log_q[token]

        (worth, log_prob), pull = jax.vjp(of, varying)
        one, zero = jnp.ones_like(worth), jnp.zeros_like(worth)
        slopes = []
        for result, cotangents in ((worth, (one, zero)), (log_prob, (zero, one))):
            (found,) = pull(cotangents)
            # What is infinite has no slope: it is reported as what it is.
            slopes.append([jnp.where(jnp.isfinite(result), x, 0) for x in found])
        return worth, slopes[0], slopes[1]


def _rewards(
    numbers: Numbers, varies: tuple[bool, ...], rollout: Rollout
) -> tuple[jax.Array | None, list[jax.Array | None]]:
    """Rewards `(A,)` of texts, if any, and their slopes in all that varies."""
    flags = jax.tree.unflatten(jax.tree.structure(numbers), varies)
    own = tuple(jax.tree.leaves(flags.objective))
    varying, rebuild = _vary(numbers.objective, own)

    def reward(varying: list[jax.Array]) -> jax.Array | None:
        return rebuild(varying).per_text(rollout.tokens, rollout.mask)

    before = sum(jax.tree.leaves(flags.mechanism))
    after = sum(varies) - before - len(varying)
    slopes: list[jax.Array | None] = [None] * len(varying)
    if varying and jax.eval_shape(reward, varying) is not None:
        slopes = jax.jacfwd(reward)(varying)
    return reward(varying), [None] * before + slopes + [None] * after


def _vary(tree: T, varies: tuple[bool, ...]) -> tuple[list[Any], Callable[[Any], T]]:
    """The leaves that vary, and what puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)

    def rebuild(varying: list[Any]) -> T:
        left = iter(varying)
        merged = [next(left) if v else x for x, v in zip(leaves, varies, strict=True)]
        return jax.tree.unflatten(structure, merged)

    return [leaf for leaf, v in zip(leaves, varies, strict=True) if v], rebuild


def _keep(mask: jax.Array, x: jax.Array) -> jax.Array:
    """`x` `(A, T, ...)` where the mask is True, else 0."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)
