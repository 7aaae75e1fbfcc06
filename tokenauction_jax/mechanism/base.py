"""What an aggregation, a valuation and a payment rule must provide.

Shapes use one legend throughout the package: ``A`` auctions, ``n`` agents, ``T``
tokens of a text, ``V`` vocabulary, ``K`` samples. Rules work on *one* auction and
*one* token; `jax.vmap` makes them work on many.
"""

import dataclasses
from collections.abc import Iterable
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey
from jax.typing import ArrayLike

T = TypeVar("T")
# A leaf of a rule: a weakly typed Python float, or a (perhaps traced) scalar array.
Number = float | jax.Array


@runtime_checkable
class Aggregation(Protocol):
    """Mixes the agents' next-token distributions into the one that is drawn from.

    A rule of your own is a class with these members, decorated with `record`. A
    monotone one may bring a `stable_sample` and a `critical_bid`, which see.

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

    A rule that leaves some auctions without payments may have a method
    ``defined(bids, log_probs)`` that says which: `simulate` marks the others invalid.
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


def static_field() -> Any:
    """A field of a `record` that belongs to its tree structure."""
    return dataclasses.field(metadata={"static": True})


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(static_field,)
)
def record(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree.

    Fields are children, except those that are a `static_field`. Transformations rebuild
    a record without running its constructor.

    `jax.tree_util.register_dataclass` will not do: the tree structures that it gives to
    two classes with the same fields compare equal, so that `jit` may run the program of
    one rule for another.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    static = [field.name for field in fields if field.metadata.get("static")]

    def flatten(tree: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(GetAttrKey(name), getattr(tree, name)) for name in leaves]
        return children, tuple(getattr(tree, name) for name in static)

    def unflatten(structure: tuple[Any, ...], children: Iterable[Any]) -> T:
        tree = object.__new__(cls)
        for name, value in zip(leaves + static, (*children, *structure), strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@record
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
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}"
                )
        priced = getattr(self.payment, "aggregation", None)
        if priced is None:
            return
        if type(priced) is not type(self.aggregation):
            raise ValueError(
                f"payment {self.payment.name!r} was built for {priced.name!r}, but the "
                f"aggregation is {self.aggregation.name!r}; build both from one rule"
            )
        for mine, theirs in zip(
            jax.tree.leaves(self.aggregation), jax.tree.leaves(priced), strict=True
        ):
            if is_concrete(mine, theirs) and not np.array_equal(mine, theirs):
                raise ValueError(
                    f"payment {self.payment.name!r} was built for {priced}, but the "
                    f"aggregation is {self.aggregation}; build both from one rule"
                )


def is_concrete(*values: Any) -> bool:
    """Whether every value can be looked at now, outside any transformation."""
    return not any(isinstance(value, Tracer) for value in values)


def as_number(name: str, value: ArrayLike) -> Number:
    """A scalar leaf: Python and NumPy numbers become floats, arrays stay.

    Floats stay weakly typed, so that a rule never decides the dtype of an auction.
    """
    wrong = f"{name} must be a real scalar, got {value!r}"
    if isinstance(value, jax.Array):
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
            raise ValueError(wrong)
        floating = jnp.issubdtype(value.dtype, jnp.floating)
        return value if floating else value.astype(float)
    if isinstance(value, str):
        raise ValueError(wrong)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(wrong) from None


def check_shape(name: str, value: Any, shape: tuple[int | None, ...]) -> None:
    """Raises `ValueError` unless `value` has `shape`, where None matches any size."""
    try:
        chex.assert_shape(value, shape)
    except AssertionError:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        comma = "," if len(shape) == 1 else ""
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, expected ({wanted}{comma})"
        ) from None


def check_bids(bids: ArrayLike) -> jax.Array:
    """The bids of one auction as floats `(n,)`, checked as far as they are known.

    Raises:
      ValueError: If the shape is wrong or, for concrete bids, if one is negative or
        not finite, or if they do not have a positive and finite sum.
    """
    bids = _as_float(bids)
    check_shape("bids", bids, (None,))
    if is_concrete(bids):
        check_bid_values(np.asarray(bids))
    return bids


def check_bid_values(bids: np.ndarray) -> None:
    """Raises `ValueError` unless all bids `(..., n)` make a defined auction."""
    wrong = ~(np.isfinite(bids) & (bids >= 0))
    if wrong.any():
        where = ", ".join(str(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"bids must be finite and not negative, got {bids[wrong][0]} at [{where}]"
        )
    total = bids.sum(axis=-1)
    if not (np.isfinite(total) & (total > 0)).all():
        raise ValueError(
            "bids of an auction must have a positive, finite sum, got "
            f"{total[~(np.isfinite(total) & (total > 0))].flat[0]}"
        )


def check_auction(bids: ArrayLike, log_probs: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """One auction's bids `(n,)` and log-probabilities `(n, V)` in one float dtype."""
    bids, log_probs = check_bids(bids), _as_float(log_probs)
    check_shape("log_probs", log_probs, (bids.shape[0], None))
    dtype = jnp.result_type(bids, log_probs)
    return bids.astype(dtype), log_probs.astype(dtype)


def check_path(
    agent: ArrayLike, own_bids: ArrayLike, bids: ArrayLike, log_probs: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Own bids `(k,)` of an agent, bids `(n,)` and log-probabilities, in one dtype.

    The agent's entry of `bids` is not looked at.
    """
    own_bids, bids, log_probs = map(_as_float, (own_bids, bids, log_probs))
    check_shape("own_bids", own_bids, (None,))
    check_shape("bids", bids, (None,))
    check_shape("log_probs", log_probs, (bids.shape[0], None))
    if is_concrete(agent) and not 0 <= np.asarray(agent) < bids.shape[0]:
        raise ValueError(f"agent must be in [0, {bids.shape[0]}), got {agent}")
    if is_concrete(own_bids):
        wrong = ~(np.isfinite(own_bids) & (np.asarray(own_bids) >= 0))
        if wrong.any():
            raise ValueError(
                "own_bids must be finite and not negative, got "
                f"{np.asarray(own_bids)[wrong][0]}"
            )
    dtype = jnp.result_type(own_bids, bids, log_probs)
    return own_bids.astype(dtype), bids.astype(dtype), log_probs.astype(dtype)


def check_token(token: ArrayLike, log_probs: ArrayLike) -> jax.Array:
    """One token id of the vocabulary of `log_probs` `(n, V)`, an integer scalar."""
    token = jnp.asarray(token)
    check_shape("token", token, ())
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise ValueError(f"token must be an integer, got dtype {token.dtype}")
    size = jnp.shape(log_probs)[-1]
    if is_concrete(token) and not 0 <= int(token) < size:
        raise ValueError(f"token must be in [0, {size}), got {token}")
    return token


def check_defined(defined: jax.Array, bids: jax.Array) -> None:
    """Raises `ValueError` naming the agents if the auction is known to be undefined."""
    if is_concrete(defined, bids) and not bool(defined):
        agents = np.flatnonzero(np.asarray(bids) > 0).tolist()
        raise ValueError(
            f"undefined auction: agents {agents} bid but share no token that all of "
            "them can produce; widen their sampling (a larger top_k, no top_p), use "
            "linear, or drop a bidder"
        )


def _as_float(x: ArrayLike) -> jax.Array:
    """At least float32: half precision has too few digits for any formula here."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
