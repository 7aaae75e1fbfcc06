"""What is questioned: an aggregation and what goes with it, as one pytree."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.valuations import (
    forward_kl,
    reverse_kl,
    total_variation,
)

# Called as `tokenauction_jax.stable_sample` is.
Sampler = Callable[..., jax.Array]

VALUATIONS = (total_variation(), forward_kl(), reverse_kl())


@dataclasses.dataclass(frozen=True, eq=False)
class Rules:
    """An aggregation, a payment for it, and what else a property may look at.

    A pytree with the numbers of those that are pytrees as leaves; of those that are
    not, such as a user's plain object or a sampler, jit knows the identity.
    """

    aggregation: base.Aggregation
    payment: base.Payment | None = None
    valuations: Sequence[base.Valuation] = VALUATIONS
    sampler: Sampler | None = None

    def priced(self) -> base.Payment:
        """The payment, for properties that need one."""
        if self.payment is None:
            raise ValueError("there is no payment to question")
        return self.payment


class _Opaque:
    """A pytree without leaves around any object: jit knows it by its identity."""

    def __init__(self, content: Any):
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opaque) and self.content is other.content

    def __hash__(self) -> int:
        return id(self.content)


def _flatten(rules: Rules) -> tuple[list[Any], tuple[type, ...]]:
    members = [rules.aggregation, rules.payment, rules.sampler, *rules.valuations]
    children = [_Opaque(x) if jax.tree_util.all_leaves([x]) else x for x in members]
    # The tree structures of two users' classes may compare equal, their types do not.
    return children, tuple(map(type, members))


def _unflatten(_: tuple[type, ...], children: Sequence[Any]) -> Rules:
    aggregation, payment, sampler, *valuations = (
        child.content if isinstance(child, _Opaque) else child for child in children
    )
    return Rules(aggregation, payment, tuple(valuations), sampler)


jax.tree_util.register_pytree_node(
    _Opaque, lambda opaque: ((), opaque), lambda opaque, _: opaque
)
jax.tree_util.register_pytree_node(Rules, _flatten, _unflatten)
