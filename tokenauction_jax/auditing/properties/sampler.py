"""Properties of a sampler: stable as a bid rises, and true to the aggregate."""

import math

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.properties import SAMPLER_LAW, STABLE
from tokenauction_jax.auditing.properties.claims import Margins
from tokenauction_jax.auditing.properties.path import is_defined
from tokenauction_jax.auditing.rules import Sampler
from tokenauction_jax.mechanism import base

# How often a statistical test, all of its comparisons together, rejects what is right.
FALSE_ALARM = 1e-9
# A tie of p and r up to rounding may count as in T+ or not.
_ROUNDING = 1e-6


def sampler_margins(
    sampler: Sampler,
    aggregation: base.Aggregation,
    instance: Instance,
    own_bids: jax.Array,
    qs: jax.Array,
) -> Margins:
    """1 where the sampler is not stable, and a number that is uniform if it is right.

    Args:
      sampler: Called as `tokenauction_jax.stable_sample` is.
      aggregation: The rule that it draws from.
      instance: Whose seed fixes the draws.
      own_bids: `(k,)`, rising from 0, which is not drawn at.
      qs: `(k, V)`, the aggregates there.
    """
    key_sample, key_rank = jax.random.split(jax.random.key(instance.seed))
    auction = instance.agent, own_bids[1:], instance.bids, instance.log_probs
    tokens = sampler(key_sample, aggregation, *auction)
    defined = is_defined(qs)
    p = jnp.exp(instance.log_probs[instance.agent])
    wrong = changes_wrongly(tokens, defined[1:], qs[0], p) & defined[0]
    return {
        STABLE: jnp.where(wrong, 1.0, -jnp.inf),
        SAMPLER_LAW: _rank(key_rank, qs[-1], tokens[-1]),
    }


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


def deviation_by_chance(size: int, num_laws: int = 1) -> float:
    """How far `size` draws may be from their law, in cumulative probability.

    The bound of Dvoretzky, Kiefer and Wolfowitz for several laws together.
    """
    return math.sqrt(math.log(2 * num_laws / FALSE_ALARM) / (2 * size))


def _rank(key: jax.Array, q: jax.Array, token: jax.Array) -> jax.Array:
    """A number that is uniform if the token was drawn from `q` `(V,)`."""
    below = jnp.where(jnp.arange(q.size) < token, q, 0).sum()
    return below + jax.random.uniform(key) * q[token]
