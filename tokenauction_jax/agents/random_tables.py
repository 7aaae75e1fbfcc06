"""Tabular agents drawn at random: anew for each auction, or one set for all.

Agent i of auction k depends on the key, k and i alone, so that a study with more agents
keeps the ones that it had.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents import filters
from tokenauction_jax.agents.tabular import TabularPool
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.mechanism.keys import fold_in


@records.record
class RandomPool:
    """See `dirichlet` and `zipf`."""

    parameter: jax.Array
    sampling: filters.Sampling | None
    family: str = records.static_field()
    num_agents: int = records.static_field()
    vocab_size: int = records.static_field()
    divisible: ClassVar[bool] = True

    @property
    def end_token(self) -> None:
        """Texts of tables end at their cap."""
        return

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> jax.Array:
        """Draws the agents' distributions `(A, n, V)`, which are the state.

        Raises:
          ValueError: If there is no key.
        """
        del num_tokens
        if key is None:
            raise ValueError("agents drawn at random need a key: init(..., key=key)")
        numbers = records.auction_numbers(first_auction, num_auctions)
        keys = jax.vmap(fold_in, (None, 0))(key, numbers)
        draw = _dirichlet if self.family == "dirichlet" else _zipf
        draw = functools.partial(draw, self.parameter, self.vocab_size)
        log_probs = jax.vmap(lambda k: jax.vmap(draw)(_agent_keys(k, self.num_agents)))
        drawn = log_probs(keys)
        if self.sampling is None:
            return drawn
        return filters.filter_logits(self.sampling, drawn)

    def step(self, state: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same distributions for every token."""
        del tokens
        return state, state


def dirichlet(
    num_agents: int,
    vocab_size: int,
    concentration: ArrayLike,
    *,
    sampling: filters.Sampling | None = None,
) -> RandomPool:
    """Agents with ``p_i ~ Dirichlet(c, ..., c)``, drawn anew for each auction.

    Args:
      num_agents: ``n``.
      vocab_size: ``V``.
      concentration: ``c > 0``; a small one gives agents that want few tokens.
      sampling: Filters on what they submit, from `agents.filters.sampling`.

    Raises:
      ValueError: If a size is below 1 or the concentration is not positive.
    """
    number = _positive("concentration", concentration)
    return RandomPool(number, sampling, "dirichlet", *_sizes(num_agents, vocab_size))


def zipf(
    num_agents: int,
    vocab_size: int,
    exponent: ArrayLike,
    *,
    sampling: filters.Sampling | None = None,
) -> RandomPool:
    """Agents with ``p_i ~ rank^-s``, each with a random ranking in each auction.

    Args:
      num_agents: ``n``.
      vocab_size: ``V``.
      exponent: ``s >= 0``; about 1 in natural language.
      sampling: Filters on what they submit, from `agents.filters.sampling`.

    Raises:
      ValueError: If a size is below 1 or the exponent is negative.
    """
    number = _positive("exponent", exponent, or_zero=True)
    return RandomPool(number, sampling, "zipf", *_sizes(num_agents, vocab_size))


def markov(
    key: jax.Array,
    num_agents: int,
    vocab_size: int,
    concentration: ArrayLike,
    *,
    sampling: filters.Sampling | None = None,
) -> TabularPool:
    """Markov chains whose rows are drawn from ``Dirichlet(c, ..., c)``, once.

    Args:
      key: A typed PRNG key; agent i depends on it and i alone.
      num_agents: ``n``.
      vocab_size: ``V``; the table takes ``n V^2`` numbers.
      concentration: ``c > 0``.
      sampling: Filters on what they submit, from `agents.filters.sampling`.

    Raises:
      ValueError: If a size is below 1 or the concentration is not positive.
    """
    number = _positive("concentration", concentration)
    num_agents, vocab_size = _sizes(num_agents, vocab_size)
    rows = jax.vmap(functools.partial(_dirichlet, number, vocab_size))
    keys = _agent_keys(key, num_agents)
    table = jax.vmap(lambda k: rows(jax.random.split(k, vocab_size)))(keys)
    if sampling is not None:
        by_row = filters.filter_logits(sampling, jnp.swapaxes(table, 0, 1))
        table = jnp.swapaxes(by_row, 0, 1)
    return TabularPool(table, 0, None)


def _dirichlet(concentration: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """Log-probabilities `(V,)`; logs of gammas do not underflow at small c."""
    logs = jax.random.loggamma(key, concentration, (size,), concentration.dtype)
    return distributions.normalize(logs)


def _zipf(exponent: jax.Array, size: int, key: jax.Array) -> jax.Array:
    ranks = jnp.arange(1, size + 1, dtype=exponent.dtype)
    logs = distributions.normalize(-exponent * jnp.log(ranks))
    return jax.random.permutation(key, logs)


def _agent_keys(key: jax.Array, num_agents: int) -> jax.Array:
    fold = jax.vmap(fold_in, (None, 0))
    return fold(key, jnp.arange(num_agents, dtype=jnp.uint32))


def _sizes(num_agents: int, vocab_size: int) -> tuple[int, int]:
    check = records.check_integer
    return check("num_agents", num_agents, 1), check("vocab_size", vocab_size, 1)


def _positive(name: str, value: ArrayLike, or_zero: bool = False) -> jax.Array:
    number = jnp.asarray(records.as_number(name, value))
    if records.is_concrete(number):
        low = float(number) >= 0 if or_zero else float(number) > 0
        if not (low and float(number) < float("inf")):
            wanted = "not be negative" if or_zero else "be positive"
            raise ValueError(f"{name} must {wanted} and be finite, got {value}")
    return number
