"""Mechanisms by name, as the suite takes them."""

from typing import Any

from tokenauction_jax.mechanism import Aggregation, Mechanism
from tokenauction_jax.outside import OutsideError, quoted
from tokenauction_jax.replies import ReplyMechanism, TextAuction
from tokenauction_jax.scenarios import names, objects, rules

# With whom a mechanism is compared.
BUILT_IN = (
    *("linear", "linear+clarke", "linear+pay_your_bid", "log_linear"),
    *("mosaic", "best_of", "single_winner", "segment", "none"),
)


_KNOWN = (*names.AGGREGATIONS, *rules.MECHANISMS)


class SuiteError(OutsideError):
    """What the suite cannot do, with what to change in one line."""


def section(name: str) -> dict[str, Any]:
    """A mechanism as a study has it.

    Args:
      name: Of an aggregation, with its truthful payment or another one, as in
        ``linear+pay_your_bid``; of a rule on replies, ``segment`` or ``none``; or
        ``FILE.py:NAME``, which may be any of these.

    Raises:
      SuiteError: If it is none.
    """
    base, plus, payment = name.partition("+")
    try:
        if plus:
            return {"aggregation": base, "payment": payment}
        if not objects.is_reference(name):
            if name.partition("(")[0] not in {x.partition("(")[0] for x in _KNOWN}:
                raise SuiteError(names.unknown("a mechanism", name, _KNOWN))
            return rules.as_any_rule(name)
        found = names.made(name)
    except OutsideError as error:
        raise SuiteError(str(error)) from None
    if isinstance(found, type):
        found = objects.expect(name, found, object)
    if isinstance(found, ReplyMechanism | TextAuction):
        return {"mechanism": name}
    if isinstance(found, Mechanism | Aggregation):
        return {"aggregation": name}
    wanted = "a Mechanism, a ReplyMechanism or a TextAuction"
    raise SuiteError(f"{quoted(name)} is not {wanted}")
