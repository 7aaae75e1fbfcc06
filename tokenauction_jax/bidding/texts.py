"""The worth of sampled texts, token by token, and its slopes, which need no memory.

Given its tokens the agents' distributions are constants of a text. What a token is
worth and how likely it was depend on few numbers (bids, values, those of the
mechanism), so the slopes in these are taken as the text grows, and no distribution is
kept. Policies, whose bids depend on what came before, are in `bidding.paths`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding.objectives import Objective, Outcome
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Bidders, Rollout, simulate

T = TypeVar("T")
# For each leaf of the numbers, whether it varies.
Varies = tuple[bool, ...]


@records.record
class Numbers:
    """All that the worth of given texts may be differentiated in.

    Attributes:
      mechanism: The rules.
      objective: What texts are worth.
      temperature: `(n,)`, of the distributions that the agents submit.
      bids: `(A, n)`, or `(n,)` of one auction; or checked `Bidders`.
      values: `(A, n)`, or `(n,)` of one auction.
    """

    mechanism: Mechanism
    objective: Objective
    temperature: jax.Array
    bids: Any
    values: jax.Array

    def rows(self) -> tuple[bool, ...]:
        """For each leaf, whether it has one row an auction."""
        flags = jax.tree.map(lambda _: False, self)
        bids = jax.tree.map(lambda _: True, self.bids)
        if isinstance(bids, Bidders) and not bids.by_auction:
            bids = dataclasses.replace(bids, policies=flags.bids.policies)
        return tuple(
            jax.tree.leaves(dataclasses.replace(flags, bids=bids, values=True))
        )

    def only_bids(self, flags: Any) -> Varies:
        """For each leaf whether it varies, if `flags` of bids or of policies do."""
        nothing = jax.tree.map(lambda _: False, self)
        if isinstance(self.bids, Bidders):
            flags = dataclasses.replace(nothing.bids, policies=flags)
        return tuple(jax.tree.leaves(dataclasses.replace(nothing, bids=flags)))


@records.record
class Texts:
    """What the texts of `A` auctions are worth.

    Attributes:
      worth: `(A, T)`, of each token before it was drawn, less what its draw took from
        it; 0 after the end of a text.
      reward: `(A,)`, of the finished text.
      mask: `(A, T)`, True up to and including the end token.
      valid: `(A,)`, False if an auction became undefined.
      drawn: `(A, T)`, the part of `worth` that depended on the draw: what budgets cut
        from payments; None for 0.
      worth_slopes: Of `worth`, `(A, T, ...)` for each leaf that varies.
      reward_slopes: Of `reward`, `(A, ...)`, None where that does not depend on it.
      score: Slopes of the log-probability of each token, `(A, T, ...)`.
      log_chance: `(A, T)`, of all that was drawn, where policies bid.
      bids: `(A, T, n)`, of policies.
    """

    worth: jax.Array
    reward: jax.Array
    mask: jax.Array
    valid: jax.Array
    drawn: jax.Array | None = None
    worth_slopes: Sequence[jax.Array] = ()
    reward_slopes: Sequence[jax.Array | None] = ()
    score: Sequence[jax.Array] = ()
    log_chance: jax.Array | None = None
    bids: jax.Array | None = None

    def totals(self) -> jax.Array:
        """Worth `(A,)` of each text."""
        return self.worth.sum(axis=1) + self.reward

    def later(self) -> jax.Array:
        """What a draw decided `(A, T)`, less its mean over the other auctions.

        That is the worth of all later tokens, and of the token what was drawn.
        """
        worth, reward = finite(self.worth), finite(self.reward)
        later = jnp.flip(jnp.cumsum(jnp.flip(worth, 1), 1), 1) - worth + reward[:, None]
        if self.drawn is not None:
            later += finite(self.drawn)
        later = jnp.where(self.mask, later, 0)
        count = self.mask.sum(axis=0, keepdims=True) - self.mask
        others = (later.sum(axis=0, keepdims=True) - later) / jnp.maximum(count, 1)
        return jnp.where(self.mask, later - others, 0)


def sample_texts(
    key: jax.Array,
    pool: AgentPool,
    numbers: Numbers,
    num_tokens: int,
    first_auction: ArrayLike,
    varies: Varies | None = None,
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
    rollout = simulate(
        *(key, numbers.mechanism, pool, numbers.bids),
        num_tokens=num_tokens,
        first_auction=first_auction,
        observe=_Token(shared, varies),
        observe_args=(numbers.values,),
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


def token_worth(
    numbers: Numbers, log_probs: jax.Array, charge: Callable[[Any], Any] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Worth of one token of one auction, and ``log q`` `(V,)`.

    `charge` says what agents are charged of the expected payments.
    """
    mechanism, bids = numbers.mechanism, numbers.bids
    log_q = mechanism.aggregation.log_prob(bids, log_probs)
    pays = mechanism.payment.expected(bids, log_probs)
    pays = pays if charge is None else charge(pays)
    outcome = Outcome(bids, numbers.values, log_probs, log_q, pays)
    worth = jnp.asarray(numbers.objective.per_token(outcome), log_q.dtype)
    records.check_shape("per_token(outcome)", worth, ())
    return worth, log_q


def finite(x: jax.Array) -> jax.Array:
    """`x`, and 0 where it is infinite or NaN."""
    return jnp.where(jnp.isfinite(x), x, 0)


@records.record
class _Token:
    """Observes the worth of a token, its slopes, and those of its log-probability."""

    shared: tuple[Mechanism, Objective, jax.Array]
    varies: Varies = records.static_field()

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        _log_q: jax.Array,
        token: jax.Array,
        values: jax.Array,
    ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        numbers = Numbers(*self.shared, bids, values)
        varying, rebuild = vary(numbers, self.varies)
        tempers = jax.tree.unflatten(jax.tree.structure(numbers), self.varies)

        def of(varying: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
            moved, submitted = rebuild(varying), log_probs
            if tempers.temperature:
                # What was submitted has the temperature already.
                power = numbers.temperature / moved.temperature
                submitted = distributions.normalize(power[:, None] * log_probs)
            worth, log_q = token_worth(moved, submitted)
            return worth, log_q[token]

        results, tangents = jax.linearize(of, varying)
        slopes = []
        for which, result in enumerate(results):
            # Each alone: under a second price a backward pass of both at once, one of
            # them with zeros, took a quarter longer.
            pull = jax.linear_transpose(lambda x, k=which: tangents(x)[k], varying)
            (found,) = pull(jnp.ones_like(result))
            # What is infinite has no slope: it is reported as what it is.
            slopes.append([jnp.where(jnp.isfinite(result), x, 0) for x in found])
        return results[0], slopes[0], slopes[1]


def _rewards(
    numbers: Numbers, varies: Varies, rollout: Rollout
) -> tuple[jax.Array | None, list[jax.Array | None]]:
    """Rewards `(A,)` of texts, if any, and their slopes in all that varies."""
    flags = jax.tree.unflatten(jax.tree.structure(numbers), varies)
    own = tuple(jax.tree.leaves(flags.objective))
    varying, rebuild = vary(numbers.objective, own)

    def reward(varying: list[jax.Array]) -> jax.Array | None:
        return rebuild(varying).per_text(rollout.tokens, rollout.mask)

    before = sum(jax.tree.leaves(flags.mechanism))
    after = sum(varies) - before - len(varying)
    slopes: list[jax.Array | None] = [None] * len(varying)
    if varying and jax.eval_shape(reward, varying) is not None:
        slopes = jax.jacfwd(reward)(varying)
    return reward(varying), [None] * before + slopes + [None] * after


def vary(tree: T, varies: Varies) -> tuple[list[Any], Callable[[Any], T]]:
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
