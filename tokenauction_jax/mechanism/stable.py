"""Stable sampling: a higher bid changes the token at most once, for the better.

Fix agent i and the others' bids, let ``r`` be the aggregate without i and
``T+ = {t: p_i(t) > r(t)}``. A sampler is stable for i if, with its randomness held
fixed, raising ``b_i`` changes the token at most once, from outside T+ into T+.

Source: Duetting et al. (arXiv 2310.10826), section 5.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax.mechanism import base, distributions, keys
from tokenauction_jax.mechanism.aggregation import Linear
from tokenauction_jax.mechanism.influence import influence_odds, influence_scores
from tokenauction_jax.mechanism.sampling import (
    is_below,
    sample_token,
    two_sided_uniform,
)

# Bisection in the logarithm of the own bid: down to e^-80 of it, to a relative 1e-7 in
# float32 and 1e-16 in float64.
_DEPTH = 80.0
_BISECTIONS = 60
# Either side of a bid, in its logarithm: differences are right to a relative 1e-4.
_NEAR = 0.01


def stable_sample(
    key: jax.Array,
    aggregation: base.Aggregation,
    agent: ArrayLike,
    own_bids: ArrayLike,
    bids: ArrayLike,
    log_probs: ArrayLike,
) -> jax.Array:
    """Draws a token at each of several own bids, with one source of randomness.

    Each token has the law of the aggregate at its bid; as the bid rises the token
    changes at most once, from outside T+ into T+. For `linear` the coupling is
    explicit: with ``x ~ r``, outside T+ it switches to ``y ~ (p_i - r)_+`` once
    ``lambda (1 - p_i(x) / r(x))`` exceeds a uniform. For another monotone rule ``x``
    is left at the bid where ``q(x) / r(x)`` falls below a uniform, found by bisection,
    for a token of T+ drawn in proportion to its growth ``dq/db_i`` there. Where the
    rule has no finite derivative, such as that of a power of a zero bid, differences
    stand in for it, right to a relative 1e-4. A rule with a method
    ``stable_sample(key, agent, own_bids, bids, log_probs)`` is asked instead.

    Args:
      key: A typed PRNG key.
      aggregation: A monotone rule.
      agent: The agent whose bid varies.
      own_bids: `(k,)`, in any order.
      bids: `(n,)`, of which the agent's own is not used.
      log_probs: `(n, V)`.

    Returns:
      Tokens `(k,)`, int32. Switches of probability 1e-18 keep their relative accuracy
      under `linear`. If no other agent bids, all are drawn from ``p_i``.

    Raises:
      ValueError: If the class of `aggregation` is not monotone: it has no such
        sampler. If a shape is wrong or there is no such agent.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> log_probs = jnp.log(jnp.array([[0.1, 0.9], [0.7, 0.3]]))
    >>> own_bids = jnp.array([0.0, 1.0, 10.0, 100.0])
    >>> bids = jnp.array([1.0, 1.0])
    >>> ta.stable_sample(jax.random.key(8), ta.linear(), 0, own_bids, bids, log_probs)
    Array([0, 0, 1, 1], dtype=int32)
    """
    check_monotone(aggregation)
    own_bids, bids, log_probs = base.check_path(agent, own_bids, bids, log_probs)
    if isinstance(aggregation, base.SupportsStableSample):
        return aggregation.stable_sample(key, agent, own_bids, bids, log_probs)
    bids = bids.at[agent].set(0)
    alone = bids.sum() == 0
    # With no other bid every own bid gives p_i, and so must the stand-in for r.
    rest = jnp.where(alone, jax.nn.one_hot(agent, bids.size, dtype=bids.dtype), bids)
    log_r = log_prob(aggregation, rest, log_probs)
    key_token, key_uniform, key_gain = keys.split(key, 3)
    token = sample_token(key_token, log_r)
    uniform = two_sided_uniform(key_uniform, (), bids.dtype)
    path = (agent, own_bids, rest, log_probs, log_r, token, uniform)
    if isinstance(aggregation, Linear):
        switched, log_gain = _switch_linear(aggregation, *path)
    else:
        switched, log_gain = _switch(aggregation, *path)
    gained = sample_token(key_gain, log_gain)
    # A tie, or a chance below every rounding, leaves nothing to switch to.
    switched &= (log_gain > -jnp.inf).any() & ~alone
    return jnp.where(switched, gained, token)


def check_monotone(aggregation: base.Aggregation) -> None:
    """Raises `ValueError` for a rule that has no stable sampler."""
    if not aggregation.monotone:
        raise ValueError(
            f"no stable sampler exists for {aggregation.name!r}, which is not a "
            "monotone aggregation: raising a bid may have to take away a token that "
            "the bidder gained; use linear()"
        )


def log_prob(
    aggregation: base.Aggregation, bids: jax.Array, log_probs: jax.Array
) -> jax.Array:
    """The aggregate `(V,)`, -inf (never an error) where it is undefined."""
    return jax.vmap(aggregation.log_prob, (0, None))(bids[None], log_probs)[0]


def _switch_linear(
    aggregation: Linear,
    agent: ArrayLike,
    own_bids: jax.Array,
    rest: jax.Array,
    log_probs: jax.Array,
    log_r: jax.Array,
    token: jax.Array,
    uniform: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Whether the token is lost at each own bid `(k,)`, and to which `(V,)`."""
    log_p = log_probs[agent]

    def shares(own_bid: jax.Array) -> tuple[jax.Array, jax.Array]:
        bids = rest.at[agent].set(own_bid)
        odds = influence_odds(influence_scores(bids, aggregation.influence))
        return odds.share[agent], odds.rest[agent]

    own, others = jax.vmap(shares)(own_bids)
    log_kept = jnp.minimum(log_p[token] - log_r[token], 0)
    chance = own * -jnp.expm1(log_kept)
    complement = others + own * jnp.exp(log_kept)
    switched = is_below(uniform, chance, complement)
    gains = log_p > log_r
    # log(p - r), of which r may be 0.
    growth = -jnp.expm1(jnp.where(gains, log_r - log_p, -1))
    return switched, jnp.where(gains, log_p + jnp.log(growth), -jnp.inf)


def _switch(
    aggregation: base.Aggregation,
    agent: ArrayLike,
    own_bids: jax.Array,
    rest: jax.Array,
    log_probs: jax.Array,
    log_r: jax.Array,
    token: jax.Array,
    uniform: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """The same for any monotone rule, by bisection along its path of own bids."""
    log_p, log_uniform = log_probs[agent], jnp.log(uniform[0])

    def log_q(log_bid: jax.Array) -> jax.Array:
        bids = rest.at[agent].set(jnp.exp(log_bid))
        return log_prob(aggregation, bids, log_probs)

    def lost(log_bid: jax.Array) -> jax.Array:
        return log_q(log_bid)[token] - log_r[token] <= log_uniform

    highest = jnp.max(own_bids)
    top = jnp.log(jnp.where(highest > 0, highest, 1))
    before, after = bisect(lost, top)
    outside = log_p[token] <= log_r[token]
    switched = (own_bids >= jnp.exp(after)) & (own_bids > 0) & lost(top) & outside
    gains = log_p > log_r
    path, slope = jax.jvp(log_q, (after,), (jnp.ones_like(after),))
    # Powers of a zero bid have no finite derivative, and what is looked up has none.
    known = jnp.where(gains, jnp.isfinite(slope), True).all()
    known &= (gains & (slope > 0)).any()
    apart = (log_q(after + _NEAR) - log_q(after - _NEAR)) / (2 * _NEAR)
    slope = jnp.where(known, slope, apart)
    grows = gains & (slope > 0) & (slope < jnp.inf)
    log_gain = jnp.where(grows, path + distributions.safe_log(slope), -jnp.inf)
    # A rule may jump there, as winner-takes-all does.
    jump = jnp.where(gains, jnp.exp(path) - jnp.exp(log_q(before)), 0)
    jumps = jnp.maximum(jump, 0).sum() > 1e-3
    log_jump = distributions.safe_log(jnp.maximum(jump, 0))
    return switched, jnp.where(jumps, log_jump, log_gain)


def bisect(
    reached: Callable[[jax.Array], jax.Array], top: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log bids just before and just after the lowest one that has `reached`."""

    def halve(
        _: int, bracket: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        there = reached(middle)
        return jnp.where(there, low, middle), jnp.where(there, middle, high)

    return lax.fori_loop(0, _BISECTIONS, halve, (top - _DEPTH, top))
