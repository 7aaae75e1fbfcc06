"""Closed answers about one token under `linear`.

Between point masses on different tokens a bid buys the share `b_i / sum_j b_j` of the
draws, and what an agent does not get costs it its value: under `pay_your_bid` with
total variation this is the contest of Tullock, "Efficient rent seeking" (1980).
"""

import numpy as np


def payoffs(values, bids, influence=1.0):
    """`-w_i (1 - lambda_i) - b_i`."""
    powers = np.asarray(bids, float) ** influence
    return -np.asarray(values) * (1 - powers / powers.sum()) - bids


def pair(values):
    """Equilibrium bids of two: `b_1 = w_1^2 w_2 / (w_1 + w_2)^2`."""
    first, second = values
    return first * second / (first + second) ** 2 * np.asarray(values, float)


def alike(value, agents, influence=1.0):
    """The bid of each of many with one value, `influence w (n - 1) / n^2`.

    Above an influence of `n / (n - 1)` each would rather stay out, and there is no
    equilibrium of certain bids.
    """
    if influence > agents / (agents - 1):
        raise ValueError(f"no equilibrium: {influence} exceeds n / (n - 1)")
    return influence * value * (agents - 1) / agents**2


def unequal(values):
    """Equilibrium bids of many at an influence of 1; some stay out.

    Of the `m` that stay in, `lambda_i = 1 - (m - 1) / (w_i sum_j 1/w_j)`, and together
    they bid `(m - 1) / sum_j 1/w_j`. They are those with the highest values, as many as
    have a positive share.
    """
    values = np.asarray(values, float)
    order = np.argsort(-values, kind="stable")
    bids = np.zeros_like(values)
    for m in range(2, len(values) + 1):
        inside = order[:m]
        total = (m - 1) / (1 / values[inside]).sum()
        shares = 1 - total / values[inside]
        if (shares <= 0).any():
            break
        bids[:] = 0
        bids[inside] = shares * total
    return bids


def best_bid(value, others):
    """The best reply to bids that sum to `others`: `sqrt(w B) - B`, or nothing."""
    return max(np.sqrt(value * others) - others, 0.0)


def distance_to_others(bids, log_probs, agent):
    """`TV(p_i, r)`, which multiplies the value between general distributions."""
    p, rest = np.exp(log_probs), np.array(bids, float)
    rest[agent] = 0
    return np.abs(p[agent] - rest @ p / rest.sum()).sum() / 2


def general_pair(values, log_probs):
    """Equilibrium bids of two with any distributions: of their values times `TV`."""
    distance = distance_to_others(np.ones(2), log_probs, 0)
    return pair(distance * np.asarray(values, float))


def general(values, log_probs, tolerance=1e-13):
    """Equilibrium bids of many with any distributions, by damped best replies.

    An agent's `r` does not depend on its own bid, so each reply is a closed one.
    """
    values = np.asarray(values, float)
    bids = values / len(values)
    for _ in range(100_000):
        replies = np.array(
            [
                best_bid(
                    values[i] * distance_to_others(bids, log_probs, i),
                    bids.sum() - bids[i],
                )
                for i in range(len(values))
            ]
        )
        if np.abs(replies - bids).max() <= tolerance:
            return replies
        bids = (3 * bids + replies) / 4
    raise ValueError("no equilibrium found")


def segment_price(own, others):
    """The mean price `B phi(b / B)` of one slot drawn by noisy scores.

    `own` and `others` are bids times click rates, that of the others summed. With
    Gumbel noise on the log of each score agent i wins at scores above a critical one,
    and pays that: Hajiaghayi et al., "Ad Auctions for LLMs via Retrieval Augmented
    Generation" (2024). The mean counts a loss as 0; a price per click is it over the
    agent's click rate.
    """
    ratio = own / others
    return others * (np.log1p(ratio) - ratio / (1 + ratio))
