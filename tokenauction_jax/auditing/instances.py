"""Auctions to question a rule with, and what an adversary may change in them."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.auditing.search import Parts
from tokenauction_jax.mechanism import distributions

# Misreports per instance.
NUM_OWN_BIDS = 3
# The largest ratio between two bids, unless another is asked for.
BID_RATIO = 1e3
# How far an adversary may go: probabilities down to 1e-7.
_LARGEST_LOGIT = 8.0
_BIDS = ("bids", "own_bids", "rival_bids")


@records.record
class Instance:
    """One auction, seen from one agent, and what the auction is compared with.

    Leaves are JAX or, on the host, NumPy arrays.

    Attributes:
      agent: The agent whose bid and payment are questioned, an integer scalar.
      bids: `(n,)`; the agent's own is its true value.
      log_probs: `(n, V)`.
      own_bids: `(k,)`, other bids that the agent could make.
      rival_bids: `(n,)`, another profile of the others' bids.
      order: `(n,)`, a permutation of the agents.
      scale: Factor on all bids.
      seed: Of draws, an integer scalar.
    """

    agent: Any
    bids: Any
    log_probs: Any
    own_bids: Any
    rival_bids: Any
    order: Any
    scale: Any
    seed: Any
    ROUNDED: ClassVar[tuple[str, ...]] = ("bids", "chances")

    def auction(self) -> tuple[Any, Any]:
        """Bids and distributions."""
        return self.bids, self.log_probs

    def free_parts(self) -> Parts:
        """Logarithms of bids, and logits. Zeros stay zero."""
        bids = {name: distributions.safe_log(getattr(self, name)) for name in _BIDS}
        return bids | {"logits": self.log_probs}

    @staticmethod
    def within_bounds(parts: Parts, largest: jax.Array | float) -> Parts:
        """Logarithms of bids up to `largest` either way, chances of at least 1e-7."""
        logits = parts["logits"]
        centred = logits - jnp.max(logits, axis=-1, keepdims=True) + _LARGEST_LOGIT
        bids = {name: _clip(parts[name], largest) for name in _BIDS}
        return bids | {"logits": _clip(centred, _LARGEST_LOGIT)}

    def with_parts(self, parts: Parts) -> Self:
        """The instance with these bids and distributions."""
        bids = {name: jnp.exp(parts[name]) for name in _BIDS}
        log_probs = distributions.normalize(parts["logits"])
        return dataclasses.replace(self, log_probs=log_probs, **bids)

    def removals(self) -> list[Self]:
        """Without one agent, token or misreport: bids and chances of 0."""
        smaller = []
        for agent in np.flatnonzero(self.bids):
            if agent != self.agent and np.count_nonzero(self.bids) > 2:
                bids, rival_bids = self.bids.copy(), self.rival_bids.copy()
                bids[agent] = rival_bids[agent] = 0
                log_probs = self.log_probs.copy()
                log_probs[agent] = log_probs[self.agent]
                smaller.append(
                    dataclasses.replace(
                        self, bids=bids, rival_bids=rival_bids, log_probs=log_probs
                    )
                )
        possible = np.isfinite(self.log_probs)
        for token in np.flatnonzero(possible.any(axis=0)):
            kept = possible.copy()
            kept[:, token] = False
            if kept.any(axis=1).all() and kept.any(axis=0).sum() > 1:
                log_probs = _without(self.log_probs, kept)
                smaller.append(dataclasses.replace(self, log_probs=log_probs))
        own_bid = self.bids[self.agent]
        for place in np.flatnonzero(self.own_bids != own_bid):
            own_bids = self.own_bids.copy()
            own_bids[place] = own_bid
            smaller.append(dataclasses.replace(self, own_bids=own_bids))
        if (self.rival_bids != self.bids).any():
            smaller.append(dataclasses.replace(self, rival_bids=self.bids))
        return smaller

    def rounded(self, what: str, digits: int) -> list[Self]:
        """With so many significant digits of all bids, or decimals of all chances.

        Small chances become 0, or stay.
        """
        if what == "bids":
            names = (*_BIDS, "scale")
            short = {name: significant(getattr(self, name), digits) for name in names}
            return [dataclasses.replace(self, **short)]
        exact = np.exp(np.asarray(self.log_probs, float))
        shorter = []
        for least in (0.0, 10.0**-digits):
            p = np.round(exact, digits)
            p = np.where((exact > 0) & (p < least), least, p)
            # The likeliest token makes up for what rounding took or gave.
            rows, likeliest = np.arange(p.shape[0]), p.argmax(axis=-1)
            p[rows, likeliest] = 0
            p[rows, likeliest] = np.round(1 - p.sum(axis=-1), digits)
            if (p[rows, likeliest] > 0).all():
                shorter.append(dataclasses.replace(self, log_probs=_log(p)))
        return shorter


def random_instances(
    seed: int,
    num_instances: int,
    num_agents: int,
    vocab_size: int,
    bid_ratio: float = BID_RATIO,
) -> Instance:
    """Stacked instances: from flat to degenerate distributions, zeros, equal bids.

    Bids are log-uniform within `bid_ratio` of one another; in one instance of five all
    are equal, in one of ten a rival bids 0. In three of ten some probabilities are 0,
    and in one of ten the agents nearly agree. In one of ten all others want the same,
    ``r`` whatever the rule, and the agent has ``p_i(t) = r(t)`` at one token, which any
    move takes away. NumPy arrays: compiling this would take longer.
    """
    rng = np.random.default_rng(seed)
    shape = num_instances, num_agents
    agent = rng.integers(num_agents, size=num_instances)
    zeros, agree, equal, silent, tied = rng.uniform(size=(5, num_instances))
    decades = np.log10(bid_ratio) / 2

    def log_uniform(shape: tuple[int, ...], decades: float) -> np.ndarray:
        return 10 ** rng.uniform(-decades, decades, shape)

    logits = rng.standard_normal((*shape, vocab_size))
    peaks = 10 ** rng.uniform(-1, 0.9, (*shape, 1))
    close = logits[:, :1] + 0.1 * logits
    logits = np.where((agree < 0.1)[:, None, None], close, peaks * logits)
    absent = rng.uniform(size=logits.shape) < 0.3
    absent &= logits < logits.max(axis=-1, keepdims=True)
    logits[absent & (zeros < 0.3)[:, None, None]] = -np.inf
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    rows = np.arange(num_instances)
    rival = (agent + 1) % num_agents
    token = rng.integers(vocab_size, size=num_instances)
    with_tie = _with_tie(logits, agent, rival, token)
    logits = np.where((tied < 0.1)[:, None, None], with_tie, logits)
    bids = np.where((equal < 0.2)[:, None], 1.0, log_uniform(shape, decades))
    bids[rows, rival] = np.where(silent < 0.1, 0, bids[rows, rival])
    misreports = log_uniform((num_instances, NUM_OWN_BIDS), 1.0)
    own_bids = bids[rows, agent][:, None] * misreports
    return Instance(
        agent=agent.astype(np.int32),
        bids=bids.astype(np.float32),
        log_probs=logits.astype(np.float32),
        own_bids=own_bids.astype(np.float32),
        rival_bids=log_uniform(shape, decades).astype(np.float32),
        order=rng.permuted(np.broadcast_to(np.arange(num_agents), shape), axis=1),
        scale=log_uniform((num_instances,), 3.0).astype(np.float32),
        seed=rng.integers(2**32, size=num_instances, dtype=np.uint32),
    )


def _with_tie(
    logits: np.ndarray, agent: np.ndarray, rival: np.ndarray, token: np.ndarray
) -> np.ndarray:
    """Others that all want what the rival wants, and the agent too of one token."""
    rows = np.arange(logits.shape[0])
    own, wanted = np.exp(logits[rows, agent]), np.exp(logits[rows, rival])
    left = 1 - own[rows, token]
    # Where either has next to nothing else, there is no tie to make.
    possible = np.minimum(left, 1 - wanted[rows, token]) > 1e-6
    scale = (1 - wanted[rows, token]) / np.where(possible, left, 1)
    own *= np.where(possible, scale, 1)[:, None]
    own[rows, token] = np.where(possible, wanted[rows, token], own[rows, token])
    tied = np.broadcast_to(wanted[:, None], logits.shape).copy()
    tied[rows, agent] = own
    with np.errstate(divide="ignore"):
        return np.log(tied)


def _clip(x: jax.Array, largest: jax.Array | float) -> jax.Array:
    return jnp.where(jnp.isneginf(x), x, jnp.clip(x, -largest, largest))


def significant(x: Any, digits: int) -> np.ndarray:
    """Numbers of any shape with so many significant digits."""
    x = np.asarray(x)
    rounded = [float(f"{value:.{digits}g}") for value in x.ravel()]
    return np.asarray(rounded, x.dtype).reshape(x.shape)


def _without(log_probs: Any, kept: np.ndarray) -> np.ndarray:
    p = np.where(kept, np.exp(np.asarray(log_probs, float)), 0)
    return _log(p / p.sum(axis=-1, keepdims=True))


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)
