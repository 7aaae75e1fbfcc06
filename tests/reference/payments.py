"""Second price under `linear`, and Clarke payments; batch axes lead, agents last."""

import numpy as np

from reference.aggregation import LD, log_linear, renormalize, weights, without

# Relative error of float32 inputs after a few operations; see `compare`.
EPSILON = 2e-6


def mean_critical_bid(own, others, influence=1.0):
    """`integral over (0, own] of s d lambda(s)`, `lambda(s) = s^a / (s^a + others)`.

    `others` is `sum_j b_j^a`. The variable `log s` resolves every scale: the integrand
    falls off exponentially on both sides of `s^a = others`. 200 panels of 8 Gauss
    nodes over 100 e-folds below the own bid.
    """
    # All terms are positive: double precision is enough, and five times faster.
    numbers = (np.asarray(x, np.float64) for x in (own, others, influence))
    own, others, influence = np.broadcast_arrays(*numbers)
    nodes, node_weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-100, 0, 201)
    width = edges[1] - edges[0]
    offset = (edges[:-1, None] + width * (nodes + 1) / 2).ravel()
    mass = np.tile(width * node_weights / 2, 200)
    paid = (own > 0) & (others > 0)
    a = influence[..., None]
    log_s = np.log(np.where(paid, own, 1))[..., None] + offset
    odds = a * log_s - np.log(np.where(paid, others, 1))[..., None]
    share = 1 / (1 + np.exp(-odds))
    density = a * share / (1 + np.exp(odds))
    return np.where(paid, (np.exp(log_s) * density * mass).sum(-1), 0)


def _mixtures(bids, p, agent, influence):
    """`r` and `q` of the linear rule for distributions `p` `(..., n, V)`."""
    r = (weights(without(bids, agent), influence)[..., None] * p).sum(-2)
    return r, (weights(bids, influence)[..., None] * p).sum(-2)


def _price(bids, agent, influence):
    """Mean critical bid of a certain win."""
    rest = without(bids, agent)
    others = np.where(rest > 0, rest ** LD(influence), 0).sum(-1)
    return mean_critical_bid(np.asarray(bids)[..., agent], others, influence)


def second_price(bids, log_probs, influence=1.0):
    """Expected payments and the size of the terms that cancel, `(..., n)` each.

    A token in T+ gains `p(t) - r(t)` per unit of lambda, so a win at own bid `s` has
    density `sum_{T+} (p - r) lambda'(s)`, and the payment is that `s`.
    """
    pays, scales = [], []
    all_p = np.exp(renormalize(log_probs))
    for agent in range(np.shape(bids)[-1]):
        p, (r, _) = all_p[..., agent, :], _mixtures(bids, all_p, agent, influence)
        price = _price(bids, agent, influence)
        pays.append(np.maximum(p - r, 0).sum(-1) * price)
        scales.append((np.maximum(p, r) * (p > 0.9 * r)).sum(-1) * price)
    return np.stack(pays, -1), np.stack(scales, -1)


def second_price_given(bids, log_probs, token, influence=1.0):
    """Payments expected once `token` is drawn, and the size of the terms that cancel.

    Under a stable sampler tokens of T+ are only ever entered, so the chance that `y`
    is drawn and was won by a bid of at most `s` is `q_s(y) - r(y)`.
    """
    pays, scales = [], []
    all_p = np.exp(renormalize(log_probs))
    column = np.take_along_axis(all_p, np.asarray(token)[..., None, None], -1)
    for agent in range(np.shape(bids)[-1]):
        p, (r, q) = column[..., agent, :], _mixtures(bids, column, agent, influence)
        p, r, q = p[..., 0], r[..., 0], np.where(q > 0, q, 1)[..., 0]
        price = _price(bids, agent, influence)
        pays.append(np.maximum(p - r, 0) / q * price)
        scales.append(np.maximum(p, r) / q * price)
    return np.stack(pays, -1), np.stack(scales, -1)


def second_price_table(bids, log_probs):
    """`second_price_given` of one auction for every token, `(V, n)` each."""
    tokens = np.arange(np.shape(log_probs)[-1])
    bids = np.tile(bids, (tokens.size, 1))
    return second_price_given(bids, np.tile(log_probs, (tokens.size, 1, 1)), tokens)


def payment_cdf(payment, bids, log_probs, agent, token, influence=1.0):
    """`P(payment_i <= s | token)` for one auction, vectorised over `s`."""
    column = np.exp(renormalize(log_probs))[:, token, None]
    p, (r, q) = column[agent], _mixtures(bids, column, agent, influence)
    own = LD(np.asarray(bids)[agent])
    if p <= r or own == 0:
        return (np.asarray(payment) >= 0).astype(float)
    rest = without(bids, agent)
    others = np.where(rest > 0, rest ** LD(influence), 0).sum()
    spent = np.clip(np.asarray(payment, LD), 0, own) ** LD(influence)
    reached = r + spent / (spent + others) * (p - r)
    return np.where(np.asarray(payment) < 0, 0, reached / q)


def _excess(delta):
    """`delta - log1p(delta)`, by its series where the difference would cancel."""
    small = np.abs(delta) < 1e-4
    d = np.where(small, delta, 0)
    series = d * d * (LD(1) / 2 - d * (LD(1) / 3 - d * (LD(1) / 4 - d / 5)))
    big = np.where(small | (delta <= -1), 0, delta)
    return np.where(small, series, big - np.log1p(big))


def clarke_linear(bids, log_probs):
    """`B KL(r || q)` and its tolerance scale, `(..., n)` each.

    Equal to the others' loss of welfare `sum_j b_j (v_j(r) - v_j(q))` under forward KL
    (`definitions.clarke` computes that one); this form keeps it for tiny bids.
    """
    pays, scales = [], []
    all_p = np.exp(renormalize(log_probs))
    for agent in range(np.shape(bids)[-1]):
        p, (r, q) = all_p[..., agent, :], _mixtures(bids, all_p, agent, 1.0)
        rest = without(bids, agent)
        own = np.asarray(bids, LD)[..., agent]
        total = rest.sum(-1)
        alone = total <= 0
        share = (own / np.where(own + total > 0, own + total, 1))[..., None]
        seen = r > 0
        r_safe = np.where(seen, r, 1)
        delta = np.where(seen, share * (p - r) / r_safe, 0)
        # For p << r and a share near one, 1 + delta loses what q / r keeps.
        ratio = np.where(seen, q / r_safe, 1)
        far = (ratio > 2) | (ratio < 0.5)
        bracket = np.where(
            far, ratio - 1 - np.log(np.where(far, ratio, 1)), _excess(delta)
        )
        terms = np.where(seen, r * bracket, q)
        pays.append(np.where(alone, 0, total * terms.sum(-1)))
        # A relative error e of p and r moves the payment by e (first + e second).
        safe_q = np.where(q > 0, q, 1)
        first = share**2 * np.abs(p - r) * (p + r) / safe_q
        second = np.where(seen, r * (share * (p + r) / safe_q) ** 2, 0)
        size = np.where(seen, first, 0) + EPSILON * second
        scales.append(np.where(alone, 0, total * size.sum(-1)))
    return np.stack(pays, -1), np.stack(scales, -1)


def clarke_log_linear(bids, log_probs):
    """`B KL(q || r)` and its tolerance scale, `(..., n)` each; 0 where undefined."""
    pays, scales = [], []
    log_p_all = renormalize(log_probs)
    log_q = log_linear(bids, log_probs)
    defined = np.isfinite(log_q).any(-1)
    for agent in range(np.shape(bids)[-1]):
        rest = without(bids, agent)
        own, total = np.asarray(bids, LD)[..., agent], rest.sum(-1)
        log_r, log_p = log_linear(rest, log_probs), log_p_all[..., agent, :]
        share = (own / np.where(own + total > 0, own + total, 1))[..., None]
        kept = np.isfinite(log_q) & np.isfinite(log_r)
        with np.errstate(invalid="ignore", divide="ignore"):
            tilt = np.where(kept, share * (log_p - log_r), 0)
            tilt = np.where(own[..., None] > 0, tilt, 0)
            r = np.exp(log_r)
            # q / r = exp(tilt) / sum_t r exp(tilt); near one, by the sum's distance.
            moved = np.where(kept, r * np.expm1(tilt), -r).sum(-1)
            total_weight = np.where(kept, r * np.exp(tilt), 0).sum(-1)
            near = np.abs(moved) < 0.5
            log_total = np.log1p(np.where(near, moved, 0))
            log_total = np.where(near, log_total, np.log(total_weight))
            log_ratio = np.where(kept, tilt - log_total[..., None], 0)
        # r ((1 + d) log1p(d) - d), with log1p(d) = log(q / r).
        x = log_ratio
        small = np.abs(x) < 1e-3
        s = np.where(small, x, 0)
        series = s * s * (LD(1) / 2 + s * (LD(1) / 3 + s * (LD(1) / 8 + s / 30)))
        with np.errstate(over="ignore", invalid="ignore"):
            q = np.where(kept, np.exp(log_q), 0)
            direct = q * x - (q - np.where(kept, r, 0))
        terms = np.where(kept, np.where(small, r * series, direct), r)
        paid = defined & (total > 0) & (own > 0)
        pays.append(np.where(paid, total * np.nansum(terms, -1), 0))
        with np.errstate(invalid="ignore"):
            size = share * (np.abs(log_p) + np.abs(log_r))
            size = np.where(kept, (np.abs(x) + EPSILON * size) * size, 0)
            # `r` may err by 1e-6 of the logarithms that it sums.
            logs = weights(rest)[..., None] * np.abs(log_p_all)
            logs = np.where(weights(rest)[..., None] > 0, logs, 0).sum(-2)
            size = q * size + terms * np.where(np.isfinite(logs), logs, 0) / 2
        scales.append(np.where(paid, total * np.nansum(size, -1), 0))
    return np.stack(pays, -1), np.stack(scales, -1)
