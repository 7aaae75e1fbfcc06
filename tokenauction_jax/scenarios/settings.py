"""What defines the auctions of one cell of a study: agents, values, bids, rule."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic_core import PydanticCustomError

from tokenauction_jax.agents import AgentPool
from tokenauction_jax.scenarios import names
from tokenauction_jax.scenarios.rules import Rule, as_rule
from tokenauction_jax.scenarios.scenario import (
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

    __pydantic_config__ = _STRICT
    pool: Annotated[Any, pydantic.AfterValidator(_check_pool)]
    kind: Literal["pool"] = "pool"
    names: tuple[_Text, ...] | None = None
    tokenizer: Any = None
    mentions: tuple[tuple[_Text, ...], ...] | None = None

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


@dataclasses.dataclass(frozen=True, eq=False)
class GivenValues:
    """Values of your own, in Python.

    Attributes:
      amounts: `(num_auctions, n)`, or a function of the numbers of some auctions `(A,)`
        that returns their values `(A, n)`, whatever else is asked for.
    """

    __pydantic_config__ = _STRICT
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


@dataclasses.dataclass(frozen=True)
class WeightBids:
    """Bids of the same total as `amounts` that give the first agent a weight.

    Attributes:
      weight: Of the first agent, under the cell's rule.
      amounts: The other agents keep the proportions that they have here.
    """

    __pydantic_config__ = _STRICT
    weight: _Share
    amounts: tuple[_NonNegative, ...]
    kind: Literal["weight"] = "weight"


@dataclasses.dataclass(frozen=True, eq=False)
class GivenBids:
    """Bids of your own, in Python.

    Attributes:
      amounts: `(num_auctions, n)`, or a function from the values `(A, n)` of some
        auctions to their bids `(A, n)`, row by row.
    """

    __pydantic_config__ = _STRICT
    amounts: Annotated[Any, pydantic.AfterValidator(_check_amounts)]
    kind: Literal["given"] = "given"


Bids = TruthfulBids | ShadedBids | FixedBids | WeightBids | GivenBids


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
        if isinstance(self.agents, PoolAgents) and self.agents.names is not None:
            return list(self.agents.names)
        return [str(i) for i in range(self.agents.num_agents)]

    @property
    def has_texts(self) -> bool:
        """Whether tokens can be turned into texts."""
        if isinstance(self.agents, PoolAgents):
            return self.agents.tokenizer is not None
        return isinstance(self.agents, ScenarioAgents)


# By the key, or the tag of a union, that leads to each section.
SECTIONS: dict[str | int, type] = {
    "dirichlet": DirichletAgents,
    "zipf": ZipfAgents,
    "markov": MarkovAgents,
    "table": TableAgents,
    "scenario": ScenarioAgents,
    "pool": PoolAgents,
    "share": SharedValues,
    "uniform": UniformValues,
    "log_normal": LogNormalValues,
    "gamma": GammaValues,
    "truthful": TruthfulBids,
    "shaded": ShadedBids,
    "weight": WeightBids,
    "rule": Rule,
    "sampling": Filters,
}


def section(name: str, given: Any) -> Any:
    """The section that an object, or a short form, stands for.

    An `AgentPool` or its ``FILE.py:NAME`` are agents, a `Mechanism`, an aggregation or
    a name is a rule, and an array or a function are values or bids.
    """
    is_array = isinstance(given, Sequence | np.ndarray) or hasattr(given, "__array__")
    if isinstance(given, dict) or hasattr(given, "__pydantic_config__"):
        return given
    if name == "agents":
        return {"kind": "pool", "pool": given}
    if name == "rule":
        return as_rule(given)
    if name in ("values", "bids") and is_array and not isinstance(given, str):
        amounts = np.asarray(given)
        if amounts.ndim < 2:
            return {"kind": "fixed", "amounts": amounts.tolist()}
        return {"kind": "given", "amounts": amounts}
    if name in ("values", "bids") and callable(given):
        return {"kind": "given", "amounts": given}
    return given


def problems(setting: Setting, num_auctions: int) -> Iterator[Problem]:
    """What is wrong with the combination of the parts of a setting."""
    agents = setting.agents
    try:
        n = agents.num_agents
    except (ScenarioError, names.RuleError) as error:
        yield Problem(("agents", agents.kind), str(error))
        return
    if isinstance(agents, TableAgents):
        yield from _table_problems(agents)
    if isinstance(agents, PoolAgents):
        yield from _pool_problems(agents)
    try:
        setting.rule.build()
    except names.RuleError as error:
        yield Problem(("rule",), str(error))
    for name in ("values", "bids"):
        yield from _amount_problems(name, getattr(setting, name), n, num_auctions)
    values, bids = setting.values, setting.bids
    if isinstance(values, UniformValues) and values.low > values.high:
        yield Problem(("values", "low"), f"{values.low:g} is above high")
    if isinstance(bids, ShadedBids):
        wrong = [i for i in bids.agents or () if i >= n]
        if wrong:
            yield Problem(("bids", "agents"), f"there is no agent {wrong[0]}, only {n}")
        if bids.factor == 0 and (bids.agents is None or len(set(bids.agents)) == n):
            yield Problem(("bids", "factor"), "0 for every agent leaves no auction")
    if isinstance(values, SharedValues) and n < 2:
        yield Problem(("values", "kind"), "a share needs at least two agents")


def _amount_problems(
    name: str, part: Values | Bids, n: int, num_auctions: int
) -> Iterator[Problem]:
    """What is wrong with values or bids that are given, for all auctions or one."""
    place = (name, "amounts")
    if isinstance(part, GivenValues | GivenBids):
        if not callable(part.amounts) and part.amounts.shape != (num_auctions, n):
            wanted = f"({num_auctions}, {n}): a row an auction, a number an agent"
            yield Problem(place, f"has shape {part.amounts.shape}, expected {wanted}")
        elif not callable(part.amounts):
            wrong = find_wrong_amount(part.amounts)
            if wrong:
                yield Problem(place, wrong)
    elif isinstance(part, FixedValues | FixedBids | WeightBids):
        amounts = part.amounts
        amounts = amounts if isinstance(amounts, tuple) else (amounts,) * n
        if len(amounts) != n:
            yield Problem(place, f"{len(amounts)} numbers, expected one or {n}")
        elif not any(amounts):
            yield Problem(place, "must not all be zero")


def find_wrong_amount(amounts: np.ndarray) -> str:
    """What is wrong with values or bids `(A, n)`, empty if nothing is."""
    if not np.issubdtype(amounts.dtype, np.number):
        return f"must be numbers, got {amounts.dtype}"
    finite = np.isfinite(amounts.astype(np.float32)) & (amounts >= 0)
    if not finite.all():
        row, agent = np.argwhere(~finite)[0]
        wrong = f"must be finite and not negative, got {amounts[row, agent]}"
        return f"{wrong} for agent {agent} in row {row}"
    silent = ~(amounts.sum(axis=1) > 0)
    return f"must not all be zero in row {silent.argmax()}" if silent.any() else ""


def _pool_problems(agents: PoolAgents) -> Iterator[Problem]:
    size, n = agents.build().num_agents, agents.num_agents
    if size not in (n, n + 1):
        wanted = f"{size}, one for each agent of the pool"
        yield Problem(("agents", "names"), f"{n} names, expected {wanted}")
    if agents.mentions is not None and len(agents.mentions) != n:
        given = f"{len(agents.mentions)} lists of phrases, expected {n}"
        yield Problem(("agents", "mentions"), given)


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
