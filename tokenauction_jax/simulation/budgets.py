"""Budgets: what an agent may still be charged, so that it never pays more.

Floats summed in another order round to another sum. An agent's payments are to stay
within its budget in whatever order they are added, so a charge passes as it is only
where no order could exceed the budget: if sums of what was charged are exact, being
multiples of the budget's own spacing, or if they keep their distance from it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions


@records.record
class Purse:
    """What agents have spent and have left, arrays of one shape.

    Attributes:
      spent: Money charged so far.
      remaining: The most that may be charged from now on; 0 for good once a charge was
        cut.
      exact: Whether all charges were multiples of the budget's spacing.
    """

    spent: jax.Array
    remaining: jax.Array
    exact: jax.Array


def new_purse(budgets: jax.Array) -> Purse:
    """A purse from which nothing was spent."""
    return Purse(jnp.zeros_like(budgets), budgets, jnp.ones_like(budgets, bool))


def charge(
    purse: Purse, budgets: jax.Array, due: jax.Array, num_tokens: int
) -> tuple[jax.Array, Purse]:
    """Charges what is due, as far as the budgets allow.

    Args:
      purse: The purse before.
      budgets: Money per text, infinity for none.
      due: What should be paid for a token, in the dtype of the budgets.
      num_tokens: How often will be charged, ``T``. Of a budget whose charges are no
        multiples of its spacing a share of up to ``2 T eps`` stays unspent: 4e-6 in
        float32 for 16 tokens.

    Returns:
      What is paid, at most `due`, and the purse after.
    """
    spacing, slack = _spacing(budgets), _slack(budgets, num_tokens)
    near = due > budgets - purse.spent - slack
    paid = jnp.minimum(due, purse.remaining)
    paid = jnp.where(purse.exact & near, _floor(paid, spacing), paid)
    exact = purse.exact & (paid == _floor(paid, spacing))
    spent = purse.spent + paid
    left = budgets - spent
    remaining = jnp.where(exact, left, jnp.maximum(left - slack, 0))
    closed = (paid < due) | (purse.remaining <= 0)
    return paid, Purse(spent, jnp.where(closed, 0, remaining), exact)


def _slack(budgets: jax.Array, num_tokens: int) -> jax.Array:
    """By how much sums of a budget's charges may differ, 0 for none.

    The running sum, and the user's in another order, each err by ``(T - 1) eps / 2``.
    """
    share = min(1.0, (num_tokens + 2) * float(jnp.finfo(budgets.dtype).eps))
    return jnp.where(jnp.isinf(budgets), 0, share * budgets)


def _spacing(budgets: jax.Array) -> jax.Array:
    """The distance between floats at a budget: below it sums of multiples are exact."""
    finite = jnp.where(jnp.isinf(budgets) | (budgets <= 0), 1, budgets)
    return jnp.finfo(budgets.dtype).eps / distributions.inverse_power(finite)


@jax.custom_jvp
def _floor(x: jax.Array, spacing: jax.Array) -> jax.Array:
    """`x` rounded down to a multiple of `spacing`, a power of two.

    Its derivative is that of `x`: what is charged moves as a whole.
    """
    return jnp.floor(x / spacing) * spacing


@_floor.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _floor(*primals), tangents[0]


def check_budgets(budgets: np.ndarray) -> None:
    """Raises `ValueError` unless each is infinite, 0 or in the range of bids."""
    base.check_amounts("budgets", np.where(budgets == np.inf, 0, budgets))


def rounded_down(x: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    """The largest floats that are at most `x`: in float32, 0.1 is more than 0.1."""
    with np.errstate(over="ignore"):
        near = x.astype(dtype)
    return np.where(near > x, np.nextafter(near, np.array(-np.inf, dtype)), near)
