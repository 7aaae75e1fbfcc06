"""What an aggregation, a valuation and a payment rule must provide.

Shapes use one legend throughout the package: ``A`` auctions, ``n`` agents, ``T``
tokens of a text, ``V`` vocabulary, ``K`` samples. Rules work on *one* auction and
*one* token; `jax.vmap` makes them work on many.
"""

from typing import (
    ClassVar,
    Protocol,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records

# The range of bids, whatever the currency: prices of a millionth of a bid, and sums of
# bids times a large divergence, still are numbers of a float32.
SMALLEST_BID, LARGEST_BID = 1e-30, 1e30


@runtime_checkable
class Aggregation(Protocol):
    """Mixes the agents' next-token distributions into the one that is drawn from.

    A rule of your own is a class with these members, decorated with `record`. It may
    also have those of `SupportsInfluence` and `SupportsSample`, and a monotone one
    those of `SupportsStableSample` and `SupportsCriticalBid`. Each rule may say that it
    `SupportsNeutrality`.

    Attributes:
      name: The rule's name in tables and files.
      monotone: Whether a higher own bid always gives a robustly (weakly) preferred
        distribution; only then does a second price exist.
    """

    name: ClassVar[str]
    monotone: ClassVar[bool]

    def weights(self, bids: ArrayLike) -> jax.Array:
        """Influence of each agent, `(n,)`, non-negative and summing to one."""
        ...

    def log_prob(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """Log-probabilities `(V,)` of the aggregate of `log_probs` `(n, V)`."""
        ...


@runtime_checkable
class Valuation(Protocol):
    """How much an agent likes the distribution a token is drawn from."""

    name: ClassVar[str]

    def value(self, log_q: ArrayLike, log_p: ArrayLike) -> jax.Array:
        """Value, at most 0, of `log_q` `(V,)` to an agent preferring `log_p`."""
        ...


@runtime_checkable
class Payment(Protocol):
    """What each agent pays for one token.

    A rule that leaves some auctions without payments is also a `SupportsDefined`, one
    that was built for an aggregation a `SupportsAggregation`, one that draws nothing a
    `SupportsCertainty`, and one that takes logits a `SupportsShift`.
    """

    name: ClassVar[str]

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """Expectation of the payments `(n,)` before the token is drawn."""
        ...

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """Expectation of the payments `(n,)` given the drawn token."""
        ...

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """Payments `(n,)` actually charged, a draw given the token."""
        ...


@runtime_checkable
class SupportsInfluence(Protocol):
    """An aggregation whose weights are ``b_i^influence / sum_j b_j^influence``."""

    @property
    def influence(self) -> records.Number:
        """The exponent; quadratures along an agent's bid are spaced by it."""
        ...


@runtime_checkable
class SupportsSample(Protocol):
    """An aggregation that draws without the log-probabilities of all tokens."""

    def sample(
        self, key: jax.Array, bids: jax.Array, log_probs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """A token of the aggregate, and its log-probability: two scalars.

        The log-probability is ``-inf`` or NaN in undefined auctions, and has the
        derivatives of ``log_prob(bids, log_probs)[token]``.
        """
        ...


@runtime_checkable
class SupportsLogits(Protocol):
    """An aggregation that draws from logits as they are."""

    def sample_from_logits(
        self, key: jax.Array, bids: jax.Array, logits: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What `SupportsSample.sample` would draw from the agents' softmax.

        Args:
          key: A typed PRNG key.
          bids: `(n,)`.
          logits: `(n, V)`, of which each agent's largest is 0.
        """
        ...


@runtime_checkable
class SupportsStableSample(Protocol):
    """A monotone aggregation with a stable sampler of its own."""

    def stable_sample(
        self,
        key: jax.Array,
        agent: ArrayLike,
        own_bids: jax.Array,
        bids: jax.Array,
        log_probs: jax.Array,
    ) -> jax.Array:
        """Tokens `(k,)` at own bids `(k,)`, as `tokenauction_jax.stable_sample`."""
        ...


@runtime_checkable
class SupportsCriticalBid(Protocol):
    """A monotone aggregation that draws critical bids itself."""

    def critical_bid(
        self,
        key: jax.Array,
        agent: ArrayLike,
        bids: jax.Array,
        log_probs: jax.Array,
        token: jax.Array,
    ) -> jax.Array:
        """A scalar in money, as `tokenauction_jax.critical_bid`."""
        ...


@runtime_checkable
class SupportsCertainty(Protocol):
    """A payment that says whether it is known once the token is."""

    @property
    def deterministic(self) -> bool:
        """Whether `realized` is `conditional`, which then is computed once for both."""
        ...


@runtime_checkable
class SupportsDefined(Protocol):
    """A payment that leaves some auctions without a price."""

    def defined(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """Whether the auction has payments, a boolean scalar.

        `simulate` marks those that have none as not valid.
        """
        ...


@runtime_checkable
class SupportsChance(Protocol):
    """A payment that draws something whose chances depend on numbers."""

    def log_chance(
        self,
        bids: ArrayLike,
        log_probs: ArrayLike,
        token: ArrayLike,
        payments: ArrayLike,
    ) -> jax.Array:
        """How likely, given the token, was what made these payments: a log, a scalar.

        Its derivative, that of the payments for what was drawn, and that of the token's
        log-probability make the derivatives of whole texts unbiased.
        """
        ...


@runtime_checkable
class SupportsAggregation(Protocol):
    """A payment that prices the tokens of one aggregation only."""

    @property
    def aggregation(self) -> Aggregation:
        """The rule that it was built for, which a `Mechanism` compares with its own."""
        ...


@records.record
class Mechanism:
    """An aggregation and the payment that goes with it.

    Args:
      aggregation: The rule the token is drawn from.
      payment: The rule that charges for it.

    Raises:
      ValueError: If the payment was built for another class of aggregation, or for
        the same class with other (concrete) numbers.
    """

    aggregation: Aggregation
    payment: Payment

    def __post_init__(self) -> None:
        for name, kind in (("aggregation", Aggregation), ("payment", Payment)):
            records.check_rule(name, getattr(self, name), kind)
            records.check_record(name, getattr(self, name))
        if not isinstance(self.payment, SupportsAggregation):
            return
        priced = self.payment.aggregation
        if type(priced) is not type(self.aggregation):
            raise ValueError(
                f"payment {self.payment.name!r} was built for {priced.name!r}, but the "
                f"aggregation is {self.aggregation.name!r}; build both from one rule"
            )
        for mine, theirs in zip(
            jax.tree.leaves(self.aggregation), jax.tree.leaves(priced), strict=True
        ):
            if records.is_concrete(mine, theirs) and not np.array_equal(mine, theirs):
                raise ValueError(
                    f"payment {self.payment.name!r} was built for {priced}, but the "
                    f"aggregation is {self.aggregation}; build both from one rule"
                )


def check_bids(bids: ArrayLike) -> jax.Array:
    """The bids of one auction as floats `(n,)`, checked as far as they are known.

    Under a transformation bids below `SMALLEST_BID` become 0.

    Raises:
      ValueError: If the shape is wrong or, for concrete bids, if one is negative, not
        finite, or neither 0 nor from `SMALLEST_BID` to `LARGEST_BID`, or if all are 0.
    """
    bids = as_float(bids)
    records.check_shape("bids", bids, (None,))
    if records.is_concrete(bids):
        check_bid_values(np.asarray(bids))
    return _without_dust(bids)


def check_bid_values(bids: np.ndarray) -> None:
    """Raises `ValueError` unless all bids `(..., n)` make a defined auction."""
    check_amounts("bids", bids)
    if not (bids > 0).any(axis=-1).all():
        raise ValueError("bids of an auction must have a positive sum, got only zeros")


def check_amounts(name: str, amounts: np.ndarray) -> None:
    """Raises `ValueError` unless each is 0 or within the range of bids."""
    wrong = ~(np.isfinite(amounts) & (amounts >= 0))
    rule = "finite and not negative"
    if not wrong.any():
        wrong = (amounts > LARGEST_BID) | ((amounts > 0) & (amounts < SMALLEST_BID))
        rule = f"0 or from {SMALLEST_BID:g} to {LARGEST_BID:g}"
    if wrong.any():
        where = ", ".join(str(index) for index in np.argwhere(wrong)[0])
        raise ValueError(f"{name} must be {rule}, got {amounts[wrong][0]} at [{where}]")


def bids_define_auction(bids: jax.Array) -> jax.Array:
    """Whether bids `(n,)` are in range and not all 0, a boolean scalar."""
    return ((bids >= 0) & (bids <= LARGEST_BID)).all() & (bids > 0).any()


def check_auction(bids: ArrayLike, log_probs: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """One auction's bids `(n,)` and log-probabilities `(n, V)` in one float dtype."""
    bids, log_probs = check_bids(bids), as_float(log_probs)
    _check_rows(log_probs, bids)
    if records.is_concrete(log_probs):
        check_distributions(np.asarray(log_probs))
    dtype = jnp.result_type(bids, log_probs)
    return bids.astype(dtype), log_probs.astype(dtype)


def _check_rows(log_probs: jax.Array, bids: jax.Array) -> None:
    num_agents = bids.shape[0]
    meaning = f"one row for each of {num_agents} bids"
    records.check_shape("log_probs", log_probs, (num_agents, None), meaning)


def check_path(
    agent: ArrayLike, own_bids: ArrayLike, bids: ArrayLike, log_probs: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Own bids `(k,)` of an agent, bids `(n,)` and log-probabilities, in one dtype.

    The agent's entry of `bids` is not looked at.
    """
    own_bids, bids, log_probs = map(as_float, (own_bids, bids, log_probs))
    records.check_shape("own_bids", own_bids, (None,))
    records.check_shape("bids", bids, (None,))
    _check_rows(log_probs, bids)
    if records.is_concrete(agent) and not 0 <= np.asarray(agent) < bids.shape[0]:
        raise ValueError(f"agent must be in [0, {bids.shape[0]}), got {agent}")
    if records.is_concrete(own_bids):
        check_amounts("own_bids", np.asarray(own_bids))
    if records.is_concrete(bids, agent):
        others = np.arange(bids.shape[0]) != np.asarray(agent)
        check_amounts("bids", np.where(others, bids, 0))
    if records.is_concrete(log_probs):
        check_distributions(np.asarray(log_probs))
    dtype = jnp.result_type(own_bids, bids, log_probs)
    own_bids, bids = _without_dust(own_bids), _without_dust(bids)
    return own_bids.astype(dtype), bids.astype(dtype), log_probs.astype(dtype)


def check_token(token: ArrayLike, log_probs: ArrayLike) -> jax.Array:
    """One token id of the vocabulary of `log_probs` `(n, V)`, an integer scalar."""
    token = jnp.asarray(token)
    records.check_shape("token", token, ())
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise ValueError(f"token must be an integer, got dtype {token.dtype}")
    size = jnp.shape(log_probs)[-1]
    if records.is_concrete(token) and not 0 <= int(token) < size:
        raise ValueError(f"token must be in [0, {size}), got {token}")
    return token


def check_defined(defined: jax.Array, bids: jax.Array) -> None:
    """Raises `ValueError` naming the agents if the auction is known to be undefined."""
    if records.is_concrete(defined, bids) and not bool(defined):
        agents = np.flatnonzero(np.asarray(bids) > 0).tolist()
        raise ValueError(
            f"undefined auction: agents {agents} bid but share no token that all of "
            "them can produce; widen their sampling (a larger top_k, no top_p), use "
            "linear, or drop a bidder"
        )


def check_distributions(log_probs: np.ndarray) -> None:
    """Raises `ValueError` naming the first row `(..., V)` that is no distribution."""
    with np.errstate(over="ignore", invalid="ignore"):
        totals = np.exp(log_probs.astype(np.float64)).sum(axis=-1)
    wrong = ~(np.abs(totals - 1) < 1e-3)
    if wrong.any():
        index = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"log_probs{index} must be logs of probabilities summing to 1, got sum "
            f"{totals[tuple(index)]:.6g}; normalise with jax.nn.log_softmax"
        )


def check_logs(name: str, log_probs: jax.Array) -> None:
    """Raises `ValueError` for concrete numbers that are no logs of probabilities.

    Of outcomes, which may be ``-inf`` throughout.
    """
    if records.is_concrete(log_probs):
        found = np.asarray(log_probs)
        wrong = ~(found <= 1e-3)
        if wrong.any():
            index = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"{name} must be logs of probabilities, at most 0, got "
                f"{found[wrong][0]} at {index}"
            )


def _without_dust(bids: jax.Array) -> jax.Array:
    """Bids below the range are 0; those that are 0 keep their derivative."""
    return jnp.where((bids > 0) & (bids < SMALLEST_BID), 0, bids)


def as_float(x: ArrayLike) -> jax.Array:
    """At least float32: half precision has too few digits for any formula here."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
