"""Names, units and order of what is measured of a text."""

from typing import NamedTuple

VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")

# The measures of a text, in the order of its row: unit, one for each valuation, one for
# each agent.
MEASURES = {
    "welfare": ("money per text", True, False),
    "realized_welfare": ("money per text", True, False),
    "optimum_shortfall": ("money per text", True, False),
    "single_agent_shortfall": ("money per text", True, False),
    "minimum_welfare": ("money per text", True, False),
    "nash_welfare": ("nats per text", False, False),
    "revenue": ("money per text", False, False),
    "expected_revenue": ("money per text", False, False),
    "payment": ("money per text", False, True),
    "expected_payment": ("money per text", False, True),
    "utility": ("money per text", True, True),
    "expected_utility": ("money per text", True, True),
    "influence": ("share", False, True),
    "robustly_gains": ("share of tokens", False, True),
    "robustly_loses": ("share of tokens", False, True),
    "entropy": ("nats per token", False, False),
    "log_likelihood": ("nats per text", False, False),
    "log_ratio": ("nats per text", False, True),
    "length": ("tokens", False, False),
    "mention": ("share of texts", False, True),
}
UNITS = {name: unit for name, (unit, _, _) in MEASURES.items()}
# Means of numbers in [0, 1] that are often 0 or 1 throughout.
SHARES = ("robustly_gains", "robustly_loses", "mention")
# Averaged over the tokens of a text; what else is observed is summed.
AVERAGED = ("influence", "robustly_gains", "robustly_loses", "entropy")


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


def columns(num_agents: int, with_mentions: bool = False) -> list[Column]:
    """The columns of `Texts.measures`, and those of mentions if texts have them."""
    return [
        Column(name, valuation, agent)
        for name, (_, by_valuation, by_agent) in MEASURES.items()
        if with_mentions or name != "mention"
        for valuation in (VALUATIONS if by_valuation else [""])
        for agent in (range(num_agents) if by_agent else [None])
    ]
