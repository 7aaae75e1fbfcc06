"""The same payments, one auction at a time, straight from the definitions.

Too slow for sweeps; they are what the formulas of `payments` are checked against.
"""

from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
from scipy import integrate

from reference import aggregation, valuations
from reference.aggregation import LD, renormalize, without

RULES = {"linear": aggregation.linear, "log_linear": aggregation.log_linear}
VALUATIONS = {
    "total_variation": valuations.total_variation,
    "forward_kl": valuations.forward_kl,
    "reverse_kl": valuations.reverse_kl,
}


def at_bid(bids, agent, own):
    """The bids with this agent's replaced."""
    bids = np.array(bids, LD)
    bids[agent] = own
    return bids


def second_price(bids, log_probs, agent, influence=1.0, token=None):
    """`integral of s dP(won by bid s)` along the path of own bids, by quadrature.

    A stable sampler changes the token at most once, into T+; so the token was won by a
    bid of at most `s` with probability `q_s(T+) - r(T+)`. Given a token `y` of T+, that
    probability is `(q_s(y) - r(y)) / q(y)`.
    """
    rest = without(bids, agent)
    if rest.sum() == 0 or bids[agent] == 0:
        return 0.0
    log_p = renormalize(log_probs)[agent]
    r = np.exp(aggregation.linear(rest, log_probs, influence))
    gains = np.exp(log_p) > r
    reached = 1.0
    if token is not None:
        gains &= np.arange(gains.size) == token
        reached = np.exp(aggregation.linear(bids, log_probs, influence))[token]

    def won(log_bid):
        moved = at_bid(bids, agent, np.exp(LD(log_bid)))
        q = np.exp(aggregation.linear(moved, log_probs, influence))
        return ((q - r) * gains).sum() / reached

    step = LD("1e-3")

    def integrand(log_bid):
        near = (won(log_bid + step) - won(log_bid - step)) / (2 * step)
        far = (won(log_bid + 2 * step) - won(log_bid - 2 * step)) / (4 * step)
        return float(np.exp(LD(log_bid)) * (4 * near - far) / 3)

    top = float(np.log(LD(bids[agent])))
    # Below the scale of the others' bids the integrand decays like s^(1 + a).
    knee = min(top, float(np.log(rest.max()))) - 2.0
    pieces = np.linspace(knee - 40 / (1 + influence), top, 40)
    evaluate = np.vectorize(integrand)
    return sum(
        integrate.fixed_quad(evaluate, lo, hi, n=8)[0] for lo, hi in pairwise(pieces)
    )


def clarke(bids, log_probs, agent, rule):
    """Others' welfare without the agent minus their welfare with it, 60 digits.

    The valuation is the one whose weighted sum the rule maximises: forward KL for
    `linear`, reverse KL for `log_linear`.
    """
    with localcontext() as context:
        context.prec = 60
        weights = [[_exp(x) for x in row] for row in np.asarray(log_probs)]
        p = [[x / sum(row) for x in row] for row in weights]
        bids = [Decimal(float(b)) for b in bids]
        rest = [Decimal(0) if j == agent else b for j, b in enumerate(bids)]
        if sum(rest) == 0:
            return 0.0
        q, r = _aggregate(bids, p, rule), _aggregate(rest, p, rule)
        if q is None:
            return 0.0
        loss = Decimal(0)
        for bid, row in zip(rest, p, strict=True):
            if bid > 0:
                before, after = _value(r, row, rule), _value(q, row, rule)
                loss += bid * (before - after)
        return float(loss)


def _exp(x):
    return Decimal(0) if np.isneginf(x) else Decimal(float(x)).exp()


def _aggregate(bids, p, rule):
    shares = [b / sum(bids) for b in bids]
    columns = list(zip(*p, strict=True))
    if rule == "linear":
        return [sum(s * x for s, x in zip(shares, c, strict=True)) for c in columns]
    means = []
    for column in columns:
        active = [(s, x) for s, x in zip(shares, column, strict=True) if s > 0]
        empty = any(x == 0 for _, x in active)
        means.append(Decimal(0) if empty else sum(s * x.ln() for s, x in active).exp())
    total = sum(means)
    return [m / total for m in means] if total else None


def _value(q, p, rule):
    first, second = (p, q) if rule == "linear" else (q, p)
    pairs = zip(first, second, strict=True)
    return -sum((x * (x / y).ln() for x, y in pairs if x > 0), Decimal(0))


def value(bids, log_probs, agent, rule, valuation, influence=1.0):
    """`v_i(q)`; leading axes of the bids are allowed.

    `rule` is "linear", "log_linear" or the order of a power mean.
    """
    if rule in RULES:
        log_q = RULES[rule](bids, log_probs, influence)
    else:
        log_q = aggregation.aggregate(bids, log_probs, rule, influence)
    return VALUATIONS[valuation](log_q, renormalize(log_probs)[agent])


def myerson(bids, log_probs, agent, rule, valuation, influence=1.0, panels=200):
    """`b x(b) - integral_0^b x(s) ds` with `x(s) = v_i(q(s, b_-i))`.

    By Gauss quadrature in `log s` over 80 e-folds below the bid: a relative error below
    1e-12 where `x` is smooth, and of 1e-5 where it has kinks.
    """
    nodes, node_weights = np.polynomial.legendre.leggauss(8)
    # Half of the panels for the last 20 e-folds, where all but e^-20 of the bid lies.
    edges = np.concatenate(
        [np.linspace(-80, -20, panels // 2 + 1), np.linspace(-20, 0, panels // 2 + 1)]
    )
    edges = np.unique(edges.astype(LD))
    width = np.diff(edges)[:, None]
    log_share = (edges[:-1, None] + width * (nodes + 1) / 2).ravel()
    mass = (width * node_weights / 2).ravel() * np.exp(log_share)
    own = LD(np.asarray(bids)[agent])
    path = np.tile(np.array(bids, LD), (log_share.size + 1, 1))
    path[:-1, agent] = own * np.exp(log_share)
    x = value(path, log_probs, agent, rule, valuation, influence)
    return float(own * (mass * (x[-1] - x[:-1])).sum())


def sharp_myerson(bids, log_probs, agent, rule, valuation, influence=1.0):
    """The same where `x` is all but a step: panels are halved until they are resolved.

    `x` rises, so that a panel adds `s_low dx` to `s_high dx`: it is done once these
    differ by less than 1e-9 of all, or once halves add up to the whole panel to 1e-10.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    own, log_probs = LD(np.asarray(bids)[agent]), np.asarray(log_probs, LD)

    def x(log_share):
        path = np.tile(np.array(bids, LD), (*log_share.shape, 1))
        path[..., agent] = own * np.exp(log_share)
        return value(path, log_probs, agent, rule, valuation, influence)

    def measured(left, right):
        at = left[:, None] + (right - left)[:, None] * (nodes + 1) / 2
        at = np.concatenate([at, left[:, None], right[:, None]], axis=1)
        found = x(at)
        low, high = found[:, -2:].T
        mass = weights / 2 * (right - left)[:, None] * np.exp(at[:, :-2])
        rise = np.exp(right) * (high - low)
        return rise - (mass * (found[:, :-2] - low[:, None])).sum(1), high - low

    edges = np.linspace(LD(-60) / min(influence, 1), 0, 400)
    left, right, total = edges[:-1], edges[1:], LD(0)
    area, rise = measured(left, right)
    size = (np.exp(left) * rise).sum()
    while left.size:
        middle = (left + right) / 2
        lefts, rights = np.concatenate([left, middle]), np.concatenate([middle, right])
        areas, rises = measured(lefts, rights)
        size = max(size, total + (np.exp(lefts) * rises).sum())
        halves = areas[: left.size] + areas[left.size :]
        bound = (np.exp(right) - np.exp(left)) * rise
        done = (np.abs(halves - area) <= 1e-10 * size) & (bound <= 1e-2 * size)
        done |= (bound <= 1e-9 * size) | (right - left < 1e-16)
        total += np.where(done, halves, 0).sum()
        again = np.tile(~done, 2)
        left, right, area, rise = (
            lefts[again],
            rights[again],
            areas[again],
            rises[again],
        )
    return float(own * total)


def derivative(function, at, step, *, one_sided=False):
    """Richardson extrapolation of difference quotients; `one_sided` looks upwards."""
    at, step = LD(at), LD(step)
    rows = []
    for level in range(5):
        h = step / 2**level
        if one_sided:
            slope = (function(at + h) - function(at)) / h
        else:
            slope = (function(at + h) - function(at - h)) / (2 * h)
        row = [slope]
        for k in range(level):
            factor = LD(2) ** ((k + 1) * (1 if one_sided else 2))
            row.append((factor * row[k] - rows[-1][k]) / (factor - 1))
        rows.append(row)
    return rows[-1][-1]
