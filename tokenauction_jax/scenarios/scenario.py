"""Scenario files: who bids for which text, in TOML.

A scenario is read into frozen dataclasses and validated whole: every wrong key, type
or range is reported at once, with the nearest valid name.
"""

import dataclasses
import importlib.resources
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, cast

import numpy as np
import pydantic
from scipy import special

from tokenauction_jax.agents import HOUSE
from tokenauction_jax.outside import OutsideError, quoted, shortened
from tokenauction_jax.scenarios import names, validation
from tokenauction_jax.scenarios.numbers import (
    MOST_AGENTS,
    STRICT,
    Amount,
    Auctions,
    NumTokens,
    PositiveShare,
    Seed,
    Temperature,
    TemplateVariables,
    Text,
    TopK,
)
from tokenauction_jax.scenarios.rules import Rule, ValuationName, as_rule


class ScenarioError(OutsideError):
    """A scenario that cannot be run, with what to change in one line."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is done to an agent's distribution before it is submitted.

    Top-p is off by default: it leaves many log-linear auctions without a token that
    every agent can produce.
    """

    __pydantic_config__ = STRICT
    temperature: Temperature = 0.6
    top_k: TopK | None = 50
    top_p: PositiveShare | None = None
    min_p: PositiveShare | None = None


@dataclasses.dataclass(frozen=True)
class Agent:
    """One bidder.

    Attributes:
      name: Shown in tables.
      prompt: The agent's instruction; ``{query}`` stands for the scenario's query.
      bid: Money per unit of value and token.
      value: True value per unit of valuation; the bid if not given.
      mentions: Phrases that count as a mention; the name if not given.
      model: A model of its own, with the same vocabulary; else the scenario's.
      adapter: A folder with a low-rank adapter of the model, in the format of PEFT.
      sampling: Applied to its distribution before aggregation.
      system: Its system prompt; ``{query}`` stands for the query there, too.
      chat_template_kwargs: Variables of its chat template; they precede the scenario's.
    """

    __pydantic_config__ = STRICT
    name: Text
    prompt: Text
    bid: Amount = 1.0
    value: Amount | None = None
    mentions: tuple[Text, ...] = ()
    model: Text | None = None
    adapter: Text | None = None
    sampling: Sampling = Sampling()
    system: Text | None = None
    chat_template_kwargs: TemplateVariables = dataclasses.field(
        default_factory=dict, hash=False
    )


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Agents, rules and sizes of one demonstration.

    Attributes:
      query: What the reader asked; prompts refer to it as ``{query}``.
      agents: The bidders.
      description: One line for the reader of the file and of the output.
      model: A checkpoint's path, hub name or alias, for agents without their own.
      rules: The rules to compare.
      valuation: How welfare is measured.
      num_auctions: Texts per rule and influence share.
      num_tokens: The cap on tokens of a text.
      seed: Of all randomness.
      chat_template_kwargs: Variables of all agents' chat templates, such as
        ``{ enable_thinking = false }``.
    """

    __pydantic_config__ = STRICT
    query: Text
    agents: Annotated[
        tuple[Agent, ...], pydantic.Field(min_length=1, max_length=MOST_AGENTS)
    ]
    description: str = ""
    model: Text = HOUSE
    rules: Annotated[tuple[Rule, ...], pydantic.Field(min_length=1)] = (
        Rule("linear"),
        Rule("log_linear"),
    )
    valuation: ValuationName = "total_variation"
    num_auctions: Auctions = 64
    num_tokens: NumTokens = 48
    seed: Seed = 0
    chat_template_kwargs: TemplateVariables = dataclasses.field(
        default_factory=dict, hash=False
    )

    @property
    def bids(self) -> np.ndarray:
        """The agents' bids `(n,)`."""
        return np.array([agent.bid for agent in self.agents])

    @property
    def values(self) -> np.ndarray:
        """The agents' true values `(n,)`, where not given their bids."""
        return np.array(
            [a.bid if a.value is None else a.value for a in self.agents], float
        )

    @property
    def mentions(self) -> tuple[tuple[str, ...], ...]:
        """The phrases that count as a mention of each agent."""
        return tuple(agent.mentions or (agent.name,) for agent in self.agents)


def builtin_scenarios() -> dict[str, pathlib.Path]:
    """The scenario files that come with the package, by name."""
    folder = importlib.resources.files("tokenauction_jax.scenarios") / "library"
    files = cast(pathlib.Path, folder).glob("*.toml")
    return {file.stem: file for file in sorted(files)}


def read_scenario(name_or_path: str) -> Scenario:
    """Reads and validates a built-in scenario or a TOML file.

    Its references ``FILE.py:NAME`` are relative to the file.

    Raises:
      ScenarioError: If there is no such scenario, or anything in it is wrong.
    """
    built_in = builtin_scenarios()
    path = built_in.get(name_or_path, pathlib.Path(name_or_path))
    shown = shortened(name_or_path, 80)
    try:
        content, lines = validation.read_toml(path)
    except FileNotFoundError:
        raise ScenarioError(
            f"no scenario {quoted(name_or_path)}: give a TOML file or one of "
            f"{', '.join(built_in)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ScenarioError(f"cannot read {shown}: {error}") from None
    try:
        return validate_scenario(content, lines, base=path.parent)
    except ScenarioError as error:
        raise ScenarioError(f"{shown}: {error}") from None


def validate_scenario(
    content: dict[str, Any],
    lines: Mapping[validation.Place, int] | None = None,
    *,
    base: pathlib.Path = pathlib.Path(),
) -> Scenario:
    """A `Scenario` from nested dictionaries; a rule may be just its name.

    Args:
      content: As in the TOML file.
      lines: Where in the file each value stands, for the message.
      base: The folder that references ``FILE.py:NAME`` are relative to.

    Raises:
      ScenarioError: Listing everything that is wrong.
    """
    if odd := list(validation.oddities(content)):
        raise ScenarioError(validation.describe(odd, lines or {}))
    content = dict(content)
    if isinstance(rules := content.get("rules"), list | tuple):
        content["rules"] = [as_rule(rule) for rule in rules]
    content = names.resolved(content, base)
    scenario, problems = validation.validate(Scenario, content, _SECTIONS)
    if problems:
        raise ScenarioError(validation.describe(problems, lines or {}))
    try:
        for rule in scenario.rules:
            rule.build()
        names.valuation(scenario.valuation)
    except names.RuleError as error:
        raise ScenarioError(str(error)) from None
    if len({agent.name for agent in scenario.agents}) < len(scenario.agents):
        raise ScenarioError("agents must have different names")
    if len(set(scenario.rules)) < len(scenario.rules):
        raise ScenarioError("rules must differ from each other")
    if not scenario.bids.any():
        raise ScenarioError("bids must not all be zero")
    return scenario


def shifted_bids(bids: np.ndarray, share: float, influence: float = 1.0) -> np.ndarray:
    """Bids `(n,)` of the same total that give the first agent an influence `share`.

    The other agents keep their proportions (equal ones if all of them bid 0).
    """
    others = bids[1:]
    if not others.size:
        raise ScenarioError("a sweep over influence shares needs at least two agents")
    others = (
        others / others.sum()
        if others.sum() > 0
        else np.full(others.shape, 1 / others.size)
    )
    # b^a / (b^a + sum_j b_j^a) = share, in units of the total bid.
    with np.errstate(divide="ignore"):
        log_odds = np.log(share) - np.log1p(-share) + np.log((others**influence).sum())
    log_odds /= influence
    if 0 < share < 1 and abs(log_odds) > 60:
        raise ScenarioError(
            f"influence {influence:g} needs bids too far apart for a share of {share:g}"
        )
    first, rest = special.expit(log_odds), special.expit(-log_odds)
    return bids.sum() * np.concatenate([[first], rest * others])


_SECTIONS: dict[str | int, type] = {
    "agents": Agent,
    "rules": Rule,
    "sampling": Sampling,
}
