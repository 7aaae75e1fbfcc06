"""From a setting to what is simulated: rules, agents, their values and bids."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import agents
from tokenauction_jax.agents import AgentPool, filters
from tokenauction_jax.measures import Scope
from tokenauction_jax.mechanism import Mechanism
from tokenauction_jax.replies import TextAuction
from tokenauction_jax.replies.text_auctions import draws_tokens
from tokenauction_jax.scenarios import kinds, settings, values
from tokenauction_jax.scenarios.rules import needs_tokens
from tokenauction_jax.scenarios.scenario import Agent, Sampling, Scenario, ScenarioError

# Tells the randomness of Markov tables from that of the auctions under the same seed:
# the keys of agents would be those of auctions else.
_TABLES = 0x7461626C


class Cast(NamedTuple):
    """Agents, and how their tokens are read.

    Attributes:
      pool: The agents, and after them the reference model if it is one.
      tokenizer: Of language models, else None.
      mentions: The phrases that count as a mention of each, if there is a tokenizer.
      commits: The commit of each model of the hub, by its name.
    """

    pool: AgentPool
    tokenizer: agents.Tokenizer | None = None
    mentions: Sequence[Sequence[str]] = ()
    commits: Mapping[str, str] = {}


def load_cast(scenario: Scenario, reference_prompt: str | None = None) -> Cast:
    """The scenario's agents.

    With a `reference_prompt` the scenario's model follows them, prompted by it, at the
    first agent's temperature and otherwise unfiltered.

    Raises:
      CheckpointError: If a model cannot be loaded.
      ScenarioError: If prompts, adapters or filters do not fit the models.
    """
    mentions = scenario.mentions
    if reference_prompt is not None:
        temperature = scenario.agents[0].sampling.temperature
        reference = Agent(
            "reference", reference_prompt, sampling=Sampling(temperature, top_k=None)
        )
        agents_and_reference = (*scenario.agents, reference)
        scenario = dataclasses.replace(scenario, agents=agents_and_reference)
    names = [agent.model or scenario.model for agent in scenario.agents]
    checkpoints = {name: agents.load_checkpoint(name) for name in dict.fromkeys(names)}

    @functools.cache
    def load_adapter(folder: str, model: str) -> agents.Adapter:
        """Each once: agents that share one share its numbers."""
        return agents.load_adapter(folder, checkpoints[model].model)

    def asked(text: str) -> str:
        return text.replace("{query}", scenario.query)

    variables = scenario.chat_template_kwargs
    samplings = [agent.sampling for agent in scenario.agents]
    adapters = [
        None if agent.adapter is None else load_adapter(agent.adapter, name)
        for agent, name in zip(scenario.agents, names, strict=True)
    ]
    try:
        pool = agents.from_language_model(
            [checkpoints[name].model for name in names],
            [checkpoints[name].tokenizer for name in names],
            [asked(agent.prompt) for agent in scenario.agents],
            system=[a.system and asked(a.system) for a in scenario.agents],
            chat_template_kwargs=[
                variables | agent.chat_template_kwargs for agent in scenario.agents
            ],
            adapters=adapters,
            temperature=[sampling.temperature for sampling in samplings],
            top_k=[sampling.top_k for sampling in samplings],
            top_p=[sampling.top_p for sampling in samplings],
            min_p=[sampling.min_p for sampling in samplings],
        )
        pool.check_context(scenario.num_tokens)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    commits = {name: found.commit for name, found in checkpoints.items()}
    return Cast(
        pool,
        checkpoints[names[0]].tokenizer,
        mentions,
        {name: commit for name, commit in commits.items() if commit is not None},
    )


class Population(NamedTuple):
    """Who bids in the auctions of a cell, under which rules.

    Attributes:
      setting: What it was made from, with the bids of an equilibrium, if it asks for
        them, in place.
      agent_names: What tables call the bidders.
      mechanism: The rules, of single tokens or of whole texts.
      cast: The agents.
    """

    setting: settings.Setting
    agent_names: list[str]
    mechanism: Mechanism | TextAuction
    cast: Cast

    @property
    def pool(self) -> AgentPool:
        """The agents, and after them the reference model if it is one."""
        return self.cast.pool

    @property
    def num_agents(self) -> int:
        """Number of bidders, without the reference model."""
        return len(self.agent_names)

    @property
    def has_reference(self) -> bool:
        """Whether the pool has a reference model after the agents."""
        return self.pool.num_agents > self.num_agents

    @property
    def probabilities(self) -> int:
        """How many probabilities an auction looks at."""
        drawn = getattr(self.mechanism, "num_replies", 1) * self.setting.num_tokens
        return self.pool.num_agents * self.pool.vocab_size * drawn

    def draw(self, first: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and bids `(size, n)` of the auctions from number `first` on."""
        about = self.setting
        drawn = values.draw_values(
            about.values, about.seed, self.num_agents, first, size
        )
        influence = settings.influence_of(self.mechanism)
        return drawn, values.make_bids(about.bids, drawn, first, influence)


def scope_of(mechanism: Mechanism | TextAuction) -> Scope:
    """What of its auctions there are measures of."""
    if isinstance(mechanism, Mechanism):
        return "token"
    return "path" if draws_tokens(mechanism) else "text"


def build(cells: Sequence[settings.Setting]) -> list[Population]:
    """The populations of all cells; those with the same agents share their pool.

    Raises:
      CheckpointError: If a language model cannot be loaded.
      ScenarioError: If its agents or prompts do not fit, or no equilibrium was found.
    """
    load = functools.cache(_load)
    found = []
    for cell in cells:
        mechanism, cast = cell.mechanism(), load(cell.agents, cell.sampling)
        if isinstance(cell.bids, kinds.EquilibriumBids):
            # Brings optax, which other studies do not need.
            from tokenauction_jax.scenarios.equilibria import solved

            bids = solved(cell, needs_tokens(mechanism), cast.pool)
            cell = dataclasses.replace(cell, bids=bids)
        found.append(Population(cell, cell.agent_names, mechanism, cast))
    return found


def _load(chosen: kinds.Agents, filtered: settings.Filters) -> Cast:
    if isinstance(chosen, kinds.ScenarioAgents):
        scenario = _filtered(chosen.read(), filtered)
        return load_cast(scenario, chosen.reference_prompt)
    if isinstance(chosen, kinds.PoolAgents):
        if filtered != settings.Filters():
            raise ScenarioError("a pool of your own filters by itself: no [sampling]")
        mentions = chosen.mentions or tuple((name,) for name in chosen.names or ())
        return Cast(chosen.build(), chosen.tokenizer, mentions)
    n, size, sampling = chosen.num_agents, chosen.vocab_size, None
    if filtered != settings.Filters():
        sampling = filters.sampling(
            n,
            temperature=filtered.temperature or 1.0,
            top_k=filtered.top_k,
            top_p=filtered.top_p,
            min_p=filtered.min_p,
        )
    if isinstance(chosen, kinds.DirichletAgents):
        concentration = chosen.concentration
        return Cast(agents.dirichlet(n, size, concentration, sampling=sampling))
    if isinstance(chosen, kinds.ZipfAgents):
        return Cast(agents.zipf(n, size, chosen.exponent, sampling=sampling))
    if isinstance(chosen, kinds.MarkovAgents):
        key = jax.random.fold_in(jax.random.key(chosen.table_seed), _TABLES)
        concentration = chosen.concentration
        return Cast(agents.markov(key, n, size, concentration, sampling=sampling))
    with np.errstate(divide="ignore"):
        log_probs = jnp.log(jnp.asarray(chosen.probs, float))
    if sampling is not None:
        log_probs = filters.filter_logits(sampling, log_probs)
    return Cast(agents.tabular(log_probs))


def _filtered(scenario: Scenario, filtered: settings.Filters) -> Scenario:
    """The scenario, every agent filtered by what the study says."""
    said = {k: v for k, v in vars(filtered).items() if v is not None}
    changed = tuple(
        dataclasses.replace(a, sampling=dataclasses.replace(a.sampling, **said))
        for a in scenario.agents
    )
    return dataclasses.replace(scenario, agents=changed)
