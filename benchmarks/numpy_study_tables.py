"""What depends on the row of a Markov table alone: computed once per cell.

The optimum for total variation is such a table too. It minimises
`sum_t sum_i w_i |q(t) - p_i(t)|` under `sum_t q(t) = 1`, so every `q(t)` is a weighted
quantile of `p_1(t)..p_n(t)` at one level, and lies between two neighbouring quantiles
where that level is the weight of a set of agents. Which agent is the quantile depends
on the order of the `2^n` set weights only: weights of one *class* (12 of them for three
agents) share their optimum at each row.
"""

from itertools import product
from typing import Any

import numpy as np

# Instead of -inf in matrix products, whose kernels may multiply it by zero; a share of
# it is below `HALFWAY`, and its exponential is zero.
LOWEST, HALFWAY = -1e30, -1e15
LEAST = 1e-30
VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")
Array = np.ndarray[Any, np.dtype[Any]]


class Tables:
    """Tables of the rows of `log_probs` `(n, V, V)`; `r` below is the row."""

    def __init__(self, log_probs: Array, dtype):
        log_p = log_probs - np.log(np.exp(log_probs).sum(-1, keepdims=True))
        p = np.exp(log_p)
        self.agents, self.vocabulary = len(p), p.shape[-1]
        self.tiny = np.finfo(dtype).tiny
        self.row_type = np.uint8 if self.vocabulary <= 256 else np.uint16
        # (r, V, n): left factors of the mixtures.
        # Where nobody has a token, `log q` must stay finite: 0 log 0 = 0.
        positive = np.where(p.max(0) < LEAST, LEAST, p)
        self.columns = np.ascontiguousarray(positive.transpose(1, 2, 0).astype(dtype))
        bounded = np.maximum(log_p, LOWEST)
        self.log_columns = np.ascontiguousarray(
            bounded.transpose(1, 2, 0).astype(dtype)
        )
        self.p = p  # float64, for the optima
        # (n, r V): of the token drawn.
        self.token_p = p.reshape(len(p), -1).astype(dtype)
        self.token_log_p = log_p.reshape(len(p), -1).astype(dtype)
        with np.errstate(divide="ignore"):
            self.token_log_mean = np.log(p.mean(0)).ravel().astype(dtype)
        # cross[r, i, j] = sum_t p_j log p_i: LOWEST where p_i lacks a token of p_j.
        with np.errstate(invalid="ignore"):
            terms = p[None] * log_p[:, None]
        cross = np.where(p[None] > 0, terms, 0).sum(-1)
        own = np.einsum("iir->ir", cross)
        self.own = own.astype(dtype)  # (n, r): sum_t p_i log p_i
        self.bounded = bool(np.isfinite(cross).all())
        limited = np.maximum(cross, LOWEST)
        self.cross = np.ascontiguousarray(limited.transpose(2, 0, 1).astype(dtype))
        # (r, n n): distances from p_k to p_i, k first. KL(p_k || p_i) may be infinite.
        size = (self.vocabulary, -1)
        apart = np.abs(p[:, None] - p[None]).sum(-1) / 2
        self.apart = apart.transpose(2, 0, 1).reshape(size).astype(dtype)
        divergence = own[:, None] - cross.transpose(1, 0, 2)
        self.divergence = divergence.transpose(2, 0, 1).reshape(size).astype(dtype)
        self.cumulative, self.width = _cumulative(p, dtype)
        self.sets = _sets(self.agents)
        self.optima: dict[int, Array] = {}


def _cumulative(p: Array, dtype) -> tuple[Array, int]:
    """Cumulative probabilities, padded to a power of two; 2 from the last token on."""
    vocabulary = p.shape[-1]
    width = 1 << max(vocabulary - 1, 1).bit_length()
    cumulative = np.full((*p.shape[:-1], width), 2.0)
    cumulative[..., :vocabulary] = p.cumsum(-1)
    last = vocabulary - 1 - (p[..., ::-1] > 0).argmax(-1)
    cumulative[np.arange(width) >= last[..., None]] = 2.0
    return cumulative.astype(dtype).ravel(), width


def _sets(agents: int) -> Array:
    """Coefficients `(pairs, n)` whose signs order the weights of all sets of agents.

    One row for each pair of disjoint sets: 1 in the first, -1 in the second.
    """
    if agents > 4:
        raise ValueError(f"agents must be at most 4 for optima by class, got {agents}")
    rows = [r for r in product((0, 1, -1), repeat=agents) if {1, -1} <= set(r)]
    rows = [r for r in rows if next(x for x in r if x) == 1]  # one of each pair
    return np.array(rows, float).reshape(-1, agents)


def classes(tables: Tables, values: Array) -> tuple[Array, Array]:
    """Distances `(n, classes V)` from optima to agents, and each auction's class."""
    signs = tables.sets @ values > 0
    codes = (1 << np.arange(len(signs))) @ signs
    found, first, which = np.unique(codes, return_index=True, return_inverse=True)
    for code, example in zip(found, first, strict=True):
        if int(code) not in tables.optima:
            weights = values[:, example].astype(float)
            tables.optima[int(code)] = optimum_distances(tables.p, weights)
    chosen = [tables.optima[int(code)] for code in found]
    return np.concatenate(chosen, 1).astype(values.dtype), which


def optimum_distances(p: Array, weights: Array) -> Array:
    """`TV(q*, p_i)` `(n, rows)` for the weights of one class; `p` is `(n, rows, V)`."""
    agents = len(p)
    members = (np.arange(1 << agents)[:, None] >> np.arange(agents)) & 1
    rank = np.empty(1 << agents, int)
    rank[np.argsort(members @ weights, kind="stable")] = np.arange(1 << agents)
    order = p.argsort(0)
    ascending = np.take_along_axis(p, order, 0)
    # Rank of the set of the 1, 2, ..., n agents with the least p_i(t).
    reached = rank[np.cumsum(1 << order, axis=0)]
    best, remaining = ascending[0].copy(), np.ones(p.shape[1], bool)
    lower = best
    for level in range(1 << agents):
        place = np.minimum((reached <= level).sum(0), agents - 1)
        upper = np.take_along_axis(ascending, place[None], 0)[0]
        below, above = lower.sum(-1), upper.sum(-1)
        here = remaining & (above >= 1)
        width = np.where(above > below, above - below, 1)
        part = np.clip((1 - below) / width, 0, 1)[:, None]
        best = np.where(here[:, None], lower + part * (upper - lower), best)
        remaining &= ~here
        lower = upper
    # Rounding alone keeps the largest quantile's sum below one.
    best = np.where(remaining[:, None], lower, best)
    return np.abs(best - p).sum(-1) / 2
