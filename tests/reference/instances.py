"""Random auctions that cover the corners: scales, zeros, ties, degenerate agents."""

from dataclasses import dataclass

import numpy as np

# (agents, vocabulary)
SHAPES = ((2, 2), (3, 7), (4, 32), (5, 128), (8, 1000))
LARGEST = SHAPES[-1]


@dataclass(frozen=True, eq=False)
class Batch:
    """`K` auctions of one shape; float32 as a user would pass them."""

    bids: np.ndarray
    log_probs: np.ndarray
    agent: np.ndarray
    token: np.ndarray

    def __len__(self):
        return len(self.bids)

    def padded(self):
        """Bids and log-probabilities of the largest shape, compiled only once.

        More agents that do not bid and more tokens that nobody has change nothing; the
        smallest shape stays as it is.
        """
        if self.log_probs.shape[1:] == SHAPES[0]:
            return self.bids, self.log_probs
        agents, tokens = np.subtract(LARGEST, self.log_probs.shape[1:])
        bids = np.pad(self.bids, [(0, 0), (0, agents)])
        room = [(0, 0), (0, agents), (0, tokens)]
        log_probs = np.pad(self.log_probs, room, constant_values=-np.inf)
        log_probs[:, self.bids.shape[1] :, 0] = 0.0
        return bids, log_probs


def distribution(rng, vocabulary):
    """Log-probabilities between flat and nearly degenerate."""
    concentration = 10 ** rng.uniform(-2.5, 3)
    # Gamma draws underflow at a small shape; log Gamma(a) = log Gamma(a+1) + log(u)/a.
    log_gamma = np.log(rng.standard_gamma(concentration + 1, vocabulary))
    log_weights = log_gamma + np.log(rng.uniform(size=vocabulary)) / concentration
    log_weights = np.maximum(log_weights - log_weights.max(), -2000.0)
    return log_weights - np.log(np.exp(log_weights).sum())


def _profile(rng, agents, vocabulary, common_support):
    log_p = np.stack([distribution(rng, vocabulary) for _ in range(agents)])
    kind = rng.integers(6)
    if kind == 0:  # independent zeros
        log_p[rng.uniform(size=log_p.shape) < 0.4] = -np.inf
    elif kind == 1:  # disjoint supports, as far as the vocabulary reaches
        owner = rng.integers(agents, size=vocabulary)
        log_p[owner[None] != np.arange(agents)[:, None]] = -np.inf
    elif kind == 2:  # two agents agree
        log_p[1] = log_p[0]
    elif kind == 3:  # everyone nearly agrees
        log_p = log_p[:1] + 10 ** rng.uniform(-5, -1) * rng.normal(size=log_p.shape)
    if common_support:
        log_p[:, 0] = np.where(np.isneginf(log_p[:, 0]), -1.0, log_p[:, 0])
    for row in log_p:
        if np.isneginf(row).all():
            row[rng.integers(vocabulary)] = 0.0
    return (
        log_p
        - np.log(np.exp(log_p - log_p.max(-1, keepdims=True)).sum(-1))[:, None]
        - log_p.max(-1, keepdims=True)
    )


def _bids(rng, agents, agent, decades):
    bids = 10 ** rng.uniform(-1.5, 1.5, agents)
    if rng.integers(4) == 0:
        bids[:] = 1.0
    if rng.integers(4) == 0 and agents > 2:
        bids[(agent + 1) % agents] = 0.0
    others = bids.sum() - bids[agent]
    if rng.integers(5):
        bids[agent] = others * 10 ** rng.uniform(-decades, decades)
    return bids


def within_reach(influence, batches):
    """The batches, or such where `b^influence` and payments stay above 1e-30."""
    if influence <= 2:
        return batches
    size = len(batches[0])
    return [batch(5, size, *shape, decades=6.0) for shape in SHAPES]


def batch(seed, size, agents, vocabulary, *, common_support=False, decades=8.0):
    """Random auctions; `decades` bounds `|log10(b_i / B)|` of the marked agent.

    `common_support` gives every agent token 0, so that no auction is undefined. The
    marked token is one the linear rule can draw.
    """
    rng = np.random.default_rng([seed, agents, vocabulary, int(common_support)])
    agent = rng.integers(agents, size=size)
    log_probs = np.stack(
        [_profile(rng, agents, vocabulary, common_support) for _ in range(size)]
    ).astype(np.float32)
    bids = np.stack([_bids(rng, agents, i, decades) for i in agent]).astype(np.float32)
    likely = np.where(bids[..., None] > 0, log_probs, -np.inf).max(1) > -40
    token = np.array([rng.choice(np.flatnonzero(row)) for row in likely])
    return Batch(bids, log_probs, agent, token)
