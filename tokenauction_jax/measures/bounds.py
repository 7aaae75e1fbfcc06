"""What each measure of a text lies between, whatever the text: no estimate knows it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tokenauction_jax.measures.columns import VALUATIONS, Column
from tokenauction_jax.statistics import Bounds

_PAYMENTS = ("revenue", "expected_revenue", "payment", "expected_payment")
_UTILITIES = ("utility", "expected_utility", "log_ratio_utility")
# Made of values, though of no valuation.
_WORTH = (
    *("log_ratio_welfare", "minimum_log_ratio_welfare", "log_ratio_utility"),
    "regularized_welfare",
)
# Even where all tokens have the same distributions, they differ by what is drawn.
_OF_DRAWN = (
    *("realized_welfare", "log_prob", "log_likelihood", "log_ratio", "divergence"),
    *(*_WORTH, "mention"),
)
_Range = tuple[float, float]
_ANY, _BELOW = (-math.inf, math.inf), (-math.inf, 0.0)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What bounds the measures of the auctions of a cell; None is not known.

    Attributes:
      tokens: The cap on the tokens of a text.
      ends: Whether texts may be shorter.
      vocab_size: How many tokens there are to draw from.
      values: The largest value of each agent.
      payments: The most that each agent is charged for a token.
      least_payments: Likewise the least.
      fixed_bids: Whether bids are the same in all auctions.
      repeats: Whether distributions, values and bids are the same at every token.
      draws: Whether payments depend on the token that is drawn.
      drawn: How many tokens are drawn for a token of a text, of all candidates.
      passes: How often models read a token for it.
      origins: Numbers of what texts, values and payments are computed from: cells that
        have one in common have the same in every auction.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    tokens: int | None = None
    ends: bool = True
    vocab_size: int | None = None
    values: Sequence[float] | None = None
    payments: Sequence[float] | None = None
    least_payments: Sequence[float] | None = None
    fixed_bids: bool = False
    repeats: bool = False
    draws: bool = True
    drawn: float | None = None
    passes: float | None = None
    origins: tuple[int, int, int] | None = None

    def bounds(self, columns: Sequence[Column]) -> Bounds:
        """Of the measures of a text, `(M,)`."""
        ranges = np.array([self._range(column) for column in columns], float)
        low, high = ranges.reshape(-1, 2).T
        constant = [self._constant(column) for column in columns]
        return Bounds(low, high, np.array(constant, bool) | (low == high))

    def origin(self, column: Column) -> tuple[int | None, ...] | None:
        """What a measure is computed from; None if that is not known."""
        if self.origins is None:
            return None
        texts, values, payments = self.origins
        charged = column.measure in (*_PAYMENTS, *_UTILITIES)
        worth = bool(column.valuation) or column.measure in _WORTH
        return texts, values if worth else None, payments if charged else None

    def _constant(self, column: Column) -> bool:
        """Whether it is one number in all auctions, though maybe not known which."""
        if column.measure == "weight":
            return self.fixed_bids
        charged = column.measure in (*_PAYMENTS, *_UTILITIES)
        drawn = column.measure in _OF_DRAWN or (charged and self.draws)
        return self.repeats and not drawn

    def _range(self, column: Column) -> _Range:
        measure, agent = column.measure, column.agent
        if measure in ("weight", "robustly_gains", "robustly_loses", "mention"):
            return 0.0, 1.0
        if measure == "entropy":
            return 0.0, math.log(self.vocab_size or math.inf)
        if measure == "length":
            return self._least_tokens, self._most_tokens
        if measure == "infinite_tokens":
            finite = column.valuation == VALUATIONS[0]
            return 0.0, 0.0 if finite else self._most_tokens
        if measure in ("nash_welfare", "log_prob", "log_likelihood"):
            return _BELOW
        if measure in _PAYMENTS:
            return self._charged(agent)
        if measure in ("drawn_tokens", "forward_passes"):
            each = self.drawn if measure == "drawn_tokens" else self.passes
            if each is None:
                return 0.0, math.inf
            return each * self._least_tokens, each * self._most_tokens
        if column.valuation not in VALUATIONS or measure == "log_ratio":
            return _ANY
        return self._of_value(measure, agent, column.valuation == VALUATIONS[0])

    def _of_value(self, measure: str, agent: int | None, unit: bool) -> _Range:
        """Of what is made of valuations, which lie in [-1, 0] or are negative."""
        worth = (self.values if unit else None) or [math.inf]
        every, most = self._most_tokens * sum(worth), self._most_tokens * max(worth)
        if measure in _UTILITIES:
            own = self._most_tokens * worth[min(agent or 0, len(worth) - 1)]
            least, largest = self._charged(agent)
            return -own - largest, -least
        return {
            "optimum_shortfall": (0.0, every),
            "single_agent_shortfall": (-every, every),
            "minimum_welfare": (-most, 0.0),
            # One draw's estimate of a divergence may have the other sign.
            "realized_welfare": (-every, 0.0 if unit else math.inf),
        }.get(measure, (-every, 0.0))

    def _charged(self, agent: int | None) -> _Range:
        """Of the payment of an agent, or of all of them."""
        chosen = slice(None) if agent is None else slice(agent, agent + 1)
        low, high = _ANY
        if self.least_payments is not None:
            low = self._least_tokens * sum(self.least_payments[chosen])
        if self.payments is not None:
            high = self._most_tokens * sum(self.payments[chosen])
        return low, high

    @property
    def _most_tokens(self) -> float:
        return math.inf if self.tokens is None else float(self.tokens)

    @property
    def _least_tokens(self) -> float:
        return 1.0 if self.ends else self._most_tokens
