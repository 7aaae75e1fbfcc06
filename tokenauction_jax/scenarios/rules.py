"""The rules of an auction as a file or a study has them: by name, or as objects."""

import dataclasses
from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

from tokenauction_jax import records
from tokenauction_jax.mechanism import Aggregation, Mechanism, Payment, Valuation
from tokenauction_jax.outside import quoted
from tokenauction_jax.scenarios import names, objects
from tokenauction_jax.scenarios.numbers import STRICT, Influence, Order
from tokenauction_jax.scenarios.validation import nearest


def _check_aggregation(given: Any) -> Any:
    return _check(given, Aggregation, names.AGGREGATIONS)


def _check_payment(given: Any) -> Any:
    return _check(given, Payment, names.PAYMENTS)


def _check(given: Any, kind: type, known: tuple[str, ...]) -> Any:
    """A name that may be one of a rule, or an object that is one."""
    if isinstance(given, kind) and not isinstance(given, type):
        return given
    if not isinstance(given, str):
        message = "should be {kind} or the name of one"
        kinds = f"an {kind.__name__}" if kind is Aggregation else f"a {kind.__name__}"
        raise PydanticCustomError("own", message, {"kind": kinds})
    bases = dict.fromkeys(name.partition("(")[0] for name in known)
    if not objects.is_reference(given) and given.partition("(")[0] not in bases:
        hint = nearest(given, known, "choices")
        message = "no {given} here, {hint}"
        raise PydanticCustomError(
            "own", message, {"given": quoted(given), "hint": hint}
        )
    return given


def _check_valuation(given: Any) -> Any:
    return _check(given, Valuation, names.VALUATIONS)


# A valuation by name, as ``FILE.py:NAME``, or the object.
ValuationName = Annotated[Any, pydantic.AfterValidator(_check_valuation)]


def as_rule(given: Any) -> Any:
    """The section that a rule's name, or a `Mechanism`, is short for."""
    if isinstance(given, str):
        return {"aggregation": given}
    if isinstance(given, Mechanism):
        return {"aggregation": given.aggregation, "payment": given.payment}
    return given


@dataclasses.dataclass(frozen=True)
class Rule:
    """An aggregation and its payment.

    Attributes:
      aggregation: By name, such as ``linear`` or ``power_mean(0.5)``, as
        ``FILE.py:NAME`` (which may be a whole `Mechanism`), or the object.
      payment: Likewise; by default the truthful one of a built-in aggregation. Under a
        name, ``FILE.py:NAME`` may be a function of the aggregation.
      order: Of ``power_mean``, if it is not in the name.
      influence: Exponent on the bids, of a built-in aggregation.
    """

    __pydantic_config__ = STRICT
    aggregation: Annotated[Any, pydantic.AfterValidator(_check_aggregation)]
    payment: Annotated[
        Any, pydantic.AfterValidator(lambda x: None if x is None else _check_payment(x))
    ] = None
    order: Order | None = None
    influence: Influence = 1.0

    @property
    def name(self) -> str:
        """The rule as shown in tables, such as ``power_mean(0.5)``."""
        if not isinstance(self.aggregation, str):
            return records.describe(self.aggregation)
        numbers = [f"{self.order:g}"] if self.order is not None else []
        numbers += [f"influence={self.influence:g}"] if self.influence != 1 else []
        return self.aggregation + (f"({', '.join(numbers)})" if numbers else "")

    @property
    def references(self) -> list[str]:
        """The ``FILE.py:NAME`` among its parts."""
        given = (self.aggregation, self.payment)
        named = [part for part in given if isinstance(part, str)]
        return [found for name in named for found in names.references(name)]

    def build(self) -> Mechanism:
        """The mechanism.

        Raises:
          RuleError: If a name leads nowhere, or the payment is not defined for the
            aggregation.
        """
        try:
            return self._build()
        except ValueError as error:
            raise names.RuleError(f"rule {quoted(self.name)}: {error}") from None

    def _build(self) -> Mechanism:
        aggregation, payment = self._aggregation(), self.payment
        if isinstance(aggregation, Mechanism):
            if payment is not None:
                raise ValueError("has a payment already, and is given another")
            return aggregation
        if payment is None and isinstance(self.aggregation, str):
            payment = names.default_payment(self.aggregation)
        if payment is None:
            raise ValueError('has no default payment; name one, e.g. "pay_your_bid"')
        if isinstance(payment, str):
            payment = names.payment(payment, aggregation)
        for part in (aggregation, payment):
            names.check_record(part.name, part)
        return Mechanism(aggregation, payment)

    def _aggregation(self) -> Aggregation | Mechanism:
        numbers = {} if self.order is None else {"order": self.order}
        numbered = bool(numbers) or self.influence != 1
        if not isinstance(self.aggregation, str):
            if numbered:
                raise ValueError("sets its own numbers: leave out order and influence")
            return self.aggregation
        if objects.is_reference(self.aggregation) and not numbered:
            return names.mechanism_or_aggregation(self.aggregation)
        return names.aggregation(self.aggregation, self.influence, **numbers)
