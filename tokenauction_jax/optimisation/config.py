"""What is optimised: a setting, whose bids, and how."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic

from tokenauction_jax.mechanism import Valuation
from tokenauction_jax.outside import OutsideError
from tokenauction_jax.scenarios import kinds, names, objects, population, settings
from tokenauction_jax.scenarios.numbers import (
    STRICT,
    Amount,
    Amounts,
    Auctions,
    Index,
    PositiveAmount,
    Text,
    within,
)
from tokenauction_jax.scenarios.rules import ValuationName, needs_tokens
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.studies.config import Name, flatten, hashable, valuation_name
from tokenauction_jax.studies.levels import plain

_Steps = Annotated[int, within(1, 100_000)]
_Every = Annotated[int, within(0, 100_000)]
_Rate = Annotated[float, within(1e-9, 1e9)]


class OptimisationError(OutsideError):
    """Something that cannot be optimised, with what to change in one line."""


@dataclasses.dataclass(frozen=True)
class BestResponse:
    """The bid that pays one agent most, the others' bids given.

    Attributes:
      agent: Its number, from 0.
    """

    __pydantic_config__ = STRICT
    kind: Literal["best_response"] = "best_response"
    agent: Index = 0


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """Bids that are best responses to each other.

    Attributes:
      dynamics: Of `bidding.equilibrium`.
      optimizer: Follows derivatives instead of best responses.
      learning_rate: Of the optimizer.
      num_steps: The most steps.
      tolerance: The gap, money per text, up to which this is called an equilibrium.
      gap_every: Steps between two measurements of the gap, 0 for one at the end only.
    """

    __pydantic_config__ = STRICT
    kind: Literal["equilibrium"] = "equilibrium"
    dynamics: Literal["mixed", "alternating", "simultaneous", "averaged"] = "mixed"
    optimizer: Literal["adam", "sgd"] | None = None
    learning_rate: _Rate = 0.05
    num_steps: _Steps = 200
    tolerance: PositiveAmount = 1e-3
    gap_every: _Every = 10


@dataclasses.dataclass(frozen=True)
class Pacing:
    """Multipliers of bids that spend budgets, and texts that are written under them.

    Attributes:
      budgets: Money for a text, one number or one for each agent that has a budget.
      agents: The numbers of those that have one; all if None.
      policy: What learns its multiplier while a text is written, to compare with.
      rate: Its step.
      num_steps: The most steps towards the multipliers.
      tolerance: By how much a budget may be missed, relative to it.
    """

    __pydantic_config__ = STRICT
    budgets: Amounts
    kind: Literal["pacing"] = "pacing"
    agents: tuple[Index, ...] | None = None
    policy: Literal["adaptive_pacing", "multiplicative_pacing"] = "adaptive_pacing"
    rate: _Rate = 0.1
    num_steps: _Steps = 100
    tolerance: PositiveAmount = 2e-2


@dataclasses.dataclass(frozen=True)
class Known:
    """The answer, where it is known otherwise.

    Attributes:
      bids: One an agent, or of a best response its only one.
      within: By how much they may differ, in units of the largest.
      source: Where it is from.
    """

    __pydantic_config__ = STRICT
    bids: tuple[Amount, ...]
    within: PositiveAmount = 1e-3
    source: str = ""


Goal = BestResponse | Equilibrium | Pacing
SECTIONS = settings.SECTIONS | {
    "best_response": BestResponse,
    "equilibrium": Equilibrium,
    "pacing": Pacing,
    "known": Known,
}


@dataclasses.dataclass(frozen=True)
class Optimisation(Setting):
    """A setting whose bids are optimised.

    Values that are drawn differ from auction to auction: then a bid is the factor by
    which an agent shades its value, and the present bids are factors of the `bids`.
    In Python sections may be objects, as in a `Study`.

    Attributes:
      name: Of its folder and report.
      description: One line for the reader.
      goal: What is looked for.
      objective: What agents want: their utility under the valuation, or, for language
        models, their value in money for a text that mentions them, less what they pay.
      num_auctions: Texts that each expectation is taken over.
      valuation: What utility is made of.
      known: The answer, where it is known.
    """

    name: Name = "optimisation"
    description: str = ""
    goal: Annotated[Goal, pydantic.Field(discriminator="kind")] = Equilibrium()
    objective: Literal["utility", "mentions"] = "utility"
    num_auctions: Auctions = 1000
    valuation: ValuationName = "total_variation"
    known: Known | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Setting):
            given = settings.section(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, given)

    @property
    def setting(self) -> Setting:
        """What defines the auctions."""
        fields = dataclasses.fields(Setting)
        return Setting(**{field.name: getattr(self, field.name) for field in fields})

    @property
    def in_factors(self) -> bool:
        """Whether bids are factors on values, which differ between auctions."""
        return not isinstance(self.values, kinds.FixedValues | kinds.SharedValues)

    @functools.cached_property
    def population(self) -> population.Population:
        """Who bids: models are loaded here, once."""
        return population.build([self.setting])[0]

    @functools.cached_property
    def chosen_valuation(self) -> Valuation:
        """The valuation.

        Raises:
          RuleError: If its name leads to none.
        """
        chosen = self.valuation
        chosen = names.valuation(chosen) if isinstance(chosen, str) else chosen
        names.check_record(chosen.name, chosen)
        return chosen

    def canonical(self) -> str:
        """The whole configuration, one key a line: what is hashed."""
        return self._canonical

    @functools.cached_property
    def _canonical(self) -> str:
        content = hashable(plain(self))
        if isinstance(self.agents, kinds.ScenarioAgents):
            cast = self.population.cast
            content["scenario"] = {
                **hashable(plain(self.agents.read())),
                "models": objects.numbers_of(cast.pool),
                "commits": dict(cast.commits),
                "tokenizer": hashable(cast.tokenizer),
            }
        given = kinds.GivenValues | kinds.GivenBids
        if isinstance(self.values, given) or isinstance(self.bids, given):
            drawn = self.population.draw(0, self.num_auctions)
            data = b"".join(rows.tobytes() for rows in drawn)
            content["given"] = hashlib.sha256(data).hexdigest()
        flat = dict(flatten(content))
        return "".join(f"{key} = {json.dumps(flat[key])}\n" for key in sorted(flat))

    def outline(self) -> "Outline":
        """What a reader of the results must know."""
        return Outline(
            name=self.name,
            description=self.description,
            goal=self.goal,
            agents=tuple(self.population.agent_names),
            rule=self.rule.name,
            payment=needs_tokens(self.population.mechanism).payment.name,
            objective=self.objective,
            valuation=valuation_name(self.valuation),
            in_factors=self.in_factors,
            num_auctions=self.num_auctions,
            num_tokens=self.num_tokens,
            seed=self.seed,
            known=self.known,
        )


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a reader of the results must know; part of the manifest.

    Attributes:
      agents: Their names.
      rule: The aggregation.
      in_factors: Whether bids are factors on values.

    The others are those of `Optimisation`, and the payment of the rule.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    name: str
    description: str
    goal: Annotated[Goal, pydantic.Field(discriminator="kind")]
    agents: Sequence[Text]
    rule: str
    payment: str
    objective: str
    valuation: str
    in_factors: bool
    num_auctions: int
    num_tokens: int
    seed: int
    known: Known | None
