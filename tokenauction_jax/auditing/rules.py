"""What is questioned: a rule and what goes with it, as one pytree."""

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
from tokenauction_jax.replies import ReplyMechanism

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

    def programs(self, *auction: Any) -> list[Any]:
        """Those of the payment, which may be a quadrature."""
        payment = self.payment
        if payment is None:
            return []
        return [
            jax.make_jaxpr(payment.expected)(*auction),
            jax.make_jaxpr(payment.conditional)(*auction, 0),
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class ReplyRules:
    """A rule on replies; a pytree as `Rules` is."""

    rule: ReplyMechanism

    @property
    def has_no_unit(self) -> bool:
        """Whether the rule has no number that could be money."""
        return not (jax.tree_util.all_leaves([self.rule]) or jax.tree.leaves(self.rule))

    def programs(self, *auction: Any) -> list[Any]:
        """Those of the law and of the payments."""
        methods = self.rule.log_prob, self.rule.expected
        return [jax.make_jaxpr(method)(*auction) for method in methods]


class _Opaque:
    """A pytree without leaves around any object: jit knows it by its identity."""

    def __init__(self, content: Any):
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opaque) and self.content is other.content

    def __hash__(self) -> int:
        return id(self.content)


def _children(*members: Any) -> tuple[list[Any], tuple[type, ...]]:
    children = [_Opaque(x) if jax.tree_util.all_leaves([x]) else x for x in members]
    # The tree structures of two users' classes may compare equal, their types do not.
    return children, tuple(map(type, members))


def _members(children: Sequence[Any]) -> list[Any]:
    return [x.content if isinstance(x, _Opaque) else x for x in children]


def _flatten(rules: Rules) -> tuple[list[Any], tuple[type, ...]]:
    named = rules.aggregation, rules.payment, rules.sampler
    return _children(*named, *rules.valuations)


def _unflatten(_: tuple[type, ...], children: Sequence[Any]) -> Rules:
    aggregation, payment, sampler, *valuations = _members(children)
    return Rules(aggregation, payment, tuple(valuations), sampler)


jax.tree_util.register_pytree_node(
    _Opaque, lambda opaque: ((), opaque), lambda opaque, _: opaque
)
jax.tree_util.register_pytree_node(Rules, _flatten, _unflatten)
jax.tree_util.register_pytree_node(
    ReplyRules,
    lambda rules: _children(rules.rule),
    lambda _, children: ReplyRules(*_members(children)),
)
