"""What defines the auctions of one cell of a study: agents, values, bids, rule."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

import pydantic

from tokenauction_jax.scenarios.scenario import (
    Rule,
    Scenario,
    ScenarioError,
    read_scenario,
)
from tokenauction_jax.scenarios.validation import Problem

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
_Positive = Annotated[float, pydantic.Field(strict=True, gt=0)]
_NonNegative = Annotated[float, pydantic.Field(strict=True, ge=0)]
_Share = Annotated[float, pydantic.Field(strict=True, ge=0, le=1)]
_Count = Annotated[int, pydantic.Field(strict=True, ge=1)]
_Text = Annotated[str, pydantic.Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class DirichletAgents:
    """Tabular agents drawn anew for each auction, ``p_i ~ Dirichlet(c, ..., c)``."""

    __pydantic_config__ = _STRICT
    kind: Literal["dirichlet"] = "dirichlet"
    num_agents: _Count = 3
    vocab_size: Annotated[int, pydantic.Field(strict=True, ge=2)] = 64
    concentration: _Positive = 0.3


@dataclasses.dataclass(frozen=True)
class ZipfAgents:
    """Tabular agents with a random ranking in each auction, ``p ~ rank^-exponent``."""

    __pydantic_config__ = _STRICT
    kind: Literal["zipf"] = "zipf"
    num_agents: _Count = 3
    vocab_size: Annotated[int, pydantic.Field(strict=True, ge=2)] = 64
    exponent: _NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class MarkovAgents:
    """Markov chains with Dirichlet rows, drawn once for the study from `table_seed`."""

    __pydantic_config__ = _STRICT
    kind: Literal["markov"] = "markov"
    num_agents: _Count = 3
    vocab_size: Annotated[int, pydantic.Field(strict=True, ge=2)] = 64
    concentration: _Positive = 0.3
    table_seed: Annotated[int, pydantic.Field(strict=True, ge=0, lt=2**32)] = 0


@dataclasses.dataclass(frozen=True)
class TableAgents:
    """Agents with the given distributions `(n, V)`, the same for every token."""

    __pydantic_config__ = _STRICT
    probs: Annotated[tuple[tuple[_NonNegative, ...], ...], pydantic.Field(min_length=1)]
    kind: Literal["table"] = "table"

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return len(self.probs)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, ``V``."""
        return len(self.probs[0])


@dataclasses.dataclass(frozen=True)
class ScenarioAgents:
    """The language models and prompts of a scenario; its bids and rules do not count.

    Attributes:
      scenario: A built-in one or a TOML file, as for `tokenauction simulate`.
      model: A checkpoint for all agents, instead of the scenario's own.
      reference_prompt: Makes the scenario's model with this prompt the reference of
        fluency; ``{query}`` stands for the query.
    """

    __pydantic_config__ = _STRICT
    scenario: _Text
    kind: Literal["scenario"] = "scenario"
    model: _Text | None = None
    reference_prompt: _Text | None = None

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return len(self.read().agents)

    def read(self) -> Scenario:
        """The scenario, with the study's model."""
        scenario = read_scenario(self.scenario)
        if self.model is None:
            return scenario
        agents = tuple(
            dataclasses.replace(agent, model=None, adapter=None)
            for agent in scenario.agents
        )
        return dataclasses.replace(scenario, model=self.model, agents=agents)


Agents = DirichletAgents | ZipfAgents | MarkovAgents | TableAgents | ScenarioAgents


@dataclasses.dataclass(frozen=True)
class FixedValues:
    """The same values in every auction: one number for all agents, or one each."""

    __pydantic_config__ = _STRICT
    kind: Literal["fixed"] = "fixed"
    amounts: _NonNegative | tuple[_NonNegative, ...] = 1.0


@dataclasses.dataclass(frozen=True)
class SharedValues:
    """A total of which the first agent's value is a share; the rest is even."""

    __pydantic_config__ = _STRICT
    share: _Share
    kind: Literal["share"] = "share"
    total: _Positive = 1.0


@dataclasses.dataclass(frozen=True)
class UniformValues:
    """Values uniform on ``[low, high]``, with a Gaussian copula."""

    __pydantic_config__ = _STRICT
    kind: Literal["uniform"] = "uniform"
    low: _NonNegative = 0.0
    high: _Positive = 1.0
    correlation: _Share = 0.0


@dataclasses.dataclass(frozen=True)
class LogNormalValues:
    """Values ``median * exp(sigma z)``, with a Gaussian copula."""

    __pydantic_config__ = _STRICT
    kind: Literal["log_normal"] = "log_normal"
    median: _Positive = 1.0
    sigma: _NonNegative = 0.5
    correlation: _Share = 0.0


@dataclasses.dataclass(frozen=True)
class GammaValues:
    """Gamma values of a mean and a shape, with a Gaussian copula."""

    __pydantic_config__ = _STRICT
    kind: Literal["gamma"] = "gamma"
    mean: _Positive = 1.0
    shape: _Positive = 2.0
    correlation: _Share = 0.0


Values = FixedValues | SharedValues | UniformValues | LogNormalValues | GammaValues


@dataclasses.dataclass(frozen=True)
class TruthfulBids:
    """Every agent bids its value."""

    __pydantic_config__ = _STRICT
    kind: Literal["truthful"] = "truthful"


@dataclasses.dataclass(frozen=True)
class ShadedBids:
    """Agents bid `factor` times their values; above 1 they exaggerate.

    Attributes:
      factor: What values are multiplied by.
      agents: The indices of those who do, from 0; the others are truthful. All if None.
    """

    __pydantic_config__ = _STRICT
    kind: Literal["shaded"] = "shaded"
    factor: _NonNegative = 0.8
    agents: tuple[Annotated[int, pydantic.Field(strict=True, ge=0)], ...] | None = None


@dataclasses.dataclass(frozen=True)
class FixedBids:
    """The same bids in every auction, whatever the values: one number, or one each."""

    __pydantic_config__ = _STRICT
    kind: Literal["fixed"] = "fixed"
    amounts: _NonNegative | tuple[_NonNegative, ...] = 1.0


Bids = TruthfulBids | ShadedBids | FixedBids


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is done to every agent's distribution before it is submitted.

    None leaves tabular agents as they are, and language models to their scenario.
    """

    __pydantic_config__ = _STRICT
    temperature: _Positive | None = None
    top_k: _Count | None = None
    top_p: Annotated[float, pydantic.Field(strict=True, gt=0, le=1)] | None = None
    min_p: Annotated[float, pydantic.Field(strict=True, gt=0, le=1)] | None = None


_LINEAR = Rule("linear")


_BY_KIND = pydantic.Field(discriminator="kind")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell: everything that defines its auctions.

    Attributes:
      agents: Who supplies the distributions.
      sampling: Applied to every agent's distribution before it is submitted.
      values: True values, money per unit of valuation.
      bids: What agents bid, given their values.
      rule: Aggregation and payment.
      num_tokens: The cap on the tokens of a text.
      seed: Of the auctions; cells of one seed run the same ones.
    """

    __pydantic_config__ = _STRICT
    agents: Annotated[Agents, _BY_KIND] = DirichletAgents()
    sampling: Filters = Filters()
    values: Annotated[Values, _BY_KIND] = LogNormalValues()
    bids: Annotated[Bids, _BY_KIND] = TruthfulBids()
    rule: Rule = _LINEAR
    num_tokens: _Count = 32
    seed: Annotated[int, pydantic.Field(strict=True, ge=0, lt=2**32)] = 0

    @property
    def agent_names(self) -> list[str]:
        """What tables call the agents: a scenario's names, or their indices."""
        if isinstance(self.agents, ScenarioAgents):
            return [agent.name for agent in self.agents.read().agents]
        return [str(i) for i in range(self.agents.num_agents)]


# By the key, or the tag of a union, that leads to each section.
SECTIONS: dict[str | int, type] = {
    "dirichlet": DirichletAgents,
    "zipf": ZipfAgents,
    "markov": MarkovAgents,
    "table": TableAgents,
    "scenario": ScenarioAgents,
    "share": SharedValues,
    "uniform": UniformValues,
    "log_normal": LogNormalValues,
    "gamma": GammaValues,
    "truthful": TruthfulBids,
    "shaded": ShadedBids,
    "rule": Rule,
    "sampling": Filters,
}


def problems(setting: Setting) -> Iterator[Problem]:
    """What is wrong with the combination of the parts of a setting."""
    agents = setting.agents
    try:
        n = agents.num_agents
    except ScenarioError as error:
        yield Problem(("agents", "scenario"), str(error))
        return
    if isinstance(agents, TableAgents):
        yield from _table_problems(agents)
    try:
        setting.rule.build()
    except ScenarioError as error:
        yield Problem(("rule",), str(error))
    values, bids = setting.values, setting.bids
    if isinstance(values, UniformValues) and values.low > values.high:
        yield Problem(("values", "low"), f"{values.low:g} is above high")
    for section, part in (("values", values), ("bids", bids)):
        if not isinstance(part, FixedValues | FixedBids):
            continue
        amounts = part.amounts
        amounts = amounts if isinstance(amounts, tuple) else (amounts,) * n
        if len(amounts) != n:
            yield Problem(
                (section, "amounts"), f"{len(amounts)} numbers, expected one or {n}"
            )
        elif not any(amounts):
            yield Problem((section, "amounts"), "must not all be zero")
    if isinstance(bids, ShadedBids):
        wrong = [i for i in bids.agents or () if i >= n]
        if wrong:
            yield Problem(("bids", "agents"), f"there is no agent {wrong[0]}, only {n}")
        if bids.factor == 0 and (bids.agents is None or len(set(bids.agents)) == n):
            yield Problem(("bids", "factor"), "0 for every agent leaves no auction")
    if isinstance(values, SharedValues) and n < 2:
        yield Problem(("values", "kind"), "a share needs at least two agents")


def _table_problems(agents: TableAgents) -> Iterator[Problem]:
    size = agents.vocab_size
    for i, row in enumerate(agents.probs):
        if len(row) != size or size < 2:
            yield Problem(
                ("agents", "probs", i),
                f"{len(row)} numbers, expected {max(size, 2)}: one for each token",
            )
        elif abs(sum(row) - 1) > 1e-6:
            yield Problem(("agents", "probs", i), f"must sum to 1, got {sum(row):.6g}")
