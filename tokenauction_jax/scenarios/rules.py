"""Rules by name, as the command line takes them: built in, or objects of a user's."""

import difflib
import importlib
import importlib.util
import pathlib
import re
from typing import Any

from tokenauction_jax import mechanism

_VALUATIONS = {
    "total_variation": mechanism.total_variation(),
    "forward_kl": mechanism.forward_kl(),
    "reverse_kl": mechanism.reverse_kl(),
}
_AGGREGATIONS = ("linear", "log_linear", "power_mean(0.5)")
_PAYMENTS = (
    "pay_your_bid",
    "second_price",
    "clarke",
    *(f"myerson({valuation})" for valuation in _VALUATIONS),
)


class RuleError(ValueError):
    """A name that is no rule, with what to write instead in one line."""


def aggregation(name: str, influence: float = 1.0) -> mechanism.Aggregation:
    """The aggregation called `name`, or the user's object ``FILE.py:NAME``.

    Raises:
      RuleError: If there is none, or it is no aggregation.
    """
    if ":" in name:
        return _expect(name, _call_if_class(_load(name)), mechanism.Aggregation)
    base, argument = _split(name)
    try:
        if base == "linear" and argument is None:
            return mechanism.linear(influence)
        if base == "log_linear" and argument is None:
            return mechanism.log_linear(influence)
        if base == "power_mean" and argument is not None:
            return mechanism.power_mean(float(argument), influence)
    except ValueError as error:
        raise RuleError(f"{name!r}: {error}") from None
    raise RuleError(_unknown("an aggregation", name, _AGGREGATIONS))


def payment(name: str, rule: mechanism.Aggregation) -> mechanism.Payment:
    """The payment called `name` for a rule, or the user's object ``FILE.py:NAME``.

    The object may be a payment, or a function of the aggregation that makes one.

    Raises:
      RuleError: If there is none, or it is not defined for the aggregation.
    """
    if ":" in name:
        found = _load(name)
        # A class has a payment's methods too, but is none before it is called.
        if isinstance(found, type) or not isinstance(found, mechanism.Payment):
            try:
                found = found(rule)
            except Exception as error:
                raise RuleError(f"{name}: called with {rule}: {error}") from None
        return _expect(name, found, mechanism.Payment)
    base, argument = _split(name)
    try:
        if argument is None and base == "pay_your_bid":
            return mechanism.pay_your_bid()
        if argument is None and base == "second_price":
            return mechanism.second_price(rule)
        if argument is None and base == "clarke":
            return mechanism.clarke(rule)  # type: ignore[arg-type]
        if base == "myerson" and argument in _VALUATIONS:
            return mechanism.myerson(rule, _VALUATIONS[argument])
    except ValueError as error:
        raise RuleError(f"{name!r}: {error}") from None
    raise RuleError(_unknown("a payment", name, _PAYMENTS))


def payments_of(rule: mechanism.Aggregation) -> list[str]:
    """Names of the built-in payments that are defined for a rule."""
    names = []
    for name in _PAYMENTS:
        try:
            payment(name, rule)
        except RuleError:
            continue
        names.append(name)
    return names


def _split(name: str) -> tuple[str, str | None]:
    """``"base(argument)"`` in two; the argument is None if there is none."""
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", name.strip())
    return (match[1], match[2]) if match else (name, None)


def _load(name: str) -> Any:
    """The object that ``FILE.py:NAME`` or ``MODULE:NAME`` refers to."""
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            path = pathlib.Path(where)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None:
                raise RuleError(f"{where} cannot be imported")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, attribute)
    except RuleError:
        raise
    except Exception as error:  # Whatever the user's file raises.
        raise RuleError(f"{name}: {type(error).__name__}: {error}") from None


def _call_if_class(found: Any) -> Any:
    if not isinstance(found, type):
        return found
    try:
        return found()
    except TypeError as error:
        raise RuleError(f"{found.__name__} needs arguments: {error}") from None


def _expect(name: str, found: Any, kind: Any) -> Any:
    if isinstance(found, type) or not isinstance(found, kind):
        members = {*kind.__annotations__, *vars(kind)}
        public = ", ".join(sorted(x for x in members if not x.startswith("_")))
        raise RuleError(f"{name} is no {kind.__name__}, which has {public}")
    return found


def _unknown(kind: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not {kind} ({', '.join(known)}, FILE.py:NAME){hint}"
