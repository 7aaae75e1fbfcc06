"""What bounds the measures of a cell: its values, bids and rules."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tokenauction_jax.agents.tabular import TabularPool
from tokenauction_jax.measures import Limits
from tokenauction_jax.mechanism.aggregation import Linear, LogLinear, PowerMean
from tokenauction_jax.mechanism.base import Mechanism, Payment
from tokenauction_jax.mechanism.myerson import Myerson
from tokenauction_jax.mechanism.payments import Clarke, PayYourBid
from tokenauction_jax.mechanism.second_price import SecondPrice
from tokenauction_jax.mechanism.valuations import (
    ForwardKL,
    ReverseKL,
    TotalVariation,
)
from tokenauction_jax.replies import TextAuction
from tokenauction_jax.scenarios import kinds, objects, settings
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.scenarios.values import draw_values, make_bids

# Of values in [-1, 0] that never fall in the own bid.
_MONOTONE = Linear | LogLinear | PowerMean


def limits_of(cells: Sequence[Population], size: int) -> list[Limits]:
    """What bounds the measures of the cells' auctions, and which are the same.

    Args:
      cells: Of the study.
      size: How many auctions functions of the user's are asked for at a time.
    """
    numbers: dict[Any, int] = {}
    found = []
    for cell in cells:
        texts, values, payments = (
            numbers.setdefault(key, len(numbers)) for key in _origins(cell)
        )
        limits = _limits_of(cell, size)
        found.append(dataclasses.replace(limits, origins=(texts, values, payments)))
    return found


def _origins(cell: Population) -> Iterator[Any]:
    """What texts, values and payments are computed from: equal if it is the same."""
    about = cell.setting
    values, bids = map(_section, (about.values, about.bids))
    apart = isinstance(about.bids, kinds.FixedBids | kinds.WeightBids)
    rule, payment = ((type(x), objects.numbers_of(x)) for x in _parts(cell.mechanism))
    # Cells of the same agents share their cast.
    sampled = (id(cell.cast), about.num_tokens, about.seed)
    yield "texts", *sampled, rule, bids, None if apart else values
    yield "values", values
    yield "payments", payment


def _parts(mechanism: Mechanism | TextAuction) -> tuple[Any, Any]:
    """What texts follow, and what prices do."""
    if isinstance(mechanism, Mechanism):
        return mechanism.aggregation, mechanism.payment
    return mechanism, mechanism


def _section(given: kinds.Values | kinds.Bids) -> Any:
    if isinstance(given, kinds.GivenValues | kinds.GivenBids):
        return type(given), id(given.amounts)
    return given


def _limits_of(cell: Population, size: int) -> Limits:
    about, pool, mechanism = cell.setting, cell.pool, cell.mechanism
    values, fixed_values = _largest_values(cell)
    ends = pool.end_token is not None
    if not isinstance(mechanism, Mechanism):
        return Limits(
            tokens=about.num_tokens,
            ends=ends,
            vocab_size=pool.vocab_size,
            values=_numbers(values),
        )
    bids, fixed_bids = _largest_bids(cell, values, fixed_values, size)
    payment = mechanism.payment
    same_tables = isinstance(pool, TabularPool) and pool.log_probs.ndim == 2
    return Limits(
        tokens=about.num_tokens,
        ends=ends,
        vocab_size=pool.vocab_size,
        values=_numbers(values),
        payments=_numbers(bids) if _at_most_bid(payment) else None,
        least_payments=_least_payments(payment, bids, fixed_bids, cell.num_agents),
        fixed_bids=fixed_bids,
        repeats=same_tables and fixed_values and fixed_bids and not ends,
        draws=not isinstance(payment, PayYourBid | Clarke | Myerson),
        drawn=1.0,
        passes=float(cell.num_agents),
    )


def _largest_values(cell: Population) -> tuple[np.ndarray | None, bool]:
    """The largest value of each agent, and whether it has it in all auctions."""
    values = cell.setting.values
    if isinstance(values, kinds.FixedValues | kinds.SharedValues):
        return draw_values(values, 0, cell.num_agents, 0, 1)[0], True
    if isinstance(values, kinds.UniformValues):
        return np.full(cell.num_agents, values.high), False
    if isinstance(values, kinds.GivenValues) and not callable(values.amounts):
        return values.amounts.max(axis=0), False
    return None, False


def _largest_bids(
    cell: Population, values: np.ndarray | None, fixed_values: bool, size: int
) -> tuple[np.ndarray | None, bool]:
    """Likewise of bids."""
    bids = cell.setting.bids
    given = isinstance(bids, kinds.GivenBids)
    if given and not callable(bids.amounts):
        return bids.amounts.max(axis=0), False
    if fixed_values or isinstance(bids, kinds.FixedBids | kinds.WeightBids):
        return cell.draw(0, size)[1][0], True
    if values is None or given:
        return None, False
    # They grow with the values.
    influence = settings.influence_of(cell.mechanism)
    return make_bids(bids, values[None], 0, influence)[0], False


def _at_most_bid(payment: Payment) -> bool:
    """Whether nobody is ever charged more than its bid for a token."""
    if isinstance(payment, Myerson):
        built_in = isinstance(payment.aggregation, _MONOTONE)
        return built_in and isinstance(payment.valuation, TotalVariation)
    return isinstance(payment, PayYourBid | SecondPrice)


def _least_payments(
    payment: Payment, bids: np.ndarray | None, fixed_bids: bool, num_agents: int
) -> list[float] | None:
    if isinstance(payment, PayYourBid) and fixed_bids:
        return _numbers(bids)
    built_in = isinstance(payment, PayYourBid | SecondPrice | Clarke)
    if isinstance(payment, Myerson):
        known = isinstance(payment.valuation, TotalVariation | ForwardKL | ReverseKL)
        built_in = known and isinstance(payment.aggregation, _MONOTONE)
    return [0.0] * num_agents if built_in else None


def _numbers(amounts: Sequence[float] | np.ndarray | None) -> list[float] | None:
    return None if amounts is None else np.asarray(amounts, float).tolist()
