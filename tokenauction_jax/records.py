"""Records: frozen dataclasses that are pytrees, and checks of what goes into them.

Shapes use one legend throughout the package: ``A`` auctions, ``n`` agents, ``T``
tokens of a text, ``V`` vocabulary, ``K`` samples.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

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


def static_field(default: Any = dataclasses.MISSING) -> Any:
    """A field of a `record` that belongs to its tree structure."""
    return dataclasses.field(default=default, metadata={"static": True})


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


def check_rule(name: str, rule: object, protocol: type) -> None:
    """Raises `ValueError` naming the argument unless it has the protocol's members."""
    if isinstance(rule, type):
        raise ValueError(
            f"{name} must follow {protocol.__name__}, got the class {rule.__name__}: "
            f"give one of it, {rule.__name__}(...)"
        )
    if not isinstance(rule, protocol):
        lacks = ", ".join(map(repr, missing_members(rule, protocol)))
        raise ValueError(
            f"{name} must follow {protocol.__name__}, got {rule!r}, which lacks {lacks}"
        )


def missing_members(rule: object, protocol: type) -> list[str]:
    """What a rule lacks of a protocol."""
    members = sorted(set(dir(protocol)) | set(protocol.__annotations__))
    return [x for x in members if not x.startswith("_") and not hasattr(rule, x)]


def check_record(name: str, value: Any) -> None:
    """Raises `ValueError` unless an object is a pytree of its numbers."""
    if jax.tree_util.all_leaves([value]):
        raise ValueError(
            f"{name} is not a pytree: decorate its class with tokenauction_jax.record"
        )


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number, or `ValueError` if it is none or out of its bounds."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ValueError(f"{name} must be an integer {bounds}, got {value!r}")


def check_key(key: Any) -> None:
    """Raises `ValueError` unless `key` is a typed PRNG key."""
    if not jnp.issubdtype(getattr(key, "dtype", np.dtype(object)), jax.dtypes.prng_key):
        raise ValueError("key must be a typed PRNG key, as jax.random.key(0) makes")


def check_agent(name: str, value: ArrayLike, num_agents: int | None = None) -> Any:
    """The number of an agent, which may be traced, or `ValueError` if it is none."""
    if isinstance(value, jax.Array) and not is_concrete(value):
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(f"{name} must be an integer, got {value!r}")
        return value
    most = None if num_agents is None else num_agents - 1
    number = np.asarray(value)
    plain = number.item() if number.ndim == 0 else value
    return check_integer(name, plain, 0, most)


def check_shape(
    name: str, value: Any, shape: tuple[int | None, ...], meaning: str = ""
) -> None:
    """Raises `ValueError` unless `value` has `shape`, where None matches any size.

    Its `meaning`, if that is not clear, follows in the message.
    """
    try:
        chex.assert_shape(value, shape)
    except AssertionError:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        comma = "," if len(shape) == 1 else ""
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, expected ({wanted}{comma})"
            + f": {meaning}" * bool(meaning)
        ) from None


def auction_numbers(first_auction: ArrayLike, num_auctions: int) -> jax.Array:
    """Numbers ``first_auction, first_auction + 1, ...`` `(A,)`, uint32.

    Raises:
      ValueError: As `check_first_auction`.
    """
    first = check_first_auction(first_auction, num_auctions)
    return jnp.asarray(first) + jnp.arange(num_auctions, dtype=jnp.uint32)


def check_first_auction(first_auction: ArrayLike, num_auctions: int) -> ArrayLike:
    """The number of the first auction, a uint32 scalar, on no device if it is known.

    Raises:
      ValueError: If it (as far as it is known) is no integer, is negative, or the last
        number would be 2**32 or more.
    """
    if not is_concrete(first_auction):
        return jnp.asarray(first_auction, jnp.uint32)
    first = np.asarray(first_auction)
    whole = first.ndim == 0 and np.issubdtype(first.dtype, np.integer)
    if not whole or not 0 <= int(first) <= 2**32 - num_auctions:
        raise ValueError(
            "first_auction must be an integer in [0, 2**32 - num_auctions], got "
            f"{first_auction!r} with {num_auctions} auctions"
        )
    return np.uint32(first)


def describe(rule: Any) -> str:
    """A record in a few words, such as ``power_mean(order=0.5)`` or ``clarke``.

    Its name, its numbers, and the names of records inside it; an influence of 1, the
    default, is left out, as is the aggregation that a payment was built for.
    """
    parts = []
    for field in dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ():
        value = getattr(rule, field.name)
        if isinstance(value, float | int | jax.Array) and jnp.ndim(value) == 0:
            parts.append(f"{field.name}={float(value):g}")
        elif field.name != "aggregation" and isinstance(
            name := getattr(value, "name", None), str
        ):
            parts.append(name)
    shown = [part for part in parts if part != "influence=1"]
    name = getattr(rule, "name", type(rule).__name__)
    return f"{name}({', '.join(shown)})" if shown else name
