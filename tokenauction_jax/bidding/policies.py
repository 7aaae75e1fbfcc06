"""Policies that say what to bid beforehand: constants, schedules, a platform's reserve.

A policy bids for one agent, token by token; see `simulation.Policy`. Those that look at
what was spent are in `bidding.pacing`, a trained one in `bidding.neural`.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base
from tokenauction_jax.simulation import Info


@records.record
class Constant:
    """See `constant`."""

    amount: records.Number

    def init(self) -> tuple[()]:
        """No state."""
        return ()

    def bid(self, state: tuple[()], info: Info) -> tuple[ArrayLike, tuple[()]]:
        """The same for every token."""
        del info
        return self.amount, state


@records.record
class Schedule:
    """See `schedule`."""

    amounts: jax.Array

    def init(self) -> tuple[()]:
        """No state."""
        return ()

    def bid(self, state: tuple[()], info: Info) -> tuple[ArrayLike, tuple[()]]:
        """That of the token's position, or the last."""
        return self.amounts[jnp.minimum(info.position, self.amounts.size - 1)], state


@records.record
class Platform:
    """See `platform`."""

    amount: records.Number
    pays: ClassVar[bool] = False

    def init(self) -> tuple[()]:
        """No state."""
        return ()

    def bid(self, state: tuple[()], info: Info) -> tuple[ArrayLike, tuple[()]]:
        """The same for every token."""
        del info
        return self.amount, state


def constant(amount: ArrayLike) -> Constant:
    """Bids the same for every token, as a plain array of bids does.

    Args:
      amount: Money per unit of value.

    Raises:
      ValueError: If it is negative, above 1e30 or no number.
    """
    return Constant(check_number("amount", amount))


def schedule(amounts: ArrayLike) -> Schedule:
    """Bids ``amounts[min(t, S - 1)]`` for token ``t``.

    Args:
      amounts: `(S,)`, money per unit of value; after the last entry it goes on.

    Raises:
      ValueError: If the shape is wrong, or an amount is negative or above 1e30.
    """
    found = base.as_float(amounts)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"amounts has shape {found.shape}, expected (S,): one a token")
    if records.is_concrete(found):
        base.check_amounts("amounts", np.asarray(found))
    return Schedule(found)


def platform(amount: ArrayLike) -> Platform:
    """A fixed bid that pays nothing: the reserve of whoever runs the auction.

    Its agent is a reference model that the others must outbid: they pay for moving the
    text away from it, and a text goes on when they have spent their budgets.

    Args:
      amount: Money per unit of value.

    Raises:
      ValueError: If it is negative, above 1e30 or no number.
    """
    return Platform(check_number("amount", amount))


def check_number(
    name: str, value: Any, least: float = 0.0, most: float = base.LARGEST_BID
) -> records.Number:
    """A scalar leaf in bounds.

    Raises:
      ValueError: If it is no real scalar or, as far as it is known, out of bounds.
    """
    number = records.as_number(name, value)
    if records.is_concrete(number) and not least <= float(number) <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, got {number}")
    return number
