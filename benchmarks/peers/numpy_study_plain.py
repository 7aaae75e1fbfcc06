"""One cell of a study in NumPy, from the definitions: the other peer.

The cell of `numpy_study`, which is tuned; here each measure is what its definition
says, one vectorised function each. Arrays are `(A, n, V)` over a chunk of auctions, and
the tokens of a text are a loop. Beyond `p`, `q` and their logarithms, and the values
`v_i(q)`, no measure uses what another has computed.
"""

from typing import Any

import numpy as np

from benchmarks.peers.numpy_study import (
    SPREAD,
    TOLERANCE,
    VALUATIONS,
    Array,
    Key,
    Moments,
    Rng,
)

# Averaged over the tokens of a text; all others are summed.
MEANS = ("entropy", "weight", "robustly_gains", "robustly_loses")


def log(p: Array) -> Array:
    """Logarithm, -inf at 0 without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(p)


def kl(p: Array, log_p: Array, log_q: Array) -> Array:
    """`KL(p || q)`; 0 log 0 = 0."""
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def tv(p: Array, q: Array) -> Array:
    """Total variation distance."""
    return np.abs(p - q).sum(-1) / 2


def valuation(name: str, q: Array, log_q: Array, p: Array, log_p: Array) -> Array:
    """What an agent with `p` gets from `q`, per unit of its value."""
    if name == "total_variation":
        return -tv(q, p)
    if name == "forward_kl":
        return -kl(p, log_p, log_q)
    return -kl(q, log_q, log_p)


def welfare(
    name: str, values: Array, q: Array, log_q: Array, p: Array, log_p: Array
) -> Array:
    """`W(q)` of outcomes `(A, V)`."""
    worth = valuation(name, q[:, None], log_q[:, None], p, log_p)
    return (values * worth).sum(1)


def mixture(weights: Array, p: Array) -> Array:
    """Means `(A, m, V)` of the agents with weights `(A, m, n)`."""
    return weights / weights.sum(-1, keepdims=True) @ p


def without(bids: Array) -> Array:
    """Bids `(A, n, n)`: row i has that of agent i set to zero."""
    return bids[:, None] * (1 - np.eye(bids.shape[1], dtype=bids.dtype))


def draw(q: Array, rng: Rng) -> Array:
    """A token `(A,)` of each distribution, by inverse CDF."""
    cdf = q.cumsum(1)
    uniform = rng.random(len(q), dtype=q.dtype)
    return (cdf > (uniform * cdf[:, -1])[:, None]).argmax(1)


def at_token(p: Array, token: Array) -> Array:
    """The last axis of `(A, n, V)` at a token of each auction."""
    return np.take_along_axis(p, token[:, None, None], -1)[..., 0]


def optimum(name: str, values: Array, p: Array, log_p: Array) -> Array:
    """The most welfare of any distribution."""
    if name == "total_variation":
        return total_variation_optimum(values, p)
    if name == "forward_kl":
        best = mixture(values[:, None], p)[:, 0]
        return welfare(name, values, best, log(best), p, log_p)
    shares = values / values.sum(1, keepdims=True)
    powers = (shares[..., None] * log_p).sum(1)
    top = np.maximum(powers.max(1, keepdims=True), np.finfo(p.dtype).min)
    total = log(np.exp(powers - top).sum(1, keepdims=True)) + top
    defined = total[:, 0] > -np.inf  # some token has all agents
    log_best = powers - np.where(defined[:, None], total, 0)
    most = welfare(name, values, np.exp(log_best), log_best, p, log_p)
    return np.where(defined, most, -np.inf)


def total_variation_optimum(values: Array, p: Array) -> Array:
    """Raises `q` from 0 to a distribution where that costs least.

    No `q(t)` needs to be below all `p_i(t)`. From there to the next of the sorted
    `p_i(t)`, and so on, a unit of `q(t)` costs the value of the agents below: the
    segments that cost least are used first.
    """
    levels = np.sort(p, axis=1)
    costs = np.einsum("aj,akjv->akv", values, p[:, None] < levels[:, 1:, None])
    costs = costs.reshape(len(p), -1)
    lengths = np.diff(levels, axis=1).reshape(len(p), -1)
    order = costs.argsort(1)
    costs = np.take_along_axis(costs, order, 1)
    lengths = np.take_along_axis(lengths, order, 1)
    free = levels[:, 0].sum(1, keepdims=True)
    used = np.minimum(free + lengths.cumsum(1), 1)
    return -(costs * np.diff(used, axis=1, prepend=free)).sum(1)


def single_agents(name: str, values: Array, p: Array, log_p: Array) -> Array:
    """`W(p_k)` of each agent `(A, n)`."""
    alone = [
        welfare(name, values, p[:, k], log_p[:, k], p, log_p) for k in range(p.shape[1])
    ]
    return np.stack(alone, 1)


def realized_value(name: str, log_ratio: Array) -> Array:
    """One-token estimate of `v_i(q)`, given `log(p_i(y) / q(y))`."""
    if name == "reverse_kl":
        return log_ratio
    ratio = np.exp(log_ratio)
    if name == "total_variation":
        return -np.maximum(0, 1 - ratio)
    with np.errstate(invalid="ignore"):
        return -(np.where(ratio > 0, ratio * log_ratio, 0) - ratio + 1)


def robustly_prefers(q: Array, other: Array, p: Array) -> Array:
    """Whether `q` is at every token on the way from the other to `p`."""
    deviation, other_deviation = q - p, other - p
    size = np.abs(deviation)
    closer = size <= np.abs(other_deviation) + TOLERANCE
    same_side = (deviation * other_deviation >= 0) | (size <= TOLERANCE)
    return np.logical_and.reduce(closer & same_side, axis=-1)


def payments(
    bids: Array, p: Array, q: Array, r: Array, rng: Rng
) -> tuple[Array, Array]:
    """Realised and conditional second-price payments `(A, n)`.

    Given the probabilities of the token drawn. With own bid `s` the token has
    `q_s = r + s / (s + B) (p - r)`, where `B` is what the others bid. The bid at which
    it was won is at most `s` with probability `q_s / q`.
    """
    others = bids.sum(1, keepdims=True) - bids
    reached = rng.random(p.shape, dtype=p.dtype) * q
    won = (p > r) & (reached > r)
    share = np.where(won, reached - r, 0) / np.where(won, p - r, 1)
    realized = share / (1 - share) * others
    price = others * np.log1p(bids / others) - others * bids / (bids + others)
    return realized, np.maximum(p - r, 0) / q * price


def measure_token(
    bids: Array, values: Array, log_p: Array, rng: Rng
) -> tuple[dict[Key, Array], Array]:
    """Draws a token of each text; its measures, `(A,)` or `(A, n)`, and the token.

    `single_agent_shortfall` is here `W(p_k)`: its maximum is over the whole text.
    """
    p = np.exp(log_p)
    q = mixture(bids[:, None], p)[:, 0]
    log_q, r = log(q), mixture(without(bids), p)
    token = draw(q, rng)
    p_drawn, q_drawn = at_token(p, token), at_token(q[:, None], token)
    log_p_drawn = at_token(log_p, token)
    realized, conditional = payments(bids, p_drawn, q_drawn, at_token(r, token), rng)
    found: dict[Key, Array] = {}
    for name in VALUATIONS:
        worth = values * valuation(name, q[:, None], log_q[:, None], p, log_p)
        total = found["welfare", name] = worth.sum(1)
        estimate = values * realized_value(name, log_p_drawn - log(q_drawn))
        found["realized_welfare", name] = estimate.sum(1)
        with np.errstate(invalid="ignore"):
            gap = optimum(name, values, p, log_p) - total
        found["optimum_shortfall", name] = gap
        found["single_agent_shortfall", name] = single_agents(name, values, p, log_p)
        found["minimum_welfare", name] = worth.min(1)
        found["finite_welfare", name] = np.where(np.isinf(total), 0, total)
        found["infinite_tokens", name] = np.isinf(total).astype(p.dtype)
        found["utility", name] = worth - realized
        found["expected_utility", name] = worth - conditional
    found["nash_welfare"] = log(1 - tv(q[:, None], p)).sum(1)
    found["payment"], found["revenue"] = realized, realized.sum(1)
    found["expected_payment"] = conditional
    found["expected_revenue"] = conditional.sum(1)
    found["log_likelihood"] = log(p_drawn.mean(1))  # the mean of the agents
    found["log_ratio"] = log_p_drawn - found["log_likelihood"][:, None]
    found["entropy"] = -kl(q, log_q, np.zeros_like(q))
    found["log_prob"] = log(q_drawn)[:, 0]
    found["weight"] = bids / bids.sum(1, keepdims=True)
    gains = robustly_prefers(q[:, None], r, p)
    loses = robustly_prefers(r, q[:, None], p) & ~gains
    found["robustly_gains"] = gains.astype(p.dtype)
    found["robustly_loses"] = loses.astype(p.dtype)
    return found, token


def measure_texts(
    table: Array, bids: Array, values: Array, num_tokens: int, rng: Rng
) -> tuple[dict[Key, Array], Array, Array]:
    """Measures `(A,)` or `(A, n)` of texts; tokens `(T, A)`, payments `(T, A, n)`.

    The table of log-probabilities is `(V, n, V)`. Bids and values are `(A, n)`,
    positive, n > 1.
    """
    last, totals = np.zeros(len(bids), np.intp), {}
    tokens, paid = [], []
    for _ in range(num_tokens):
        found, last = measure_token(bids, values, table[last], rng)
        for key, value in found.items():
            totals[key] = totals[key] + value if key in totals else value
        tokens.append(last)
        paid.append(found["payment"])
    for name in VALUATIONS:
        key = "single_agent_shortfall", name
        best = totals[key].max(1)
        with np.errstate(invalid="ignore"):
            gap = best - totals["welfare", name]
        totals[key] = np.where(np.isinf(best), best, gap)
    for key in MEANS:
        totals[key] = totals[key] / num_tokens
    length = totals["length"] = np.full(len(bids), float(num_tokens))
    gained = values * totals["log_ratio"]
    totals["log_ratio_welfare"] = gained.sum(1)
    totals["minimum_log_ratio_welfare"] = gained.min(1)
    totals["log_ratio_utility"] = gained - totals["payment"]
    totals["divergence"] = totals["log_prob"] - totals["log_likelihood"]
    # At a price of 1 for a nat.
    totals["regularized_welfare"] = gained.sum(1) - totals["divergence"]
    totals["drawn_tokens"] = length.astype(bids.dtype)
    totals["forward_passes"] = bids.shape[1] * totals["drawn_tokens"]
    return totals, np.array(tokens), np.array(paid)


def run(
    log_probs_table: Array,
    num_auctions: int,
    num_tokens: int,
    rng: np.random.Generator,
    dtype: Any = np.float64,
    chunk: int = 1019,
) -> Moments:
    """Moments of all measures over texts of one cell; see `numpy_study.run`."""
    totals = np.logaddexp.reduce(log_probs_table, axis=-1, keepdims=True)
    table = (log_probs_table - totals).astype(dtype).transpose(1, 0, 2)
    table, moments = np.ascontiguousarray(table), Moments()
    for start in range(0, num_auctions, chunk):
        size = min(chunk, num_auctions - start), len(log_probs_table)
        values = np.exp(SPREAD * rng.standard_normal(size, dtype=dtype))
        found = measure_texts(table, values, values, num_tokens, rng)[0]
        moments.add({key: value.T for key, value in found.items()})
    return moments
