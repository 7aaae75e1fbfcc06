"""One step of many auctions in NumPy, float32: plain, and tuned.

From logits `(A, n, V)` and bids `(A, n)` to tokens, second prices, their means given
the token, and log-probabilities, under linear aggregation. Both draw by inverse CDF
from one float32, which loses tokens less likely than 2^-24.
"""

from typing import Any

import numpy as np

from benchmarks.harness import cores, on_all_cores
from benchmarks.peers.numpy_study_plain import (
    at_token,
    draw,
    log,
    mixture,
    payments,
    without,
)

Array = np.ndarray[Any, np.dtype[Any]]
Rng = np.random.Generator
# Tokens `(A,)`, realised and mean payments `(A, n)`, log-probabilities `(A,)`.
Outcome = tuple[Array, ...]
# Bytes of the logits of a block, which stay in the cache of a core.
_BLOCK = 2**19


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis."""
    masses = np.exp(logits - logits.max(-1, keepdims=True))
    masses /= masses.sum(-1, keepdims=True)
    return masses


def auction(p: Array, bids: Array, rng: Rng) -> Outcome:
    """The auctions of one token, given the agents' probabilities `(A, n, V)`."""
    token = draw(mixture(bids[:, None], p)[:, 0], rng)
    return token, *settle(bids, at_token(p, token), rng)


def settle(bids: Array, p: Array, rng: Rng) -> tuple[Array, Array, Array]:
    """Payments and log-probabilities, given the agents' probabilities of the token."""
    q = mixture(bids[:, None], p[..., None])[..., 0]
    r = mixture(without(bids), p[..., None])[..., 0]
    return *payments(bids, p, q, r, rng), log(q)[:, 0]


def plain(logits: Array, bids: Array, rng: Rng) -> Outcome:
    """Whole arrays, one after the other."""
    return auction(softmax(logits), bids, rng)


def tuned(logits: Array, bids: Array, rng: Rng) -> Outcome:
    """Blocks that stay in the cache, on all cores, with an exponential a logit."""
    count = max(1, min(len(logits), max(cores(), logits.nbytes // _BLOCK)))
    blocks = np.array_split(logits, count), np.array_split(bids, count)
    pieces = zip(*blocks, rng.spawn(count), strict=True)
    return tuple(map(np.concatenate, zip(*on_all_cores(_step, pieces), strict=True)))


def _step(piece: tuple[Array, Array, Rng]) -> Outcome:
    logits, bids, rng = piece
    masses = logits - logits.max(2, keepdims=True)
    np.exp(masses, out=masses)
    totals = masses.sum(2)
    # Normalisers belong to an agent, not to each of its tokens.
    mixed = ((bids / totals)[:, None] @ masses)[:, 0]
    token = _draw(mixed, rng)
    return token, *settle(bids, at_token(masses, token) / totals, rng)


def _draw(masses: Array, rng: Rng) -> Array:
    """Tokens by inverse CDF in two stages, of masses `(A, V)` of any sum."""
    rows, size = masses.shape
    width = max(w for w in range(1, int(size**0.5) + 1) if size % w == 0)
    groups = masses.reshape(rows, size // width, width)
    cdf = groups.sum(2).cumsum(1)
    reach = rng.random((rows, 1), dtype=masses.dtype) * cdf[:, -1:]
    group = (cdf > reach).argmax(1)
    inside = groups[np.arange(rows), group].cumsum(1)
    reach = rng.random((rows, 1), dtype=masses.dtype) * inside[:, -1:]
    return group * width + (inside > reach).argmax(1)
