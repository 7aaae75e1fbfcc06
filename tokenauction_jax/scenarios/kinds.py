"""The agents, values and bids that a cell of a study may have, by kind."""

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic_core import PydanticCustomError

from tokenauction_jax.agents import AgentPool
from tokenauction_jax.scenarios import names
from tokenauction_jax.scenarios.numbers import (
    LARGEST,
    SMALLEST,
    STRICT,
    Amount,
    Amounts,
    Auctions,
    Concentration,
    Exponent,
    Factor,
    Index,
    NumAgents,
    PositiveAmount,
    PositiveShare,
    Seed,
    Shape,
    Share,
    Sigma,
    TemplateVariables,
    Text,
    VocabSize,
)
from tokenauction_jax.scenarios.scenario import Scenario, read_scenario


@dataclasses.dataclass(frozen=True)
class DirichletAgents:
    """Tabular agents drawn anew for each auction, ``p_i ~ Dirichlet(c, ..., c)``."""

    __pydantic_config__ = STRICT
    kind: Literal["dirichlet"] = "dirichlet"
    num_agents: NumAgents = 3
    vocab_size: VocabSize = 64
    concentration: Concentration = 0.3


@dataclasses.dataclass(frozen=True)
class ZipfAgents:
    """Tabular agents with a random ranking in each auction, ``p ~ rank^-exponent``."""

    __pydantic_config__ = STRICT
    kind: Literal["zipf"] = "zipf"
    num_agents: NumAgents = 3
    vocab_size: VocabSize = 64
    exponent: Exponent = 1.0


@dataclasses.dataclass(frozen=True)
class MarkovAgents:
    """Markov chains with Dirichlet rows, drawn once for the study from `table_seed`."""

    __pydantic_config__ = STRICT
    kind: Literal["markov"] = "markov"
    num_agents: NumAgents = 3
    vocab_size: VocabSize = 64
    concentration: Concentration = 0.3
    table_seed: Seed = 0


@dataclasses.dataclass(frozen=True)
class TableAgents:
    """Agents with the given distributions `(n, V)`, the same for every token."""

    __pydantic_config__ = STRICT
    probs: Annotated[tuple[tuple[Share, ...], ...], pydantic.Field(min_length=1)]
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
      chat_template_kwargs: Variables of all chat templates; they precede the scenario's
        and the agents' own.
    """

    __pydantic_config__ = STRICT
    scenario: Text
    kind: Literal["scenario"] = "scenario"
    model: Text | None = None
    reference_prompt: Text | None = None
    chat_template_kwargs: TemplateVariables = dataclasses.field(
        default_factory=dict, hash=False
    )

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return len(self.read().agents)

    def read(self) -> Scenario:
        """The scenario, with the study's model and variables of chat templates."""
        scenario, own = read_scenario(self.scenario), self.chat_template_kwargs
        dropped = ("model", "adapter") if self.model else ()
        changes: dict[str, Any] = dict.fromkeys(dropped)
        agents = tuple(
            dataclasses.replace(
                agent, chat_template_kwargs=agent.chat_template_kwargs | own, **changes
            )
            for agent in scenario.agents
        )
        return dataclasses.replace(
            scenario,
            model=self.model or scenario.model,
            agents=agents,
            chat_template_kwargs=scenario.chat_template_kwargs | own,
        )


def _check_pool(given: Any) -> Any:
    if isinstance(given, AgentPool | str) and not isinstance(given, type):
        return given
    raise PydanticCustomError("own", "should be an AgentPool, or FILE.py:NAME")


@dataclasses.dataclass(frozen=True)
class PoolAgents:
    """Agents of your own.

    Attributes:
      pool: An `AgentPool`, or ``FILE.py:NAME``, which may be a function that makes one.
      names: What tables call the bidders; by default their numbers. A pool with one
        agent more has the reference of fluency as its last.
      tokenizer: Turns tokens into texts: an `agents.Tokenizer`; only in Python.
      mentions: Phrases that count as a mention of each agent, by default its name.
    """

    __pydantic_config__ = STRICT
    pool: Annotated[Any, pydantic.AfterValidator(_check_pool)]
    kind: Literal["pool"] = "pool"
    names: tuple[Text, ...] | None = None
    tokenizer: Any = None
    mentions: tuple[tuple[Text, ...], ...] | None = None

    @property
    def num_agents(self) -> int:
        """Number of bidders, ``n``."""
        return self.build().num_agents if self.names is None else len(self.names)

    def build(self) -> AgentPool:
        """The pool.

        Raises:
          RuleError: If the reference leads to none.
        """
        return names.pool(self.pool) if isinstance(self.pool, str) else self.pool


Agents = (
    DirichletAgents
    | ZipfAgents
    | MarkovAgents
    | TableAgents
    | ScenarioAgents
    | PoolAgents
)


def _check_amounts(given: Any) -> Any:
    if (isinstance(given, np.ndarray) and given.ndim == 2) or callable(given):
        return given
    message = "should be an array (num_auctions, n), or a function"
    raise PydanticCustomError("own", message)


@dataclasses.dataclass(frozen=True)
class FixedValues:
    """The same values in every auction: one number for all agents, or one each."""

    __pydantic_config__ = STRICT
    kind: Literal["fixed"] = "fixed"
    amounts: Amounts = 1.0


@dataclasses.dataclass(frozen=True)
class SharedValues:
    """A total of which the first agent's value is a share; the rest is even."""

    __pydantic_config__ = STRICT
    share: Share
    kind: Literal["share"] = "share"
    total: PositiveAmount = 1.0


@dataclasses.dataclass(frozen=True)
class UniformValues:
    """Values uniform on ``[low, high]``, with a Gaussian copula."""

    __pydantic_config__ = STRICT
    kind: Literal["uniform"] = "uniform"
    low: Amount = 0.0
    high: PositiveAmount = 1.0
    correlation: Share = 0.0


@dataclasses.dataclass(frozen=True)
class LogNormalValues:
    """Values ``median * exp(sigma z)``, with a Gaussian copula."""

    __pydantic_config__ = STRICT
    kind: Literal["log_normal"] = "log_normal"
    median: PositiveAmount = 1.0
    sigma: Sigma = 0.5
    correlation: Share = 0.0


@dataclasses.dataclass(frozen=True)
class GammaValues:
    """Gamma values of a mean and a shape, with a Gaussian copula."""

    __pydantic_config__ = STRICT
    kind: Literal["gamma"] = "gamma"
    mean: PositiveAmount = 1.0
    shape: Shape = 2.0
    correlation: Share = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class GivenValues:
    """Values of your own, in Python.

    Attributes:
      amounts: `(num_auctions, n)`, or a function of the numbers of some auctions `(A,)`
        that returns their values `(A, n)`, whatever else is asked for.
    """

    __pydantic_config__ = STRICT
    amounts: Annotated[Any, pydantic.AfterValidator(_check_amounts)]
    kind: Literal["given"] = "given"


Values = (
    FixedValues
    | SharedValues
    | UniformValues
    | LogNormalValues
    | GammaValues
    | GivenValues
)


@dataclasses.dataclass(frozen=True)
class TruthfulBids:
    """Every agent bids its value."""

    __pydantic_config__ = STRICT
    kind: Literal["truthful"] = "truthful"


@dataclasses.dataclass(frozen=True)
class ShadedBids:
    """Agents bid `factor` times their values; above 1 they exaggerate.

    Attributes:
      factor: What values are multiplied by.
      agents: The indices of those who do, from 0; the others are truthful. All if None.
    """

    __pydantic_config__ = STRICT
    kind: Literal["shaded"] = "shaded"
    factor: Factor = 0.8
    agents: tuple[Index, ...] | None = None


@dataclasses.dataclass(frozen=True)
class CappedBids:
    """Agents bid their values, or `cap` if that is less: what they can pay at most."""

    __pydantic_config__ = STRICT
    cap: PositiveAmount
    kind: Literal["capped"] = "capped"


@dataclasses.dataclass(frozen=True)
class FixedBids:
    """The same bids in every auction, whatever the values: one number, or one each."""

    __pydantic_config__ = STRICT
    kind: Literal["fixed"] = "fixed"
    amounts: Amounts = 1.0


@dataclasses.dataclass(frozen=True)
class WeightBids:
    """Bids of the same total as `amounts` that give the first agent a weight.

    Attributes:
      weight: Of the first agent, under the cell's rule.
      amounts: The other agents keep the proportions that they have here.
    """

    __pydantic_config__ = STRICT
    weight: Share
    amounts: tuple[Amount, ...]
    kind: Literal["weight"] = "weight"


@dataclasses.dataclass(frozen=True)
class EquilibriumBids:
    """Bids that are best responses to each other, found before the auctions run.

    Of drawn values each agent bids a factor of its own times its value. Not for
    language models, whose equilibria take hours: find those with `optimise`.

    Attributes:
      valuation: What agents maximise, less what they pay.
      num_auctions: Texts behind each expectation of the search.
      num_steps: The most steps.
      tolerance: What all agents may gain by deviating, in units of their values for a
        text; without an equilibrium nothing runs.
    """

    __pydantic_config__ = STRICT
    kind: Literal["equilibrium"] = "equilibrium"
    valuation: Literal["total_variation", "forward_kl", "reverse_kl"] = (
        "total_variation"
    )
    num_auctions: Auctions = 1000
    num_steps: Auctions = 200
    tolerance: PositiveShare = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class GivenBids:
    """Bids of your own, in Python.

    Attributes:
      amounts: `(num_auctions, n)`, or a function from the values `(A, n)` of some
        auctions to their bids `(A, n)`, row by row.
    """

    __pydantic_config__ = STRICT
    amounts: Annotated[Any, pydantic.AfterValidator(_check_amounts)]
    kind: Literal["given"] = "given"


Bids = (
    TruthfulBids
    | ShadedBids
    | CappedBids
    | FixedBids
    | WeightBids
    | EquilibriumBids
    | GivenBids
)


def find_wrong_amount(amounts: np.ndarray, where: str = " in row {row}") -> str:
    """What is wrong with values or bids `(A, n)`, empty if nothing is.

    Args:
      amounts: Which.
      where: How the row is told.
    """
    if amounts.dtype.kind not in "iuf":
        return f"must be numbers, got {amounts.dtype}"
    held = (amounts == 0) | ((amounts >= SMALLEST) & (amounts <= LARGEST))
    if not held.all():
        row, agent = np.argwhere(~held)[0]
        wrong = f"must be 0, or from {SMALLEST:g} to {LARGEST:g}"
        got = f"got {amounts[row, agent]:g} for agent {agent}"
        return f"{wrong}, {got}{where.format(row=row)}"
    silent = ~amounts.any(axis=1)
    row = silent.argmax()
    return f"must not all be zero{where.format(row=row)}" if silent.any() else ""
