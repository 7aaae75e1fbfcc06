"""Agents whose bids follow policies: they are asked anew for every token."""

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base
from tokenauction_jax.simulation import budgets as money
from tokenauction_jax.simulation.policy import Info, Policy

# Bids by `id`. Arrays do not change: of one step after another they are checked once.
_CHECKED: weakref.WeakValueDictionary[int, jax.Array] = weakref.WeakValueDictionary()


@records.record
class Bidders:
    """Agents that follow policies within budgets, for `simulate` in place of bids.

    Attributes:
      policies: One `Policy` for each agent, of any classes.
      budgets: What each agent can pay for a text at most, `(n,)` or one row an auction,
        `(A, n)`; infinity, the default, for no limit.
      by_auction: Whether every number of the policies has one row an auction, `(A,
        ...)`, as values that are drawn for each; else all auctions share them.
    """

    policies: Sequence[Policy]
    budgets: Any = np.inf
    by_auction: bool = records.static_field(default=False)


@records.record
class Ledger:
    """What `Bidders` carry from token to token, arrays `(A, ...)`.

    Attributes:
      states: The state of each agent's policy.
      offers: `(A, n)`, what the policies bid last.
      purse: `(A, n)` each.
      last_payments: `(A, n)`.
      last_log_probs: `(A, n)`, of the last token.
      last_log_q: `(A,)`.
      exhausted: `(A,)`, whether the text stopped because nobody bid.
    """

    states: tuple[Any, ...]
    offers: jax.Array
    purse: money.Purse
    last_payments: jax.Array
    last_log_probs: jax.Array
    last_log_q: jax.Array
    exhausted: jax.Array


def check_bidders(
    bidders: Bidders, num_agents: int, num_auctions: int | None
) -> Bidders:
    """Bidders with a tuple of policies and budgets `(A, n)` in the default float type.

    Raises:
      ValueError: If something is missing, a budget is negative or NaN, or a number of a
        policy has no row for each auction where it should.
    """
    if not isinstance(bidders.policies, Sequence):
        raise ValueError(
            f"policies must be a sequence of one policy for each of {num_agents} "
            f"agents, got a {type(bidders.policies).__name__}"
        )
    policies = tuple(bidders.policies)
    if len(policies) != num_agents:
        raise ValueError(
            f"policies has {len(policies)} entries, expected one for each of "
            f"{num_agents} agents"
        )
    for agent, policy in enumerate(policies):
        records.check_rule(f"policies[{agent}]", policy, Policy)
        records.check_record(f"policies[{agent}]", policy)
    budgets = _check_budgets(bidders.budgets)
    if budgets.ndim == 0:
        budgets = jnp.full(num_agents, budgets)
    budgets = rows_by_auction("budgets", budgets, num_agents, num_auctions)
    if bidders.by_auction:
        for agent, policy in enumerate(policies):
            check_rows(f"by_auction: policies[{agent}]", policy, budgets.shape[0])
    return Bidders(policies, budgets, bidders.by_auction)


def _check_budgets(budgets: Any) -> jax.Array:
    """Budgets in the default float type, rounded down."""
    dtype = jnp.result_type(float)
    if not records.is_concrete(*jax.tree.leaves(budgets)):
        return jnp.asarray(budgets, dtype)
    given = np.asarray(budgets)
    if not jnp.issubdtype(given.dtype, jnp.number):
        raise ValueError(f"budgets must be numbers, got {budgets!r}")
    given = given.astype(np.promote_types(given.dtype, dtype))
    money.check_budgets(given)
    return jnp.asarray(money.rounded_down(given, dtype))


def rows_by_auction(
    name: str, x: jax.Array, num_agents: int, num_auctions: int | None
) -> jax.Array:
    """Numbers of agents, `(n,)` or `(A, n)`, as one row an auction.

    Raises:
      ValueError: If the shape is neither, or the number of auctions is not known.
    """
    if x.ndim not in (1, 2) or x.shape[-1] != num_agents:
        raise ValueError(
            f"{name} has shape {x.shape}, expected ({num_agents},) or (num_auctions, "
            f"{num_agents}): one number for each of {num_agents} agents"
        )
    if x.ndim == 2:
        if num_auctions not in (None, x.shape[0]):
            raise ValueError(
                f"num_auctions is {num_auctions}, but {name} has {x.shape[0]} rows"
            )
        return x
    if num_auctions is None:
        raise ValueError(f"{name} of shape {x.shape} need num_auctions")
    return jnp.broadcast_to(x[None], (num_auctions, num_agents))


def check_bids(bids: ArrayLike, num_agents: int, num_auctions: int | None) -> jax.Array:
    """Bids `(n,)` or `(A, n)` as `(A, n)`; raises `ValueError` if they are none."""
    if isinstance(bids, Bidders):
        raise ValueError(
            "bids must be numbers here, got Bidders: policies are sampled, with "
            "simulate or bidding.expected"
        )
    bids = base.as_float(bids)
    rows = rows_by_auction("bids", bids, num_agents, num_auctions)
    if records.is_concrete(bids) and _CHECKED.get(id(bids)) is not bids:
        # Most are, which is found where they are: to fetch those of a million auctions
        # takes longer than the auctions.
        with jax.ensure_compile_time_eval():
            in_range = bool(_all_in_range(bids))
        if not in_range:
            base.check_bid_values(np.asarray(bids))
        _CHECKED[id(bids)] = bids
    return rows


@jax.jit
def _all_in_range(bids: jax.Array) -> jax.Array:
    """Whether every bid is one, and not 0."""
    return ((bids >= base.SMALLEST_BID) & (bids <= base.LARGEST_BID)).all()


def rows_of(bids: jax.Array | Bidders) -> Any:
    """What of bids has one row an auction."""
    if not isinstance(bids, Bidders) or bids.by_auction:
        return bids
    return bids.budgets


def with_rows(bids: jax.Array | Bidders, rows: Any) -> jax.Array | Bidders:
    """The bids of some auctions, of `rows_of` them."""
    if not isinstance(bids, Bidders) or bids.by_auction:
        return rows
    return dataclasses.replace(bids, budgets=rows)


def check_rows(name: str, tree: Any, num_auctions: int) -> None:
    """Raises `ValueError` unless every array of `tree` has one row an auction."""
    for leaf in jax.tree.leaves(tree):
        if jnp.shape(leaf)[:1] != (num_auctions,):
            raise ValueError(
                f"{name} has an array of shape {jnp.shape(leaf)}, expected "
                f"({num_auctions}, ...): one row an auction"
            )


def in_rows(bidders: Bidders) -> Bidders:
    """The same bidders, with one row an auction of every number of the policies."""
    if bidders.by_auction:
        return bidders

    def repeated(x: ArrayLike) -> jax.Array:
        return jnp.broadcast_to(x, (bidders.budgets.shape[0], *jnp.shape(x)))

    policies = jax.tree.map(repeated, bidders.policies)
    return Bidders(policies, bidders.budgets, by_auction=True)


def new_ledger(bidders: Bidders) -> Ledger:
    """The ledger before the first token, of bidders as `check_bidders` leaves them."""
    budgets = bidders.budgets
    num_auctions = budgets.shape[0]
    init = jax.vmap(
        lambda policy: jax.tree.map(_strong, policy.init()),
        _axes(bidders),
        axis_size=num_auctions,
    )
    states = [init(policy) for policy in bidders.policies]
    zeros = jnp.zeros_like(budgets)
    return Ledger(
        states=tuple(states),
        offers=zeros,
        purse=money.new_purse(budgets),
        last_payments=zeros,
        last_log_probs=zeros,
        last_log_q=zeros[:, 0],
        exhausted=jnp.zeros(num_auctions, bool),
    )


def policy_bids(
    bidders: Bidders,
    ledger: Ledger,
    position: jax.Array,
    num_tokens: int,
    tokens: jax.Array,
    log_probs: jax.Array,
) -> tuple[jax.Array, Ledger]:
    """What is bid `(A, n)` for the token after `tokens` `(A,)`, and the ledger.

    Agents that have nothing left bid 0, and so do all in an auction where some policy
    answers a negative or infinite number or NaN.

    Raises:
      ValueError: If a policy answers no scalar, or changes the layout of its state.
    """
    budgets, purse = bidders.budgets, ledger.purse
    bids, states = [], []
    for agent, policy in enumerate(bidders.policies):
        seen = {
            "budget": budgets[:, agent],
            "spent": purse.spent[:, agent],
            "remaining": purse.remaining[:, agent],
            "log_probs": log_probs,
            "last_token": tokens,
            "last_payment": ledger.last_payments[:, agent],
            "last_log_prob": ledger.last_log_probs[:, agent],
            "last_log_q": ledger.last_log_q,
        }
        ask = functools.partial(_ask, agent, position, num_tokens)
        before = ledger.states[agent]
        own, state = jax.vmap(ask, (*_axes(bidders), 0, 0))(policy, before, seen)
        _check_answer(agent, policy, own, before, state)
        bids.append(own.astype(budgets.dtype))
        states.append(state)
    offers = jnp.where(purse.remaining > 0, jnp.stack(bids, axis=1), 0)
    defined = jax.vmap(base.bids_define_auction)(offers)
    ledger = dataclasses.replace(ledger, states=tuple(states), offers=offers)
    return jnp.where(defined[:, None], offers, 0), ledger


def _axes(bidders: Bidders) -> tuple[int | None]:
    """Which axis of the policies' numbers belongs to auctions."""
    return (0 if bidders.by_auction else None,)


def _ask(
    agent: int,
    position: jax.Array,
    num_tokens: int,
    policy: Policy,
    state: Any,
    seen: dict[str, jax.Array],
) -> Any:
    """What one policy bids in one auction, and its next state."""
    info = Info(agent=agent, position=position, num_tokens=num_tokens, **seen)
    return jax.tree.map(_strong, policy.bid(state, info))


def settle(
    bidders: Bidders,
    ledger: Ledger,
    asked: jax.Array,
    num_tokens: int,
    log_probs: jax.Array,
    outcome: dict[str, jax.Array],
) -> tuple[dict[str, jax.Array], Ledger]:
    """Cuts payments to what is left, and writes down what the policies will see.

    Args:
      bidders: The bidders.
      ledger: The ledger after the bids.
      asked: `(A,)`, whether the text had not ended before the token.
      num_tokens: The cap on tokens.
      log_probs: `(A, n, V)`.
      outcome: What is recorded of the token, 0 for texts that have ended.

    Returns:
      The outcome with what is really paid, and the ledger.
    """
    budgets = bidders.budgets
    due, expected = (
        jnp.where(payers(bidders)[None], outcome[name], 0).astype(budgets.dtype)
        for name in ("payments", "expected_payments")
    )
    expected = jnp.minimum(expected, ledger.purse.remaining)
    paid, purse = money.charge(ledger.purse, budgets, due, num_tokens)
    # Smaller bids count as 0.
    silent = (jnp.abs(ledger.offers) < base.SMALLEST_BID).all(axis=1)
    drawn = jnp.take_along_axis(log_probs, outcome["tokens"][:, None, None], axis=2)
    ledger = dataclasses.replace(
        ledger,
        purse=purse,
        last_payments=paid,
        last_log_probs=drawn[..., 0].astype(budgets.dtype),
        last_log_q=outcome["log_prob"].astype(budgets.dtype),
        exhausted=ledger.exhausted | (asked & silent),
    )
    bids = jnp.where(asked[:, None], ledger.offers, 0)
    paid_and_bid = {"payments": paid, "expected_payments": expected, "bids": bids}
    return outcome | paid_and_bid, ledger


def payers(bidders: Bidders) -> np.ndarray:
    """Which agents `(n,)` are charged at all."""
    return np.array([getattr(policy, "pays", True) for policy in bidders.policies])


def check_answers(bidders: Bidders, bids: jax.Array) -> None:
    """Raises `ValueError` at the first bid `(A, T, n)` out of range, if it is known."""
    if not records.is_concrete(bids):
        return
    wrong = ~((bids >= 0) & (bids <= base.LARGEST_BID))
    if not bool(wrong.any()):
        return
    auction, position, agent = np.argwhere(np.asarray(wrong))[0].tolist()
    name = type(bidders.policies[agent]).__name__
    raise ValueError(
        f"policies[{agent}], a {name}, bid {bids[auction, position, agent]} for token "
        f"{position} of row {auction}: bids must be from 0 to {base.LARGEST_BID:g}; "
        "tokenauction_jax.testing.check_policy examines a policy"
    )


def _check_answer(
    agent: int, policy: Policy, bids: Any, before: Any, after: Any
) -> None:
    """Raises `ValueError` unless bids are `(A,)` and the state keeps its layout."""
    name = f"policies[{agent}], a {type(policy).__name__},"
    if not isinstance(bids, jax.Array) or bids.ndim != 1:
        found = jax.tree.map(lambda x: x.shape[1:], bids)
        raise ValueError(f"{name} bids shape {found}, expected (): a scalar, money")
    layouts = [
        jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", state)
        for state in (before, after)
    ]
    if layouts[0] != layouts[1]:
        raise ValueError(
            f"{name} changes its state from {layouts[0]} to {layouts[1]}: structure, "
            "shapes and dtypes must stay"
        )


def _strong(x: ArrayLike) -> jax.Array:
    """An array whose dtype is its own: of Python numbers it would be weak."""
    x = jnp.asarray(x)
    extended = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if extended else lax.convert_element_type(x, x.dtype)
