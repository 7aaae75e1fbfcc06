"""The numbers and texts that scenarios and studies may have, each within its bounds.

They are refused by their values, before anything is built. The bounds are where numbers
in float32, which reach from 1e-38 to 3e38, begin to lose what they say.
"""

from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

from tokenauction_jax.mechanism.base import LARGEST_BID, SMALLEST_BID

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

# Of money and probabilities: room on both sides for products, and sums over agents.
SMALLEST, LARGEST = SMALLEST_BID, LARGEST_BID
# What tells the two forms of `Amounts` apart in the places of mistakes.
NUMBER, LIST = "<number>", "<list>"
# What is counted. A program has a part for each pair of agents: of 64 it compiles for
# minutes; and a table of 2^20 tokens takes gigabytes in a block of auctions.
MOST_AGENTS, _MOST_TOKENS, _MOST_OF_A_TEXT = 64, 2**20, 2**16


def within(low: float, high: float) -> Any:
    """A number from `low` to `high`, both included."""
    return pydantic.Field(strict=True, ge=low, le=high)


def _zero_or_from(least: float) -> pydantic.AfterValidator:
    """Checks that a number is not between 0 and `least`; there is one zero."""

    def check(number: float) -> float:
        if 0 < number < least:
            message = "should be 0, or at least {least}"
            raise PydanticCustomError("tiny", message, {"least": f"{least:g}"})
        return abs(number)

    return pydantic.AfterValidator(check)


# Money: what is bid, valued or paid, per unit of value and token.
PositiveAmount = Annotated[float, within(SMALLEST, LARGEST)]
Amount = Annotated[float, within(0, LARGEST), _zero_or_from(SMALLEST)]
# One for all agents, or one each.
Amounts = Annotated[
    Annotated[Amount, pydantic.Tag(NUMBER)]
    | Annotated[tuple[Amount, ...], pydantic.Tag(LIST)],
    pydantic.Discriminator(lambda x: LIST if isinstance(x, list | tuple) else NUMBER),
]
# What multiplies amounts.
Factor = Annotated[float, within(0, 1e3), _zero_or_from(1e-3)]
# Of a probability or of a total.
Share = Annotated[float, within(0, 1), _zero_or_from(SMALLEST)]
PositiveShare = Annotated[float, within(SMALLEST, 1)]
# Divides log-probabilities; far below, all that is left is the most probable token,
# which is `top_k = 1`, and far above, the uniform distribution.
Temperature = Annotated[float, within(1e-6, 1e6)]
# Of a Dirichlet distribution: below, log-probabilities exceed float32's digits; above,
# it is uniform.
Concentration = Annotated[float, within(1e-4, 1e6)]
# Of ``rank^-s``: at 100 the second token has probability 1e-30.
Exponent = Annotated[float, within(0, 100)]
# Of log-normal values: at 7 the largest of 10^10 is 10^19 medians.
Sigma = Annotated[float, within(0, 7)]
# Of gamma values: at 0.1 one in 1,000 is below 1e-30 of their mean.
Shape = Annotated[float, within(0.1, 1e6)]
# Of a power mean: at 1,000 it is its limit, but for factors of 1.01.
Order = Annotated[float, within(-1e3, 1e3)]
# Exponent on the bids: at 1,000 the highest wins all, at 0.001 all bidders weigh alike.
Influence = Annotated[float, within(1e-3, 1e3)]
# Of MOSAIC, in money: what a nat of divergence from the reference costs.
Tau = PositiveAmount
NumReplies = Annotated[int, within(1, 2**16)]
Passes = Annotated[int, within(1, 2**31 - 1)]

Seed = Annotated[int, within(0, 2**32 - 1)]
Index = Annotated[int, within(0, MOST_AGENTS - 1)]
Auctions = Annotated[int, within(1, 2**31 - 1)]
KeptAuctions = Annotated[int, within(0, 2**31 - 1)]
NumAgents = Annotated[int, within(1, MOST_AGENTS)]
VocabSize = Annotated[int, within(2, _MOST_TOKENS)]
NumTokens = Annotated[int, within(1, _MOST_OF_A_TEXT)]
TopK = Annotated[int, within(1, 2**31 - 1)]
Text = Annotated[str, pydantic.Field(min_length=1)]
# Of chat templates, by name: what JSON knows, which TOML's dates are not.
TemplateVariables = dict[str, pydantic.JsonValue]
