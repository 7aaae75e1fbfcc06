"""Runs a scenario: every rule at every influence share, on the same auctions."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.mechanism import Valuation, distributions
from tokenauction_jax.scenarios.scenario import Agent, Rule, Scenario, shifted_bids
from tokenauction_jax.simulation import simulate
from tokenauction_jax.statistics import estimators
from tokenauction_jax.statistics.estimators import Estimate

# Auctions that run side by side, for memory flat in their number. Fewer run as one
# block of their own: the same texts, but payments to rounding only.
BLOCK = 32


@records.record
class TokenMeasures:
    """Observes each token: what the agents think of it and of its distribution."""

    valuation: Valuation

    def __call__(
        self, bids: jax.Array, log_probs: jax.Array, log_q: jax.Array, token: jax.Array
    ) -> dict[str, jax.Array]:
        """Log-probabilities of the token and values `(n,)`, and the entropy of `q`."""
        del bids
        return {
            "agent_log_probs": log_probs[:, token],
            "values": jax.vmap(self.valuation.value, (None, 0))(log_q, log_probs),
            "entropy": distributions.entropy(log_q),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One rule at one influence share: `A` auctions as NumPy arrays.

    Attributes:
      rule: The rule.
      share: Influence of the first agent, in [0, 1].
      bids: `(n,)`.
      tokens: `(A, T)`.
      mask: `(A, T)`, True for tokens that were drawn.
      valid: `(A,)`.
      payments: `(A, T, n)`.
      expected_payments: `(A, T, n)`.
      log_prob: `(A, T)`.
      agent_log_probs: `(A, T, n)`.
      values: `(A, T, n)`, valuations of `q`, perhaps ``-inf``.
      entropy: `(A, T)`, nats.
    """

    rule: Rule
    share: float
    bids: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    valid: np.ndarray
    payments: np.ndarray
    expected_payments: np.ndarray
    log_prob: np.ndarray
    agent_log_probs: np.ndarray
    values: np.ndarray
    entropy: np.ndarray

    def favoured_by(self) -> np.ndarray:
        """For each token the agent that gave it the highest probability, `(A, T)`."""
        return self.agent_log_probs.argmax(axis=-1)

    def text_tokens(self, auction: int, end_tokens: Sequence[int]) -> list[int]:
        """The drawn tokens of one text, without the one that ended it."""
        tokens = self.tokens[auction][self.mask[auction]].tolist()
        return tokens[:-1] if tokens and tokens[-1] in end_tokens else tokens


class Measure(NamedTuple):
    """One line of a summary; `agent` is empty for measures of the whole auction."""

    name: str
    agent: str
    estimate: Estimate


def run_scenario(
    scenario: Scenario,
    pool: AgentPool,
    shares: Sequence[float] | None = None,
) -> Iterator[Cell]:
    """Runs every rule at every share; the same auction numbers in each cell.

    Args:
      scenario: What to run.
      pool: Its agents.
      shares: Influence shares of the first agent, at the scenario's total bid; None
        runs the scenario's own bids.
    """
    for rule in scenario.rules:
        mechanism = rule.build()
        for share in [None] if shares is None else shares:
            bids = scenario.bids
            if share is not None:
                bids = shifted_bids(bids, share, rule.influence)
            yield _run_cell(scenario, rule, mechanism, pool, bids)


def num_blocks(num_auctions: int) -> int:
    """How many blocks the auctions of a cell run in."""
    return -(-num_auctions // BLOCK)


def _run_cell(
    scenario: Scenario,
    rule: Rule,
    mechanism: Any,
    pool: AgentPool,
    bids: np.ndarray,
) -> Cell:
    size = min(BLOCK, scenario.num_auctions)
    blocks = []
    for block in range(num_blocks(scenario.num_auctions)):
        rollout = simulate(
            jax.random.key(scenario.seed),
            mechanism,
            pool,
            jnp.asarray(bids, jnp.float32),
            num_tokens=scenario.num_tokens,
            num_auctions=size,
            first_auction=block * size,
            observe=TokenMeasures(scenario.measure()),
        )
        blocks.append(jax.device_get(rollout))
    whole = jax.tree.map(
        lambda *parts: np.concatenate(parts)[: scenario.num_auctions], *blocks
    )
    return Cell(
        rule=rule,
        share=float(mechanism.aggregation.weights(jnp.asarray(bids, jnp.float32))[0]),
        bids=bids,
        tokens=whole.tokens,
        mask=whole.mask,
        valid=whole.valid,
        payments=whole.payments,
        expected_payments=whole.expected_payments,
        log_prob=whole.log_prob,
        **whole.observations,
    )


def mentions(text: str, agent: Agent) -> bool:
    """Whether a text names the agent, in any case and as whole words."""
    phrases = "|".join(re.escape(phrase) for phrase in agent.mentions or (agent.name,))
    return re.search(rf"(?<!\w)(?:{phrases})(?!\w)", text, re.IGNORECASE) is not None


def summarize(scenario: Scenario, cell: Cell, texts: Sequence[str]) -> list[Measure]:
    """The cell's rates and means per token over its valid auctions.

    Tokens of infinite welfare are left out of its mean; their share is a measure of
    its own, ``infinite_welfare``.
    """
    valid = cell.valid
    mask = cell.mask[valid]
    n_tokens = mask.sum(axis=1)

    def per_token(name: str, x: np.ndarray, agent: str = "") -> Measure:
        totals = np.where(mask, x[valid], 0).sum(axis=1)
        return Measure(name, agent, estimators.mean_per_token(totals, n_tokens))

    kept = [text for text, ok in zip(texts, valid, strict=True) if ok]
    measures = []
    for agent in scenario.agents:
        hits = sum(mentions(text, agent) for text in kept)
        rate = estimators.rate(hits, len(kept))
        measures.append(Measure("mention_rate", agent.name, rate))
    for i, agent in enumerate(scenario.agents):
        measures.append(per_token("payment", cell.payments[..., i], agent.name))
    welfare = np.where(scenario.values > 0, cell.values, 0) @ scenario.values
    finite = np.isfinite(welfare)[valid] & mask
    totals = np.where(finite, welfare[valid], 0).sum(axis=1)
    estimate = estimators.mean_per_token(totals, finite.sum(axis=1))
    measures.append(Measure("welfare", "", estimate))
    measures.append(per_token("infinite_welfare", ~np.isfinite(welfare)))
    measures.append(per_token("revenue", cell.payments.sum(axis=-1)))
    measures.append(per_token("entropy", cell.entropy))
    undefined = int((~valid).sum())
    measures.append(Measure("undefined", "", estimators.rate(undefined, valid.size)))
    return measures
