"""What a text is worth to one agent where policies bid, path by path.

Linear aggregation and total variation. A path is the tokens of a text and what was paid
for each; what it was decides what is bid next. Policies are functions ``bid(position,
last_token, spent)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Of the integral over what a won token costs.
NODES = 24
Policy = Callable[[int, int, float], float]


@dataclass(frozen=True, eq=False)
class Auction:
    """Who writes what `(n, V, V)` after `start`, and what it is worth to `agent`."""

    log_probs: np.ndarray
    policies: list[Policy]
    budgets: np.ndarray
    value: float
    agent: int
    num_tokens: int
    payment: str = "pay_your_bid"
    start: int = 0


def worth(auction):
    """``E sum_t w v(q_t) - paid_t`` of the agent."""
    budgets = np.asarray(auction.budgets, float)
    return _after(auction, budgets, 0, -1, np.zeros(len(budgets)))


def _after(auction, budgets, position, last, spent):
    """The worth of the rest of a text."""
    if position == auction.num_tokens:
        return 0.0
    left = budgets - spent
    bids = [
        policy(position, last, x)
        for policy, x in zip(auction.policies, spent, strict=True)
    ]
    bids = np.where(left > 0, bids, 0)
    if not bids.any():
        return 0.0
    p = np.exp(auction.log_probs[:, last if position else auction.start])
    q = bids @ p / bids.sum()
    agent = auction.agent
    total = -auction.value * np.abs(q - p[agent]).sum() / 2
    for token, chance in enumerate(q):
        for weight, due in _payments(auction.payment, bids, p[:, token]):
            paid = np.minimum(due, left)
            rest = _after(auction, budgets, position + 1, token, spent + paid)
            total += chance * weight * (rest - paid[agent])
    return total


def _payments(kind, bids, p):
    """What may be paid for a token of probabilities `p` `(n,)`, with its weights."""
    if kind == "pay_your_bid":
        return [(1.0, bids)]
    # The second price: each agent on its own, by the stable coupling.
    found = [(1.0, [])]
    x, w = np.polynomial.legendre.leggauss(NODES)
    for agent, bid in enumerate(bids):
        others = np.delete(bids, agent)
        rest = others.sum()
        if not bid or not rest:
            found = [(a, [*paid, 0.0]) for a, paid in found]
            continue
        share = bid / (bid + rest)
        r = np.delete(p, agent) @ others / rest
        win = share * max(p[agent] - r, 0) / (share * p[agent] + (1 - share) * r)
        u = share * (x + 1) / 2
        law = [(1 - win, 0.0)]
        if win > 0:
            law += list(zip(win * w / 2, rest * u / (1 - u), strict=True))
        found = [(a * b, [*paid, z]) for a, paid in found for b, z in law]
    return [(weight, np.array(paid)) for weight, paid in found]
