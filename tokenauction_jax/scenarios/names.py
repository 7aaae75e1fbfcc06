"""Rules by name, for commands, scenarios and studies: a new one is a row of a table.

Wherever a name stands, ``FILE.py:NAME`` refers to an object of your own.
"""

import difflib
import functools
import pathlib
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tokenauction_jax import mechanism, records, replies
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.mechanism import Aggregation, Mechanism, Payment, Valuation
from tokenauction_jax.outside import OutsideError, quoted
from tokenauction_jax.replies import ReplyMechanism, TextAuction
from tokenauction_jax.scenarios import objects, validation
from tokenauction_jax.scenarios.numbers import Influence, Order, Tau


class RuleError(OutsideError):
    """A name that is not a rule, with what to write instead in one line."""


class _Aggregation(NamedTuple):
    """A built-in aggregation.

    Attributes:
      make: Called with `parameter`, if it has one, and the influence.
      payment: Its truthful payment, None if the user has to choose.
      parameter: The number that is written in brackets, such as ``power_mean(0.5)``.
      example: A value of it, for messages and default audits.
    """

    make: Callable[..., Aggregation]
    payment: str | None = None
    parameter: str | None = None
    example: str | None = None


_AGGREGATIONS = {
    "linear": _Aggregation(mechanism.linear, "second_price"),
    "log_linear": _Aggregation(mechanism.log_linear, "clarke"),
    "power_mean": _Aggregation(mechanism.power_mean, None, "order", "0.5"),
}
_VALUATIONS: dict[str, Callable[[], Valuation]] = {
    "total_variation": mechanism.total_variation,
    "forward_kl": mechanism.forward_kl,
    "reverse_kl": mechanism.reverse_kl,
}
# Each is called with the aggregation, and with a valuation if it takes one in brackets.
_PAYMENTS: dict[str, Callable[..., Payment]] = {
    "pay_your_bid": lambda rule: mechanism.pay_your_bid(),
    "second_price": mechanism.second_price,
    "clarke": mechanism.clarke,
}
_PAYMENTS_OF_A_VALUATION: dict[str, Callable[..., Payment]] = {
    "myerson": mechanism.myerson,
}


class _ReplyRule(NamedTuple):
    """A built-in rule on whole replies.

    Attributes:
      make: Called with `parameter`, if it has one.
      parameter: The number that is written in brackets, such as ``mosaic(0.5)``.
      default: Its value without brackets.
    """

    make: Callable[..., ReplyMechanism]
    parameter: str | None = None
    default: str = ""


_REPLY_RULES = {
    "mosaic": _ReplyRule(replies.mosaic, "tau", "1"),
    "best_of": _ReplyRule(replies.best_of),
    "single_winner": _ReplyRule(replies.single_winner),
}

# By their names in brackets and in files.
_NUMBERS = {"influence": Influence, "order": Order, "tau": Tau}

# The keys of files under which a name may be a reference.
REFERENCE_KEYS = ("aggregation", "payment", "mechanism", "valuation", "pool")

AGGREGATIONS = tuple(
    f"{name}({row.example})" if row.parameter else name
    for name, row in _AGGREGATIONS.items()
)
REPLY_RULES = tuple(
    f"{name}({row.default})" if row.parameter else name
    for name, row in _REPLY_RULES.items()
)
VALUATIONS = tuple(_VALUATIONS)
PAYMENTS = (
    *_PAYMENTS,
    *(f"{name}({v})" for name in _PAYMENTS_OF_A_VALUATION for v in _VALUATIONS),
)


def aggregation(name: str, influence: float = 1.0, **numbers: float) -> Aggregation:
    """The aggregation called `name`.

    Args:
      name: Such as ``linear``, ``power_mean(0.5)`` or ``FILE.py:NAME``.
      influence: The exponent on the bids, of a built-in rule.
      **numbers: The rule's parameter by its name, instead of in brackets.

    Raises:
      RuleError: If there is none, or it is not an aggregation.
    """
    if objects.is_reference(name):
        if influence != 1 or numbers:
            given = ", ".join(["influence"] * (influence != 1) + list(numbers))
            raise RuleError(f"{quoted(name)} sets its own numbers: leave out {given}")
        return _own(name, Aggregation)
    base, argument = _split(name)
    row = _AGGREGATIONS.get(base)
    if row is None or (argument is not None and row.parameter is None):
        raise RuleError(unknown("an aggregation", name, AGGREGATIONS))
    if argument is not None and row.parameter is not None:
        numbers = {row.parameter: _number(name, argument)} | numbers
    for number in numbers:
        if number != row.parameter:
            takers = [x for x, other in _AGGREGATIONS.items() if other.parameter]
            raise RuleError(
                f"{quoted(name)} takes no {number}, only {', '.join(takers)} do"
            )
    if row.parameter is not None and not numbers:
        raise RuleError(
            f"{quoted(name)} needs its {row.parameter}, as in {base}({row.example})"
        )
    for key, number in {"influence": influence, **numbers}.items():
        _check_number(name, key, number)
    return row.make(**numbers, influence=influence)


def is_reply_rule(name: str) -> bool:
    """Whether a name is that of a rule on whole replies, or refers to one.

    Raises:
      RuleError: If it refers to an object that is not there.
    """
    if objects.is_reference(name):
        return isinstance(made(name), ReplyMechanism)
    return _split(name)[0] in _REPLY_RULES


def reply_rule(name: str) -> ReplyMechanism:
    """The rule on whole replies called `name`.

    Args:
      name: Such as ``best_of``, ``mosaic(0.5)`` or ``FILE.py:NAME``.

    Raises:
      RuleError: If there is none, or it is not a rule on replies.
    """
    if objects.is_reference(name):
        return _own(name, ReplyMechanism)
    base, argument = _split(name)
    row = _REPLY_RULES.get(base)
    if row is None or (argument is not None and row.parameter is None):
        raise RuleError(unknown("a rule on replies", name, REPLY_RULES))
    if row.parameter is None:
        return row.make()
    number = _number(name, row.default if argument is None else argument)
    _check_number(name, row.parameter, number)
    return row.make(number)


def text_rule(name: str) -> ReplyMechanism | TextAuction:
    """The rule on replies called `name`, or a user's auction of whole texts.

    Raises:
      RuleError: If there is none.
    """
    if objects.is_reference(name):
        return _own(name, ReplyMechanism, TextAuction)
    return reply_rule(name)


def rule(name: str, influence: float = 1.0) -> Aggregation | ReplyMechanism:
    """The aggregation or the rule on replies called `name`.

    Raises:
      RuleError: If there is neither.
    """
    if is_reply_rule(name):
        if influence != 1:
            raise RuleError(f"{quoted(name)} takes no influence, only aggregations do")
        return reply_rule(name)
    if objects.is_reference(name):
        _own(name, Aggregation, ReplyMechanism)
    elif _split(name)[0] not in _AGGREGATIONS:
        raise RuleError(unknown("a rule", name, (*AGGREGATIONS, *REPLY_RULES)))
    return aggregation(name, influence)


def default_payment(name: str) -> str | None:
    """The truthful payment of a built-in aggregation, None if it has none."""
    row = _AGGREGATIONS.get(_split(name)[0])
    return None if row is None else row.payment


def payment(name: str, rule: Aggregation) -> Payment:
    """The payment called `name` for a rule.

    ``FILE.py:NAME`` may be a payment, or a function of the aggregation that makes one.

    Raises:
      RuleError: If there is none, or it is not defined for the aggregation.
    """
    base, argument = _split(name)
    if base in _PAYMENTS_OF_A_VALUATION and argument is not None:
        make, chosen = _PAYMENTS_OF_A_VALUATION[base], [valuation(argument)]
    elif objects.is_reference(name):
        return _own_payment(name, rule)
    elif base in _PAYMENTS and argument is None:
        make, chosen = _PAYMENTS[base], []
    else:
        raise RuleError(unknown("a payment", name, PAYMENTS))
    try:
        return make(rule, *chosen)
    except ValueError as error:
        raise RuleError(f"{quoted(name)}: {error}") from None


def payments_of(rule: Aggregation) -> list[str]:
    """Names of the built-in payments that are defined for a rule."""
    names = []
    for name in PAYMENTS:
        try:
            payment(name, rule)
        except RuleError:
            continue
        names.append(name)
    return names


def valuation(name: str) -> Valuation:
    """The valuation called `name`, or the object ``FILE.py:NAME``.

    Raises:
      RuleError: If there is none, or it is not a valuation.
    """
    if objects.is_reference(name):
        return _own(name, Valuation)
    if name not in _VALUATIONS:
        raise RuleError(unknown("a valuation", name, VALUATIONS))
    return _VALUATIONS[name]()


def pool(name: str) -> AgentPool:
    """The agents ``FILE.py:NAME``: a pool, or a function without arguments.

    Raises:
      RuleError: If there is none, or it is not a pool.
    """
    if not objects.is_reference(name):
        raise RuleError(f"{quoted(name)} is not FILE.py:NAME")
    found = _own(name, AgentPool)
    check_record(name, found)
    return found


def mechanism_or_aggregation(name: str) -> Mechanism | Aggregation:
    """The object ``FILE.py:NAME``: a rule with or without its payment.

    Raises:
      RuleError: If there is none, or it is neither.
    """
    found = _load(name)
    return found if isinstance(found, Mechanism) else _own(name, Aggregation)


def check_record(name: str, found: Any) -> None:
    """Raises `RuleError` unless an object's numbers are leaves of a pytree."""
    try:
        records.check_record(name, found)
    except ValueError as error:
        raise RuleError(str(error)) from None


def references(name: str) -> list[str]:
    """The ``FILE.py:NAME`` in a name, also as in ``myerson(FILE.py:NAME)``."""
    base, argument = _split(name)
    inside = argument if base in _PAYMENTS_OF_A_VALUATION and argument else name
    return [inside] if objects.is_reference(inside) else []


def resolved(content: Any, base: pathlib.Path, key: str = "") -> Any:
    """A document whose references are relative to `base`, as they are from here."""
    if isinstance(content, dict):
        return {k: resolved(v, base, k.rpartition(".")[2]) for k, v in content.items()}
    if isinstance(content, list):
        return [resolved(value, base, key) for value in content]
    if not isinstance(content, str) or key not in REFERENCE_KEYS:
        return content
    for reference in references(content):
        content = content.replace(reference, objects.resolved(reference, base))
    return content


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Says what a name is not, what there is, and which is nearest."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{quoted(name)} is not {kind} ({', '.join(known)}, FILE.py:NAME){hint}"


def _split(name: str) -> tuple[str, str | None]:
    """``"base(argument)"`` in two; the argument is None if there is none."""
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", name.strip())
    return (match[1], match[2]) if match else (name, None)


def made(name: str) -> Any:
    """What a reference leads to, or what the function that it leads to makes."""
    found = _load(name)
    return _call(name, _once(found)) if isinstance(found, types.FunctionType) else found


def _load(name: str) -> Any:
    try:
        return objects.load(name)
    except objects.ObjectError as error:
        raise RuleError(str(error)) from None


def _number(name: str, argument: str) -> float:
    try:
        return float(argument)
    except ValueError as error:
        raise RuleError(f"{quoted(name)}: {error}") from None


def _check_number(name: str, key: str, number: float) -> None:
    _, problems = validation.validate(_NUMBERS[key], number, {})
    for problem in problems:
        raise RuleError(f"{quoted(name)}: {key}: {problem.message}")


def _own(name: str, *kinds: type) -> Any:
    found = made(name)
    try:
        return objects.expect(name, found, *kinds)
    except objects.ObjectError as error:
        raise RuleError(str(error)) from None


def _own_payment(name: str, rule: Aggregation) -> Payment:
    found = _load(name)
    # A class has a payment's methods too, but is none before it is called.
    if isinstance(found, type) or not isinstance(found, Payment):
        found = _call(name, found, rule)
    try:
        return objects.expect(name, found, Payment)
    except objects.ObjectError as error:
        raise RuleError(str(error)) from None


@functools.cache
def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    """A function that is called once: what it makes may be a language model."""
    return functools.cache(make)


def _call(name: str, make: Any, *arguments: Any) -> Any:
    shown = f" with {arguments[0]}" if arguments else ""
    try:
        return make(*arguments)
    except Exception as error:  # Whatever the user's function raises.
        raise RuleError(f"{name}: called{shown}: {error}") from None
