"""Properties of a sampler: stable as a bid rises, and true to the aggregate."""

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties import SAMPLER_LAW, STABLE
from tokenauction_jax.auditing.properties.claims import Margins
from tokenauction_jax.auditing.properties.path import aggregates, is_defined
from tokenauction_jax.auditing.rules import Sampler
from tokenauction_jax.mechanism import base

# A tie of p and r up to rounding may count as in T+ or not.
_ROUNDING = 1e-6
# Draws in each instance.
_DRAWS = 128


def sampler_margins(
    sampler: Sampler,
    aggregation: base.Aggregation,
    instance: Instance,
    own_bids: jax.Array,
    qs: jax.Array,
) -> Margins:
    """Whether the sampler is not stable, and what its draws say of their law.

    `SAMPLER_LAW` maps to `(K, 4)`. Of each draw: a number that is uniform in (0, 1) if
    the law is right, its tokens' mean `leaning` less what that should be, a bound on
    this, and by how much it would fall if the sampler ran at half of each bid.

    Args:
      sampler: Called as `tokenauction_jax.stable_sample` is.
      aggregation: The rule that it draws from.
      instance: Whose seed fixes the draws.
      own_bids: `(k,)`, rising from 0, which is not drawn at.
      qs: `(k, V)`, the aggregates there.
    """
    key_sample, key_rank = jax.random.split(jax.random.key(instance.seed))
    auction = instance.agent, own_bids[1:], instance.bids, instance.log_probs

    def draw(key: jax.Array) -> jax.Array:
        return sampler(key, aggregation, *auction)

    tokens = jax.vmap(draw)(jax.random.split(key_sample, _DRAWS))
    defined = is_defined(qs)
    p = jnp.exp(instance.log_probs[instance.agent])
    of_draws = jax.vmap(changes_wrongly, (0, None, None, None))
    wrong = of_draws(tokens, defined[1:], qs[0], p).any() & defined[0]
    halves = aggregates(aggregation, instance.agent, own_bids[1:] / 2, *auction[2:])
    qs, leans = qs[1:], leaning(qs[1:], jnp.exp(halves))
    drawn = jnp.take_along_axis(leans, tokens.T, axis=-1).mean(axis=0)
    excess = drawn - (qs * leans).sum(axis=-1).mean()
    gap = ((qs - jnp.exp(halves)) * leans).sum(axis=-1).mean()
    bound = 2 * jnp.abs(jnp.where(qs > 0, leans, 0)).max()
    told = _ranks(key_rank, qs, tokens), excess, bound, gap
    told = jnp.stack(jnp.broadcast_arrays(*told), axis=-1)
    return {STABLE: jnp.where(wrong, 1.0, -jnp.inf), SAMPLER_LAW: told}


def leaning(qs: jax.Array, halves: jax.Array) -> jax.Array:
    """How much likelier tokens are at some bids than at half of them, in [-1, 1].

    The mean over draws, whose right value is known, tells best that a sampler runs at
    other bids than it should. 0 where a token has no probability.
    """
    total = qs + halves
    return (qs - halves) / jnp.where(total > 0, total, 1)


def changes_wrongly(
    tokens: jax.Array, defined: jax.Array, r: jax.Array, p: jax.Array
) -> jax.Array:
    """Whether tokens at rising bids change twice, or not from outside T+ into it.

    Args:
      tokens: `(k,)`, drawn with one source of randomness.
      defined: `(k,)`, where there is an aggregate to draw from.
      r: `(V,)`, the aggregate without the agent.
      p: `(V,)`, what the agent prefers.
    """
    before, after = tokens[:-1], tokens[1:]
    changes = (before != after) & defined[:-1] & defined[1:]
    allowed = (p - r < _ROUNDING)[before] & (p - r > -_ROUNDING)[after]
    return (changes.sum() > 1) | (changes & ~allowed).any()


def _ranks(key: jax.Array, qs: jax.Array, tokens: jax.Array) -> jax.Array:
    """Numbers `(K,)`, uniform if tokens `(K, k)` are drawn from `qs` `(k, V)`.

    Each draw tells of one bid: its tokens depend on one another.
    """
    draws = jnp.arange(tokens.shape[0])
    places = draws % tokens.shape[1]
    chosen, q = tokens[draws, places], qs[places]
    lower = jnp.arange(q.shape[1])[None] < chosen[:, None]
    below = jnp.where(lower, q, 0).sum(axis=-1)
    return below + jax.random.uniform(key, draws.shape) * q[draws, chosen]
