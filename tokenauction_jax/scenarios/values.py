"""What the agents of an auction value a text at, and what they bid for it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from tokenauction_jax import records
from tokenauction_jax.scenarios import kinds
from tokenauction_jax.scenarios.numbers import LARGEST, SMALLEST
from tokenauction_jax.scenarios.scenario import ScenarioError, shifted_bids

# Tells the randomness of values from that of the auctions under the same seed.
_VALUES = 0x76616C75


def draw_values(
    values: kinds.Values,
    seed: int,
    num_agents: int,
    first_auction: int,
    num_auctions: int,
) -> np.ndarray:
    """True values `(A, n)`, money per unit of valuation, in JAX's precision.

    The value of agent i in auction k depends on the seed, k and i alone.
    """
    dtype = jnp.result_type(float)
    n, shape = num_agents, (num_auctions, num_agents)
    if isinstance(values, kinds.GivenValues):
        numbers = np.arange(first_auction, first_auction + num_auctions)
        return _given("values", values.amounts, numbers, numbers, shape)
    if isinstance(values, kinds.FixedValues | kinds.SharedValues):
        return np.broadcast_to(_fixed(values, n).astype(dtype), shape)
    bits = _words(np.uint32(seed), first_auction, num_auctions, n)
    words = np.asarray(bits, np.float64)
    # Here and in double precision: XLA rounds a normal by the shape of its batch.
    z = special.ndtri((words[..., 0] + (words[..., 1] + 0.5) * 2.0**-32) * 2.0**-32)
    c = values.correlation
    z = np.sqrt(c) * z[:, :1] + np.sqrt(1 - c) * z[:, 1:]
    # The few that float32 would lose are told apart from 0.
    drawn = np.clip(_of_normal(values, z), SMALLEST, LARGEST)
    return drawn.astype(dtype)


def extremes(values: kinds.Values, num_agents: int) -> np.ndarray | None:
    """The least and the largest values of agents `(2, n)`, None if they are given.

    One draw in 700 is smaller, and one in 10^10 larger.
    """
    if isinstance(values, kinds.GivenValues):
        return None
    if isinstance(values, kinds.FixedValues | kinds.SharedValues):
        return np.broadcast_to(_fixed(values, num_agents), (2, num_agents))
    ends = _of_normal(values, np.array([[-3.0], [6.4]]))
    return np.broadcast_to(ends, (2, num_agents))


def _fixed(values: kinds.FixedValues | kinds.SharedValues, n: int) -> np.ndarray:
    """The values `(n,)` of every auction, or the one number that they all are."""
    if isinstance(values, kinds.FixedValues):
        return np.asarray(values.amounts, np.float64)
    rest = (1 - values.share) / (n - 1)
    return values.total * np.array([values.share, *[rest] * (n - 1)])


def _of_normal(
    values: kinds.LogNormalValues | kinds.UniformValues | kinds.GammaValues,
    z: np.ndarray,
) -> np.ndarray:
    """Values from standard normal numbers."""
    if isinstance(values, kinds.LogNormalValues):
        return values.median * np.exp(values.sigma * z)
    if isinstance(values, kinds.UniformValues):
        return values.low + (values.high - values.low) * special.ndtr(z)
    quantile = special.gammaincinv(values.shape, special.ndtr(z))
    return values.mean / values.shape * quantile


def make_bids(
    bids: kinds.Bids,
    values: np.ndarray,
    first_auction: int = 0,
    influence: float = 1.0,
) -> np.ndarray:
    """Bids `(A, n)` of agents with these values.

    Args:
      bids: What they bid.
      values: `(A, n)`, whose precision bids have.
      first_auction: The number of the first of these auctions.
      influence: The exponent on the bids of the cell's rule.

    Raises:
      ScenarioError: If a user's function returns anything else than finite amounts.
    """
    if isinstance(bids, kinds.WeightBids):
        amounts = shifted_bids(np.asarray(bids.amounts), bids.weight, influence)
        return np.broadcast_to(amounts.astype(values.dtype), values.shape)
    if isinstance(bids, kinds.GivenBids):
        numbers = np.arange(first_auction, first_auction + len(values))
        return _given("bids", bids.amounts, values, numbers, values.shape)
    if isinstance(bids, kinds.FixedBids):
        return np.broadcast_to(np.asarray(bids.amounts, values.dtype), values.shape)
    if isinstance(bids, kinds.EquilibriumBids):
        raise ScenarioError("bids: an equilibrium is found when agents are loaded")
    if isinstance(bids, kinds.TruthfulBids):
        return values
    if isinstance(bids, kinds.CappedBids):
        return np.minimum(values, np.asarray(bids.cap, values.dtype))
    factors = np.ones(values.shape[1], values.dtype)
    factors[slice(None) if bids.agents is None else list(bids.agents)] = bids.factor
    return values * factors


def _given(
    name: str, amounts: Any, argument: np.ndarray, numbers: np.ndarray, shape: Any
) -> np.ndarray:
    """Amounts `(A, n)` of a user's table or function.

    Raises:
      ScenarioError: If a function returns anything else than finite amounts.
    """
    if not callable(amounts):
        return amounts[numbers].astype(jnp.result_type(float))
    called = getattr(amounts, "__name__", type(amounts).__name__)
    try:
        found = np.asarray(amounts(argument))
    except Exception as error:  # Whatever the user's function raises.
        reason = f"{type(error).__name__}: {error}"
        raise ScenarioError(f"{name}: {called} raised {reason}") from error
    if found.shape != shape:
        wrong = f"has shape {found.shape}, expected {shape}"
    else:
        wrong = kinds.find_wrong_amount(found)
    if wrong:
        raise ScenarioError(f"{name}: what {called} returned {wrong}")
    return found.astype(jnp.result_type(float))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _words(
    seed: Any, first_auction: Any, num_auctions: int, num_agents: int
) -> jax.Array:
    """Random bits `(A, 1 + n, 2)`: what the agents of an auction share, and own."""
    key = jax.random.fold_in(jax.random.key(seed), _VALUES)
    numbers = records.auction_numbers(first_auction, num_auctions)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    own = jnp.arange(1 + num_agents, dtype=jnp.uint32)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32)))
    return draw(jax.vmap(lambda key: fold(key, own))(fold(key, numbers)))
