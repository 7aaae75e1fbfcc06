"""From a setting to what is simulated: agents, their values and their bids."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from tokenauction_jax import agents
from tokenauction_jax.agents import AgentPool, filters
from tokenauction_jax.mechanism import Mechanism
from tokenauction_jax.scenarios import settings
from tokenauction_jax.scenarios.scenario import Agent, Sampling, Scenario, ScenarioError

# Tells the randomness of values from that of the auctions under the same seed.
_VALUES = 0x76616C75
# And that of Markov tables: the keys of agents would be those of auctions else.
_TABLES = 0x7461626C


def load_pool(
    scenario: Scenario, reference_prompt: str | None = None
) -> tuple[agents.AgentPool, agents.Checkpoint]:
    """The scenario's agents, and the checkpoint whose tokenizer they share.

    With a `reference_prompt` the scenario's model follows them, prompted by it, at the
    first agent's temperature and otherwise unfiltered.

    Raises:
      CheckpointError: If a model cannot be loaded.
      ScenarioError: If prompts, adapters or filters do not fit the models.
    """
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

    prompts = [a.prompt.replace("{query}", scenario.query) for a in scenario.agents]
    samplings = [agent.sampling for agent in scenario.agents]
    adapters = [
        None if agent.adapter is None else load_adapter(agent.adapter, name)
        for agent, name in zip(scenario.agents, names, strict=True)
    ]
    try:
        pool = agents.from_language_model(
            [checkpoints[name].model for name in names],
            [checkpoints[name].tokenizer for name in names],
            prompts,
            adapters=adapters,
            temperature=[sampling.temperature for sampling in samplings],
            top_k=[sampling.top_k for sampling in samplings],
            top_p=[sampling.top_p for sampling in samplings],
            min_p=[sampling.min_p for sampling in samplings],
        )
        # Shapes only: finds a prompt longer than the context before anything runs.
        jax.eval_shape(lambda: pool.init(1, num_tokens=scenario.num_tokens))
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    return pool, checkpoints[names[0]]


class Population(NamedTuple):
    """Who bids in the auctions of a cell, under which rules.

    Attributes:
      setting: What it was made from.
      agent_names: What tables call the bidders.
      mechanism: The rules.
      pool: The agents, and after them the reference model if it is one.
      scenario: Of language models, else None: their names and mentions.
      tokenizer: Of language models, else None.
    """

    setting: settings.Setting
    agent_names: list[str]
    mechanism: Mechanism
    pool: AgentPool
    scenario: Scenario | None = None
    tokenizer: agents.Tokenizer | None = None

    @property
    def num_agents(self) -> int:
        """Number of bidders, without the reference model."""
        return len(self.agent_names)

    @property
    def has_reference(self) -> bool:
        """Whether the pool has a reference model after the agents."""
        return self.pool.num_agents > self.num_agents


def build(cells: list[settings.Setting]) -> list[Population]:
    """The populations of all cells; those with the same agents share their pool.

    Raises:
      CheckpointError: If a language model cannot be loaded.
      ScenarioError: If its agents or prompts do not fit.
    """
    load = functools.cache(_load)
    return [
        Population(
            *(cell, cell.agent_names, cell.rule.build()),
            *load(cell.agents, cell.sampling),
        )
        for cell in cells
    ]


def draw_values(
    values: settings.Values,
    seed: int,
    num_agents: int,
    first_auction: int,
    num_auctions: int,
) -> np.ndarray:
    """True values `(A, n)`, money per unit of valuation.

    The value of agent i in auction k depends on the seed, k and i alone.
    """
    n, shape = num_agents, (num_auctions, num_agents)
    if isinstance(values, settings.FixedValues):
        return np.broadcast_to(np.asarray(values.amounts, np.float32), shape)
    if isinstance(values, settings.SharedValues):
        rest = (1 - values.share) / (n - 1)
        amounts = values.total * np.array([values.share, *[rest] * (n - 1)])
        return np.broadcast_to(amounts.astype(np.float32), shape)
    words = np.asarray(_words(seed, first_auction, num_auctions, n), np.float64)
    # Here and in double precision: XLA rounds a normal by the shape of its batch.
    z = special.ndtri((words[..., 0] + (words[..., 1] + 0.5) * 2.0**-32) * 2.0**-32)
    c = values.correlation
    z = np.sqrt(c) * z[:, :1] + np.sqrt(1 - c) * z[:, 1:]
    if isinstance(values, settings.LogNormalValues):
        drawn = values.median * np.exp(values.sigma * z)
    elif isinstance(values, settings.UniformValues):
        drawn = values.low + (values.high - values.low) * special.ndtr(z)
    else:
        quantile = special.gammaincinv(values.shape, special.ndtr(z))
        drawn = values.mean / values.shape * quantile
    with np.errstate(over="ignore"):
        return drawn.astype(np.float32)


def make_bids(bids: settings.Bids, values: np.ndarray) -> np.ndarray:
    """Bids `(A, n)` of agents with these values."""
    if isinstance(bids, settings.FixedBids):
        return np.broadcast_to(np.asarray(bids.amounts, np.float32), values.shape)
    if isinstance(bids, settings.TruthfulBids):
        return values
    factors = np.ones(values.shape[1], np.float32)
    factors[slice(None) if bids.agents is None else list(bids.agents)] = bids.factor
    return values * factors


@functools.partial(jax.jit, static_argnums=(2, 3))
def _words(
    seed: Any, first_auction: Any, num_auctions: int, num_agents: int
) -> jax.Array:
    """Random bits `(A, 1 + n, 2)`: what the agents of an auction share, and own."""
    key = jax.random.fold_in(jax.random.key(seed), _VALUES)
    numbers = jnp.arange(num_auctions, dtype=jnp.uint32)
    numbers = jnp.asarray(first_auction, jnp.uint32) + numbers
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    own = jnp.arange(1 + num_agents, dtype=jnp.uint32)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32)))
    return draw(jax.vmap(lambda key: fold(key, own))(fold(key, numbers)))


def _load(
    chosen: settings.Agents, filtered: settings.Filters
) -> tuple[AgentPool, Scenario | None, agents.Tokenizer | None]:
    if isinstance(chosen, settings.ScenarioAgents):
        scenario = _filtered(chosen.read(), filtered)
        pool, checkpoint = load_pool(scenario, chosen.reference_prompt)
        return pool, scenario, checkpoint.tokenizer
    n, size, sampling = chosen.num_agents, chosen.vocab_size, None
    if filtered != settings.Filters():
        sampling = filters.sampling(
            n,
            temperature=filtered.temperature or 1.0,
            top_k=filtered.top_k,
            top_p=filtered.top_p,
            min_p=filtered.min_p,
        )
    if isinstance(chosen, settings.DirichletAgents):
        concentration = chosen.concentration
        return agents.dirichlet(n, size, concentration, sampling=sampling), None, None
    if isinstance(chosen, settings.ZipfAgents):
        return agents.zipf(n, size, chosen.exponent, sampling=sampling), None, None
    if isinstance(chosen, settings.MarkovAgents):
        key = jax.random.fold_in(jax.random.key(chosen.table_seed), _TABLES)
        concentration = chosen.concentration
        table = agents.markov(key, n, size, concentration, sampling=sampling)
        return table, None, None
    with np.errstate(divide="ignore"):
        log_probs = jnp.log(jnp.asarray(chosen.probs, jnp.float32))
    if sampling is not None:
        log_probs = filters.filter_logits(sampling, log_probs)
    return agents.tabular(log_probs), None, None


def _filtered(scenario: Scenario, filtered: settings.Filters) -> Scenario:
    """The scenario, every agent filtered by what the study says."""
    said = {k: v for k, v in vars(filtered).items() if v is not None}
    changed = tuple(
        dataclasses.replace(a, sampling=dataclasses.replace(a.sampling, **said))
        for a in scenario.agents
    )
    return dataclasses.replace(scenario, agents=changed)
