"""Whether a receipt is right: its auction runs again, and every number is compared."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

from tokenauction_jax.outside import quoted
from tokenauction_jax.receipts import issue
from tokenauction_jax.receipts.receipt import (
    BY_AGENT,
    INPUTS,
    Receipt,
    ReceiptError,
    leaves,
)

# By how much numbers may differ where they are computed otherwise.
TOLERANCE = 1e-3
# What numbers do not depend on.
_HARMLESS = ("python", "platform")


@dataclasses.dataclass(frozen=True)
class Difference:
    """What of a receipt is not right.

    Attributes:
      position: Of the token, None if it is not of one.
      field: Which, such as ``payments`` or ``scenario.seed``; "" for a whole token.
      agent: Whose, None if it is not of an agent.
      receipt: What the receipt says; None if it does not say it.
      replayed: What the replay found, likewise.
      edited: Whether only its checksum tells that it is not what it was.
    """

    position: int | None
    field: str
    agent: str | None
    receipt: Any
    replayed: Any
    edited: bool = False

    def __str__(self) -> str:
        place = self.field if self.agent is None else f"{self.field} of {self.agent}"
        if self.position is not None:
            token = f"token {self.position}"
            place = f"{token}: {place}" if place else token
        one, other = _shown(self.receipt), _shown(self.replayed)
        if self.edited:
            said = "" if self.receipt is None else f" ({one})"
            return f"{place}{said} was changed: it does not have its checksum"
        return f"{place} is {one} in the receipt and {other} in the replay"


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
      differences: All that disagrees, the header first; empty if the receipt is right.
      exact: Whether numbers were compared bit for bit.
      elsewhere: What of the environment is not that of the receipt.
      tolerance: By how much numbers may differ if they were not compared bit for bit.
    """

    differences: tuple[Difference, ...]
    exact: bool
    elsewhere: tuple[str, ...]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether everything agrees."""
        return not self.differences


def replay(receipt: Receipt, *, tolerance: float = TOLERANCE) -> Replay:
    """Runs the auction of a receipt again, and compares everything.

    Tokens, texts and the header must be the same. Numbers must be the same bits on a
    CPU with the same versions, processor and settings. Elsewhere log-probabilities
    and shares may differ by `tolerance`, and money by `tolerance` times the largest
    bid (running totals by as much for each token), or relative to themselves where
    they are larger.

    What was edited is also known by its checksum. Where that is a part of what all else
    follows from, nothing is run.

    Args:
      receipt: Which.
      tolerance: As above.

    Raises:
      ReceiptError: If the tolerance is not a finite number of at least 0.
      OutsideError: If the auction cannot be run here, such as for want of a model.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ReceiptError(f"tolerance is {tolerance}: give a number of at least 0")
    edited = [x for x in receipt.unsealed() if x.partition(".")[0] in INPUTS]
    if edited:
        found = tuple(_edited(receipt, name) for name in edited)
        return Replay(found, False, (), tolerance)
    return compare(receipt, issue.again(receipt), tolerance)


def compare(
    receipt: Receipt, replayed: Receipt, tolerance: float = TOLERANCE
) -> Replay:
    """What of a receipt is not as in its replay; see `replay`."""
    one, other = receipt.environment, replayed.environment
    elsewhere = tuple(
        name
        for name in dict.fromkeys([*one, *other])
        if name not in _HARMLESS and one.get(name) != other.get(name)
    )
    # An accelerator runs the programs that were found to be fast when it compiled.
    exact = not elsewhere and other["backend"] == "cpu"
    found = {}
    for name, said, ran in _compared(receipt, replayed, elsewhere):
        allowed = 0.0 if exact else tolerance
        unit = _unit(name, max(replayed.bids))
        if not _same(said, ran, allowed, allowed * unit):
            found[name] = _difference(receipt, name, said, ran)
    told = {_sealed_with(name) for name in found}
    for name in receipt.unsealed():
        if name not in told:
            found[name] = _edited(receipt, name)
    return Replay(tuple(found.values()), exact, elsewhere, tolerance)


def _compared(
    receipt: Receipt, replayed: Receipt, elsewhere: Collection[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Every value that must agree: its name, and what both say."""
    one, other = _leaves(receipt), _leaves(replayed)
    for name in dict.fromkeys([*one, *other]):
        section, _, rest = name.partition(".")
        if section in (*INPUTS, "checksums"):
            continue
        if section == "environment" and rest != "random_bits":
            continue
        # How agents are laid out in memory may change with the versions.
        if section == "digests" and not {"tokenauction_jax", "versions"}.isdisjoint(
            elsewhere
        ):
            continue
        yield name, one.get(name), other.get(name)


def _leaves(receipt: Receipt) -> dict[str, Any]:
    return dict(leaves(dataclasses.asdict(receipt)))


def _unit(name: str, money: float) -> float:
    """What a number of that name is small against."""
    section, _, rest = name.partition(".")
    position, _, field = rest.partition(".")
    if section == "bids" or field.startswith(("payments", "expected_payments")):
        return money
    return money * (int(position) + 1) if field.startswith("total") else 1.0


def _same(one: Any, other: Any, relative: float, absolute: float) -> bool:
    if not (isinstance(one, float) and isinstance(other, float)):
        return type(one) is type(other) and one == other
    if one == other or (math.isnan(one) and math.isnan(other)):
        return True
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute)


def _sealed_with(name: str) -> str:
    """What the checksum is of that a value is part of: of a token, all."""
    return ".".join(name.split(".")[:2]) if name.startswith("tokens.") else name


def _edited(receipt: Receipt, name: str) -> Difference:
    """Of what does not have its checksum."""
    value = _leaves(receipt).get(name)
    return _difference(receipt, name, value, value, edited=True)


def _difference(
    receipt: Receipt, name: str, one: Any, other: Any, edited: bool = False
) -> Difference:
    """Of the value with that dotted name."""
    section, _, rest = name.partition(".")
    position, field = None, name
    if section == "tokens" and rest:
        number, _, field = rest.partition(".")
        position = int(number)
    field, _, agent = field.partition(".") if _is_of_agent(field) else (field, "", "")
    whose = None
    if agent:
        known = int(agent) < len(receipt.agents)
        whose = receipt.agents[int(agent)] if known else agent
    return Difference(position, field, whose, one, other, edited)


def _is_of_agent(field: str) -> bool:
    """Whether a field is a number of an agent."""
    name, _, rest = field.partition(".")
    return rest.isdigit() and name in ("bids", *BY_AGENT.values())


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, float) else quoted(value)
