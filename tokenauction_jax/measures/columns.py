"""Names, units and order of what is measured of a text.

Three numbers are easily taken for one another: ``influence`` is the exponent ``a`` of a
rule, the *weight* of an agent is ``lambda_i = b_i^a / sum_j b_j^a``, and its
*attribution* of a drawn token is the share ``lambda_i p_i / sum_j lambda_j p_j`` of the
token's probability that it brought.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

# What of a mechanism a measure looks at: a whole text and what was paid for it; the
# distributions that its tokens were drawn from; or how agents share in each of these.
Scope = Literal["text", "path", "token"]
_SCOPES: tuple[Scope, ...] = ("text", "path", "token")
# Always measured; a study may add one of its own.
VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")


class Measure(NamedTuple):
    """What is measured.

    Attributes:
      unit: Of the number.
      by_valuation: Whether there is one for each valuation.
      by_agent: Whether there is one for each agent.
      averaged: Whether it is the mean over the tokens of a text, not the sum.
      closed_form: Whether it needs a formula that only built-in valuations have.
      scope: What of a mechanism it looks at: one that brings about texts in another way
        does not have it.
    """

    unit: str
    by_valuation: bool = False
    by_agent: bool = False
    averaged: bool = False
    closed_form: bool = False
    scope: Scope = "path"


# In the order of the row of a text.
MEASURES = {
    "welfare": Measure("money per text", by_valuation=True),
    "realized_welfare": Measure("money per text", by_valuation=True, closed_form=True),
    "optimum_shortfall": Measure("money per text", by_valuation=True, closed_form=True),
    "single_agent_shortfall": Measure("money per text", by_valuation=True),
    "minimum_welfare": Measure("money per text", by_valuation=True),
    "finite_welfare": Measure("money per text", by_valuation=True),
    "infinite_tokens": Measure("tokens", by_valuation=True),
    "nash_welfare": Measure("nats per text"),
    "revenue": Measure("money per text", scope="text"),
    "expected_revenue": Measure("money per text", scope="text"),
    "payment": Measure("money per text", by_agent=True, scope="text"),
    "expected_payment": Measure("money per text", by_agent=True, scope="text"),
    "utility": Measure("money per text", by_valuation=True, by_agent=True),
    "expected_utility": Measure("money per text", by_valuation=True, by_agent=True),
    "weight": Measure("share", by_agent=True, averaged=True),
    "robustly_gains": Measure(
        "share of tokens", by_agent=True, averaged=True, scope="token"
    ),
    "robustly_loses": Measure(
        "share of tokens", by_agent=True, averaged=True, scope="token"
    ),
    "entropy": Measure("nats per token", averaged=True),
    "log_prob": Measure("nats per text"),
    "log_likelihood": Measure("nats per text", scope="text"),
    "log_ratio": Measure("nats per text", by_agent=True, scope="text"),
    "log_ratio_welfare": Measure("money per text", scope="text"),
    "minimum_log_ratio_welfare": Measure("money per text", scope="text"),
    "log_ratio_utility": Measure("money per text", by_agent=True, scope="text"),
    "divergence": Measure("nats per text", scope="text"),
    "regularized_welfare": Measure("money per text", scope="text"),
    "forward_passes": Measure("passes per text", scope="text"),
    "drawn_tokens": Measure("tokens", scope="text"),
    "length": Measure("tokens", scope="text"),
    "mention": Measure("share of texts", by_agent=True, scope="text"),
}
UNITS = {name: measure.unit for name, measure in MEASURES.items()}
# Means of numbers in [0, 1] that are often 0 or 1 throughout.
SHARES = ("robustly_gains", "robustly_loses", "mention")


class Column(NamedTuple):
    """One number of a text: a measure, of a valuation and an agent if it has them."""

    measure: str
    valuation: str = ""
    agent: int | None = None

    @property
    def key(self) -> str:
        """Such as ``utility/forward_kl/0``."""
        parts = (self.measure, self.valuation, "" if self.agent is None else self.agent)
        return "/".join(str(part) for part in parts if part != "")


def widest(scopes: Sequence[Scope]) -> Scope:
    """The scope that has all measures of some; that of tokens if there are none."""
    return max(scopes, key=_SCOPES.index) if scopes else "token"


def columns(
    num_agents: int,
    with_mentions: bool = False,
    valuations: Sequence[str] = VALUATIONS,
    scope: Scope = "token",
) -> list[Column]:
    """The columns of `Texts.measures`, and those of mentions if texts have them."""
    return [
        Column(name, valuation, agent)
        for name, measure in MEASURES.items()
        if with_mentions or name != "mention"
        if _SCOPES.index(measure.scope) <= _SCOPES.index(scope)
        for valuation in (valuations if measure.by_valuation else [""])
        if not measure.closed_form or valuation in VALUATIONS
        for agent in (range(num_agents) if measure.by_agent else [None])
    ]
