"""Auctions of replies to question a rule with, and what may change in them."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.auditing.instances import BID_RATIO, significant
from tokenauction_jax.auditing.search import Parts

# Misreports per instance.
NUM_REPORTS = 3
# Log-weights, and log-ratios that bids multiply, as far as an adversary may go.
_LARGEST_LOG = 8.0
_MONEY = ("rewards", "reports")


@records.record
class ReplyInstance:
    """One auction of candidate replies, seen from one agent.

    Leaves are JAX or, on the host, NumPy arrays.

    Attributes:
      agent: The agent whose report and payment are questioned, an integer scalar.
      rewards: `(n, M)`, in money; the agent's own are its true ones.
      log_weights: `(M,)`.
      reports: `(k, M)`, other rewards that the agent could report.
      order: `(n,)`, a permutation of the agents.
      scale: Factor on all rewards.
      seed: Of draws, an integer scalar.
    """

    agent: Any
    rewards: Any
    log_weights: Any
    reports: Any
    order: Any
    scale: Any
    seed: Any
    ROUNDED: ClassVar[tuple[str, ...]] = ("absent", "money", "weights")

    def auction(self) -> tuple[Any, Any]:
        """Rewards and log-weights."""
        return self.rewards, self.log_weights

    def free_parts(self) -> Parts:
        """Rewards of either sign, in logarithms beyond 1, and log-weights."""
        money = {name: jnp.arcsinh(getattr(self, name)) for name in _MONEY}
        return money | {"log_weights": self.log_weights}

    @staticmethod
    def within_bounds(parts: Parts, largest: jax.Array | float) -> Parts:
        """Rewards as of bids up to ``e^largest``, weights within ``e^8``."""
        most = largest + np.log(2 * _LARGEST_LOG)
        money = {name: jnp.clip(parts[name], -most, most) for name in _MONEY}
        logs = parts["log_weights"]
        clipped = jnp.clip(logs, -_LARGEST_LOG, _LARGEST_LOG)
        return money | {"log_weights": jnp.where(jnp.isneginf(logs), logs, clipped)}

    def with_parts(self, parts: Parts) -> Self:
        """The instance with these rewards, reports and weights."""
        money = {name: jnp.sinh(parts[name]) for name in _MONEY}
        return dataclasses.replace(self, log_weights=parts["log_weights"], **money)

    def removals(self) -> list[Self]:
        """Without one agent, candidate, misreport or weight.

        An agent that is left out reports 0, and a candidate is made a copy of another
        one, of weight 0.
        """
        smaller = []
        for agent in np.flatnonzero((self.rewards != 0).any(axis=1)):
            if agent != self.agent:
                rewards = self.rewards.copy()
                rewards[agent] = 0
                smaller.append(dataclasses.replace(self, rewards=rewards))
        possible = np.flatnonzero(~np.isneginf(self.log_weights))
        columns = np.concatenate([self.rewards, self.reports])
        for reply in range(columns.shape[1]):
            left = possible[possible != reply]
            if not left.size:
                continue
            kept = left[0]
            same = (columns[:, reply] == columns[:, kept]).all()
            if same and np.isneginf(self.log_weights[reply]):
                continue
            changed = {name: getattr(self, name).copy() for name in _MONEY}
            for array in changed.values():
                array[:, reply] = array[:, kept]
            log_weights = self.log_weights.copy()
            log_weights[reply] = -np.inf
            smaller.append(
                dataclasses.replace(self, log_weights=log_weights, **changed)
            )
        truth = self.rewards[self.agent]
        for place in np.flatnonzero((self.reports != truth).any(axis=1)):
            reports = self.reports.copy()
            reports[place] = truth
            smaller.append(dataclasses.replace(self, reports=reports))
        even = np.where(np.isneginf(self.log_weights), self.log_weights, 0)
        if (even != self.log_weights).any():
            smaller.append(dataclasses.replace(self, log_weights=even))
        return smaller

    def rounded(self, what: str, digits: int) -> list[Self]:
        """With so many significant digits of all money, or of all weights.

        A candidate that is absent, of weight 0, comes back unless it is a copy.
        """
        if what == "absent":
            columns = np.concatenate([self.rewards, self.reports]).T
            absent = np.isneginf(self.log_weights)
            copies = [(columns[~absent] == x).all(axis=1).any() for x in columns]
            logs = np.where(absent & ~np.array(copies), 0, self.log_weights)
            return [dataclasses.replace(self, log_weights=logs)]
        if what == "money":
            names = (*_MONEY, "scale")
            short = {name: significant(getattr(self, name), digits) for name in names}
            return [dataclasses.replace(self, **short)]
        with np.errstate(divide="ignore"):
            logs = np.log(significant(np.exp(self.log_weights), digits))
        return [dataclasses.replace(self, log_weights=logs)]


def random_reply_instances(
    seed: int,
    num_instances: int,
    num_agents: int,
    num_candidates: int,
    bid_ratio: float = BID_RATIO,
) -> ReplyInstance:
    """Stacked instances: agents that care much or little, agree, or want one reply.

    Rewards are a bid times log-ratios of either sign, bids log-uniform within
    `bid_ratio` of one another; in one instance of five all are equal, in one of ten a
    rival reports 0, in one of ten the agents nearly agree, and in two of ten each wants
    one candidate only. Weights are all 1 in three of ten, and in as many some are 0.
    The agent may report a multiple of its rewards, one candidate's reward raised or
    lowered, or anything near or far. NumPy arrays: compiling this would take longer.
    """
    rng = np.random.default_rng(seed)
    shape = num_instances, num_agents, num_candidates
    rows = np.arange(num_instances)
    agent = rng.integers(num_agents, size=num_instances)
    agree, equal, silent, single, weighed = rng.uniform(size=(5, num_instances))
    decades = np.log10(bid_ratio) / 2

    ratios = rng.standard_normal(shape) * 10 ** rng.uniform(-1, 0.9, (*shape[:2], 1))
    close = ratios[:, :1] + 0.1 * ratios
    ratios = np.where((agree < 0.1)[:, None, None], close, ratios)
    wanted = rng.integers(num_candidates, size=(*shape[:2], 1))
    lone = np.where(np.arange(num_candidates) == wanted, np.abs(ratios), 0)
    ratios = np.where((single < 0.2)[:, None, None], lone, ratios)
    bids = 10 ** rng.uniform(-decades, decades, shape[:2])
    bids = np.where((equal < 0.2)[:, None], 1.0, bids)
    rival = (agent + 1) % num_agents
    bids[rows, rival] = np.where(silent < 0.1, 0, bids[rows, rival])
    rewards = bids[..., None] * ratios

    logs = rng.standard_normal((num_instances, num_candidates))
    absent = (rng.uniform(size=logs.shape) < 0.4) & (logs < logs.max(1, keepdims=True))
    logs[absent & (weighed > 0.7)[:, None]] = -np.inf
    logs[weighed < 0.3] = 0

    truth = rewards[rows, agent]
    at_stake = np.abs(rewards).max(axis=2)
    total, own = at_stake.sum(axis=1), at_stake[rows, agent]

    def far(low: float, high: float) -> np.ndarray:
        return 10 ** rng.uniform(low, high, (num_instances, 1))

    chosen = rng.integers(num_candidates, size=(num_instances, 1))
    raised = np.where(np.arange(num_candidates) == chosen, 1.0, 0.0)
    raised *= rng.choice([-1, 1], (num_instances, 1)) * far(-2, 0.5) * total[:, None]
    noise = rng.standard_normal(truth.shape) * far(-2, 1) * own[:, None]
    reports = np.stack([truth * far(-1, 1), truth + raised, truth + noise], axis=1)
    return ReplyInstance(
        agent=agent.astype(np.int32),
        rewards=rewards.astype(np.float32),
        log_weights=logs.astype(np.float32),
        reports=reports.astype(np.float32),
        order=rng.permuted(np.broadcast_to(np.arange(num_agents), shape[:2]), axis=1),
        scale=(10 ** rng.uniform(-3, 3, num_instances)).astype(np.float32),
        seed=rng.integers(2**32, size=num_instances, dtype=np.uint32),
    )
