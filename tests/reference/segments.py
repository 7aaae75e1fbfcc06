"""The segment auction by definition, in extended precision.

Scores are `b q`. Of ads of scores s the first is i with probability `s_i / sum s`, the
second is one of the others by the same rule, and so on (Plackett and Luce); payments
are Myerson's, `b x(b) - int_0^b x(s) ds`, integrated numerically.
"""

import itertools

import numpy as np

from reference.aggregation import LD


def orders(scores, count):
    """All orders of `count` ads of positive score, and their probabilities."""
    scores = np.asarray(scores, LD)
    ads = np.flatnonzero(scores > 0)
    found = list(itertools.permutations(ads.tolist(), min(count, ads.size)))
    chances = []
    for order in found:
        left, chance = ads.tolist(), LD(1)
        for ad in order:
            chance *= scores[ad] / scores[left].sum()
            left.remove(ad)
        chances.append(chance)
    return found, np.array(chances, LD)


def win_probs(scores, count):
    """Chances `(n,)` of being among the first `count`, and of not being."""
    found, chances = orders(scores, count)
    wins = np.zeros((len(found), len(scores)), bool)
    for row, order in enumerate(found):
        wins[row, list(order)] = True
    return chances @ wins, chances @ ~wins


def expected(bids, relevance, count):
    """Mean payments per click `(n,)`, 0 without a click or a place."""
    bids, relevance = np.asarray(bids, LD), np.asarray(relevance, LD)
    paid = np.zeros(len(bids), LD)
    for ad in np.flatnonzero(bids * relevance > 0):
        others = np.delete(bids * relevance, ad)
        others = others[others > 0]
        if others.size >= count:
            own = bids[ad] * relevance[ad]
            paid[ad] = _myerson(own, others, count) / relevance[ad]
    return paid


def _myerson(own, others, count):
    """`int_0^own x(own) - x(s) ds`: Gauss nodes in panels of `log s`.

    Of chances of a place or of none, whichever are smaller and so keep their digits.
    """
    length = 45 + max(np.log(own / others.min()), 0)
    panels = int(np.ceil(length))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    u = (np.arange(panels)[:, None] + (nodes + 1) / 2).ravel().astype(LD)
    s = own * np.exp(-u * length / panels)
    won, lost = _chances(np.append(s, own), others, count)
    change = won[-1] - won[:-1] if won[-1] < 0.5 else lost[:-1] - lost[-1]
    return (change * s * np.tile(weights, panels)).sum() * length / panels / 2


def _chances(own, others, count):
    """Chances of a place, and of none, at scores `own` `(N,)` against these others."""
    won = np.zeros(own.shape, LD)
    for place in range(count + 1):
        reached = np.zeros(own.shape, LD)
        for order in itertools.permutations(range(others.size), place):
            chance, left = np.ones(own.shape, LD), others.copy()
            for ad in order:
                chance *= others[ad] / (own + left.sum())
                left[ad] = 0
            reached += chance
            if place < count:
                won += chance * own / (own + left.sum())
    return won, reached
