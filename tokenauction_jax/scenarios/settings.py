"""What defines the auctions of one cell of a study: agents, values, bids, rule."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pydantic

from tokenauction_jax.mechanism import Mechanism
from tokenauction_jax.mechanism.base import SupportsInfluence
from tokenauction_jax.replies import TextAuction
from tokenauction_jax.scenarios import names
from tokenauction_jax.scenarios.kinds import (
    Agents,
    Bids,
    CappedBids,
    DirichletAgents,
    EquilibriumBids,
    FixedBids,
    FixedValues,
    GammaValues,
    GivenBids,
    GivenValues,
    LogNormalValues,
    MarkovAgents,
    PoolAgents,
    ScenarioAgents,
    ShadedBids,
    SharedValues,
    TableAgents,
    TruthfulBids,
    UniformValues,
    Values,
    WeightBids,
    ZipfAgents,
    find_wrong_amount,
)
from tokenauction_jax.scenarios.numbers import (
    MOST_AGENTS,
    STRICT,
    NumTokens,
    PositiveShare,
    Seed,
    Temperature,
    TopK,
)
from tokenauction_jax.scenarios.rules import (
    AnyRule,
    ReplyRule,
    Rule,
    SegmentRule,
    as_any_rule,
)
from tokenauction_jax.scenarios.scenario import ScenarioError
from tokenauction_jax.scenarios.validation import Problem
from tokenauction_jax.scenarios.values import extremes, make_bids


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is done to every agent's distribution before it is submitted.

    None leaves tabular agents as they are, and language models to their scenario.
    """

    __pydantic_config__ = STRICT
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: PositiveShare | None = None
    min_p: PositiveShare | None = None


_AGENTS, _VALUES, _BIDS = DirichletAgents(), LogNormalValues(), TruthfulBids()
_LINEAR = Rule("linear")


# Probabilities of all agents: what a block of auctions holds 32 times, and chains once.
_MOST, _MOST_OF_CHAINS = 2**20, 2**26
_BY_KIND = pydantic.Field(discriminator="kind")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell: everything that defines its auctions.

    Attributes:
      agents: Who supplies the distributions.
      sampling: Applied to every agent's distribution before it is submitted.
      values: True values, money per unit of valuation.
      bids: What agents bid, given their values.
      rule: Aggregation and payment, or an auction of whole replies.
      num_tokens: The cap on the tokens of a text.
      seed: Of the auctions; cells of one seed run the same ones.
    """

    __pydantic_config__ = STRICT
    agents: Annotated[Agents, _BY_KIND] = _AGENTS
    sampling: Filters = Filters()
    values: Annotated[Values, _BY_KIND] = _VALUES
    bids: Annotated[Bids, _BY_KIND] = _BIDS
    rule: AnyRule = _LINEAR
    num_tokens: NumTokens = 32
    seed: Seed = 0

    @property
    def agent_names(self) -> list[str]:
        """What tables call the agents: a scenario's names, or their indices."""
        if isinstance(self.agents, ScenarioAgents):
            return [agent.name for agent in self.agents.read().agents]
        if isinstance(self.agents, PoolAgents) and self.agents.names is not None:
            return list(self.agents.names)
        return [str(i) for i in range(self.agents.num_agents)]

    @property
    def has_reference(self) -> bool:
        """Whether the agents bring a reference."""
        if isinstance(self.agents, ScenarioAgents):
            return self.agents.reference_prompt is not None
        if isinstance(self.agents, PoolAgents):
            return self.agents.build().num_agents > self.agents.num_agents
        return False

    def mechanism(self) -> Mechanism | TextAuction:
        """The rules.

        Raises:
          RuleError: If a name leads nowhere, or something does not go together.
        """
        if isinstance(self.rule, Rule):
            return self.rule.build()
        if isinstance(self.rule, SegmentRule):
            return self.rule.build(self.agents.num_agents)
        num_models = self.agents.num_agents + self.has_reference
        return self.rule.build(self.num_tokens, num_models)

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
    "capped": CappedBids,
    "weight": WeightBids,
    "equilibrium": EquilibriumBids,
    "token_rule": Rule,
    "reply_rule": ReplyRule,
    "segment_rule": SegmentRule,
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
        return as_any_rule(given)
    if name in ("values", "bids") and is_array and not isinstance(given, str):
        try:
            amounts = np.asarray(given)
        except ValueError:  # Rows of different lengths.
            return given
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
    if isinstance(setting.bids, EquilibriumBids):
        yield from _equilibrium_problems(setting)
    if isinstance(agents, PoolAgents):
        yield from _pool_problems(agents)
    found = [
        *_size_problems(agents),
        *_amount_problems("values", setting.values, n, num_auctions),
        *_amount_problems("bids", setting.bids, n, num_auctions),
        *_combined_problems(setting.values, setting.bids, n),
    ]
    try:
        mechanism = setting.mechanism()
        influence = influence_of(mechanism)
        if num_auctions * getattr(mechanism, "num_replies", 1) > 2**32:
            found.append(Problem(("rule", "num_replies"), "over 2**32 replies in all"))
    except names.RuleError as error:
        found.append(Problem(("rule",), str(error)))
    else:
        if not found:
            found += _extreme_problems(setting.values, setting.bids, n, influence)
    yield from found


def influence_of(mechanism: Mechanism | TextAuction) -> float:
    """The exponent on the bids."""
    rule = mechanism.aggregation if isinstance(mechanism, Mechanism) else None
    return float(rule.influence) if isinstance(rule, SupportsInfluence) else 1.0


def _size_problems(agents: Agents) -> Iterator[Problem]:
    """More agents than a program is compiled for, or tables that do not fit."""
    if agents.num_agents > MOST_AGENTS:
        told = f"{agents.num_agents:,} agents, at most {MOST_AGENTS}"
        yield Problem(("agents",), f"{told}: a program has a part for each pair")
    if not isinstance(agents, DirichletAgents | ZipfAgents | MarkovAgents):
        return
    is_markov = isinstance(agents, MarkovAgents)
    rows = agents.num_agents * (agents.vocab_size if is_markov else 1)
    size, most = rows * agents.vocab_size, _MOST_OF_CHAINS if is_markov else _MOST
    if size > most:
        told = f"{size:,} probabilities, at most {most:,}: fewer agents or tokens"
        yield Problem(("agents",), f"tables of {told}")


def _combined_problems(values: Values, bids: Bids, n: int) -> Iterator[Problem]:
    """Values and bids that do not make sense together."""
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


def _extreme_problems(
    values: Values, bids: Bids, n: int, influence: float
) -> Iterator[Problem]:
    """Amounts that are drawn or computed beyond those that may be given."""
    found = extremes(values, n)
    if found is None:
        return
    if wrong := find_wrong_amount(found, where=""):
        yield Problem(("values",), wrong)
    elif not isinstance(bids, GivenBids | EquilibriumBids):
        try:
            made = make_bids(bids, found, influence=influence)
            wrong = find_wrong_amount(made, where="")
        except ScenarioError as error:
            wrong = str(error)
        if wrong:
            yield Problem(("bids",), wrong)


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


def _equilibrium_problems(setting: Setting) -> Iterator[Problem]:
    """Cells whose equilibria are not looked for."""
    agents, place = setting.agents, ("bids", "kind")
    if setting.has_texts:
        told = "of language models take hours: find them with `optimise`, and give them"
        yield Problem(place, f"equilibria {told} as fixed bids")
    elif isinstance(agents, PoolAgents) and agents.build().num_agents != len(
        setting.agent_names
    ):
        yield Problem(place, "an equilibrium is not found beside a reference")
    elif not isinstance(setting.rule, Rule):
        yield Problem(place, "equilibria are found of rules of single tokens only")
    elif agents.num_agents < 2:
        yield Problem(place, "one agent alone has nobody to bid against")
    elif isinstance(setting.values, GivenValues) and not callable(
        setting.values.amounts
    ):
        yield Problem(place, "an equilibrium needs values that are drawn or fixed")


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
