"""Mechanisms on candidate replies by definition, in extended precision.

Rewards are `(n, M)` and log-ratios `(M,)`; a payment comes with the size of its terms.
"""

import itertools
import math

import numpy as np

from reference.aggregation import LD, renormalize


def _welfare_without(rewards, agent):
    return np.delete(rewards, agent, axis=0).sum(0)


def _objective(law, welfare, prior, tau):
    """`sum_j p_j r_j - tau KL(p || prior)`."""
    drawn = law > 0
    kl = (law[drawn] * np.log(law[drawn] / prior[drawn])).sum()
    return (law[drawn] * welfare[drawn]).sum() - tau * kl


def mosaic_law(rewards, log_weights, tau):
    """The maximiser of expected welfare less `tau` times the divergence, `(M,)`."""
    rewards, log_weights = np.asarray(rewards, LD), np.asarray(log_weights, LD)
    return np.exp(renormalize(log_weights + rewards.sum(0) / LD(tau)))


def mosaic_pivots(rewards, log_weights, tau):
    """Largest objective of the others, less theirs at the law: `(n,)`, by Clarke.

    Each is the difference of two objectives.
    """
    rewards, log_weights = np.asarray(rewards, LD), np.asarray(log_weights, LD)
    prior = np.exp(renormalize(log_weights))
    law = mosaic_law(rewards, log_weights, tau)
    pivots = []
    for agent in range(len(rewards)):
        rest = _welfare_without(rewards, agent)
        alone = mosaic_law(rest[None], log_weights, tau)
        best = _objective(alone, rest, prior, LD(tau))
        pivots.append(best - _objective(law, rest, prior, LD(tau)))
    return np.array(pivots)


def mosaic_expected(rewards, log_weights, tau):
    """`tau KL(p || p_-i)` as a sum of terms that are not negative, `(n,)`."""
    rewards = np.asarray(rewards, LD)
    p = mosaic_law(rewards, log_weights, tau)
    paid = []
    for agent in range(len(rewards)):
        rest = _welfare_without(rewards, agent)[None]
        q = mosaic_law(rest, log_weights, tau)
        drawn = (p > 0) & (q > 0)
        # p log(p / q) - p + q, with p = q (1 + excess).
        tilt = rewards[agent][drawn] / LD(tau)
        tilt = tilt - (p[drawn] * tilt).sum() / p[drawn].sum()
        log_mean = np.log1p((p[drawn] * np.expm1(-tilt)).sum())
        x = tilt + log_mean
        terms = p[drawn] * np.where(
            np.abs(x) < 1e-3,
            x**2 / 2 - x**3 / 6 + x**4 / 24 - x**5 / 120,
            x + np.expm1(-x),
        )
        paid.append(LD(tau) * terms.sum())
    return np.array(paid)


def mosaic_realized(rewards, log_weights, tau):
    """`r_i(y) - tau [LSE(w + r / tau) - LSE(w + r_-i / tau)]` for each y, `(n, M)`."""
    rewards, log_weights = np.asarray(rewards, LD), np.asarray(log_weights, LD)

    def total(welfare):
        x = log_weights + welfare / LD(tau)
        return x.max() + np.log(np.exp(x - x.max()).sum())

    with_all = total(rewards.sum(0))
    rows = [
        own - LD(tau) * (with_all - total(_welfare_without(rewards, agent)))
        for agent, own in enumerate(rewards)
    ]
    return np.array(rows)


def best_of(rewards):
    """The first candidate of the largest welfare, and Clarke's pivots `(n,)`."""
    rewards = np.asarray(rewards, LD)
    every = range(rewards.shape[1])
    best = max(every, key=lambda j: (rewards[:, j].sum(), -j))
    paid = []
    for agent in range(len(rewards)):
        rest = _welfare_without(rewards, agent)
        paid.append(max(rest[j] for j in every) - rest[best])
    return best, np.array(paid)


def single_winner(rewards):
    """The candidate that the agent of the highest reward chooses; payments `(n,)`."""
    highest = [max(own) for own in rewards.tolist()]
    winner = highest.index(max(highest))
    reply = rewards[winner].tolist().index(highest[winner])
    paid = np.zeros(len(highest))
    others = highest[:winner] + highest[winner + 1 :]
    paid[winner] = max(others, default=0)
    return reply, paid


def text_log_probs(table, num_tokens, start=0):
    """All texts `(V^T, T)` of Markov tables `(n, V, V)`; log-probs `(n, V^T)`."""
    agents, size, _ = table.shape
    texts = list(itertools.product(range(size), repeat=num_tokens))
    logs = np.zeros((agents, len(texts)), LD)
    for k, text in enumerate(texts):
        last = start
        for token in text:
            logs[:, k] += table[:, last, token]
            last = token
    return np.array(texts), logs


def samples(size, count):
    """All samples of `count` of `size` outcomes, up to order; and how many orders."""
    found = list(itertools.combinations_with_replacement(range(size), count))
    orders = [
        math.factorial(count)
        / math.prod(math.factorial(sample.count(k)) for k in set(sample))
        for sample in found
    ]
    return np.array(found), np.array(orders)
