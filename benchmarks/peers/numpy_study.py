"""One cell of a study in NumPy, for agents in general: the peer.

Linear aggregation and the second price. A chunk of texts is drawn token by token, all
its auctions at once. At each token the agents give log-probabilities `(n, A, V)`, and
every measure is computed from them: only `table_agents` knows a table. What is fast:

- Arrays over the vocabulary are allocated once. A chunk is odd: rows a power of two
  apart share the sets of a cache.
- All mixtures of a token are one batched matrix product, all `sum_t p log p'` another.
- What has no vocabulary is stored by token and measured once per chunk.

`run` gives the moments and a histogram of each measure. Keys are a name or
`(name, valuation)`; measures of an agent have `n` rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Rng = np.random.Generator
Key = str | tuple[str, str]
# Writes normalised log-probabilities `(n, A, V)`, given the last tokens `(A,)`.
Agents = Callable[[Array, Array], None]
VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")
TOLERANCE = 1e-6
SPREAD = 0.5  # of the logarithm of a value
BINS = 1 << 16
SMALL = 128  # vocabulary up to which a product with a triangle beats `cumsum`


def table_agents(log_probs_table: Array) -> Agents:
    """Agents of a Markov table `(n, V, V)`, row = last token."""

    def log_probs(last: Array, out: Array) -> None:
        np.take(log_probs_table, last, axis=1, out=out, mode="clip")

    return log_probs


class Workspace:
    """Arrays over the vocabulary, and what is stored of each token of a chunk."""

    def __init__(self, agents: int, vocabulary: int, auctions: int, tokens: int, dtype):
        n, size = agents, (auctions, vocabulary)
        self.sets = [s for s in range(1 << n) if s.bit_count() > 1]
        # p_i; q; the optimum for forward KL; q - p_i; q - r_i.
        self.mixtures = np.empty((3 * n + 2, *size), dtype)
        self.logs = np.empty((n + 2, *size), dtype)  # of the first n + 2 of them
        self.scratch = np.empty((max(n, len(self.sets)), *size), dtype)
        self.ones = np.ones(vocabulary, dtype)
        self.upper = None if vocabulary > SMALL else np.tri(vocabulary, dtype=dtype).T
        self.rows = np.arange(auctions) * vocabulary
        self.last = np.zeros((tokens + 1, auctions), np.intp)
        # By token: log p_i and log q of the token drawn; sum_t p log p', the last p
        # being q; sum_t |q - p_i|; sum_t of the least p of each set of agents; welfare
        # of the optima for the KL divergences, in part.
        self.drawn = np.empty((tokens, n + 1, auctions), dtype)
        self.cross = np.empty((tokens, auctions, n + 1, n + 1), dtype)
        self.distance = np.empty((tokens, n, auctions), dtype)
        self.shared = np.empty((tokens, len(self.sets), auctions), dtype)
        self.mixed, self.tilted = np.empty((2, tokens, auctions), dtype)
        self.gains, self.loses = np.empty((2, n, auctions), dtype)


def mixing_weights(bids: Array, values: Array) -> Array:
    """Weights `(A, 2 n + 2, n)` of all mixtures: of `q`, of the optimum, `q - ...`."""
    own = np.eye(len(bids), dtype=bids.dtype)[:, :, None]
    rest = bids * (1 - own)  # (without i, n, A)
    q, best = bids / bids.sum(0), values / values.sum(0)
    weights = [q[None], best[None], q - own, q - rest / rest.sum(1, keepdims=True)]
    return np.ascontiguousarray(np.concatenate(weights).transpose(2, 0, 1))


def measure_token(
    work: Workspace, t: int, weights: Array, uniform: Array, agents: Agents
) -> None:
    """Draws token `t` of each text and stores what its measures need."""
    n, last, logs, scratch = weights.shape[-1], work.last, work.logs, work.scratch
    agents(last[t], logs[:n])
    p = np.exp(logs[:n], out=work.mixtures[:n])
    by_auction = work.mixtures.transpose(1, 0, 2)
    np.matmul(weights, by_auction[:, :n], out=by_auction[:, n:])
    with np.errstate(divide="ignore", invalid="ignore"):
        np.log(work.mixtures[n : n + 2], out=logs[n:])
        draw(work, work.mixtures[n], uniform, last[t + 1])
        drawn = work.rows + last[t + 1]
        logs[: n + 1].reshape(n + 1, -1).take(drawn, 1, work.drawn[t], "clip")
        undefined = np.isnan(multiply_logs(work, t).sum())  # 0 log 0
    missing = exclude_missing(work, t) if undefined else None
    tilt(work, weights[:, 1:2], missing, work.tilted[t])
    least = {1 << i: p[i] for i in range(n)}
    for members, out in zip(work.sets, scratch, strict=False):
        others = members & (members - 1)
        least[members] = np.minimum(least[members ^ others], least[others], out=out)
    np.matmul(scratch[: len(work.sets)], work.ones, out=work.shared[t])
    from_own, from_rest = work.mixtures[n + 2 : 2 * n + 2], work.mixtures[2 * n + 2 :]
    prefer(from_own, from_rest, scratch[:n], work.gains, work.loses)
    np.abs(from_own, out=scratch[:n])
    np.matmul(scratch[:n], work.ones, out=work.distance[t])


def draw(work: Workspace, q: Array, uniform: Array, out: Array) -> None:
    """Tokens by inverse CDF."""
    cdf = q.cumsum(1) if work.upper is None else q @ work.upper
    np.argmax(cdf > (uniform * cdf[:, -1])[:, None], axis=1, out=out)


def multiply_logs(work: Workspace, t: int) -> Array:
    """`sum_t p log p'` of the agents and `q`, and that of the optimum with itself."""
    n = len(work.logs) - 2
    np.vecdot(work.mixtures[n + 1], work.logs[n + 1], out=work.mixed[t])
    p, logs = work.mixtures[: n + 1], work.logs[: n + 1]
    return np.matmul(p.swapaxes(0, 1), logs.transpose(1, 2, 0), out=work.cross[t])


def exclude_missing(work: Workspace, t: int) -> Array:
    """Computes the sums again with 0 log 0 = 0; where `log p` is -inf, `(n, A, V)`."""
    missing = np.isneginf(work.logs)
    work.logs[missing] = 0
    cross = multiply_logs(work, t)
    present = work.mixtures[: len(missing) - 1].swapaxes(0, 1) > 0
    gone = missing[:-1].transpose(1, 2, 0).astype(cross.dtype)
    cross[present.astype(cross.dtype) @ gone > 0] = -np.inf
    return missing[:-2]


def tilt(work: Workspace, weights: Array, missing: Array | None, out: Array) -> None:
    """`log sum_t prod_i p_i^w_i` with weights `(A, 1, n)` that sum to one."""
    powers, exponential = work.scratch[:2]
    np.matmul(weights, work.logs[:-2].swapaxes(0, 1), out=powers[:, None])
    if missing is not None:
        powers[missing.any(0)] = -np.inf
    np.matmul(np.exp(powers, out=exponential), work.ones, out=out)
    top = np.zeros_like(out)
    if out.min() < np.finfo(out.dtype).eps ** 2:  # may underflow
        top = np.maximum(powers.max(1), np.finfo(out.dtype).min)
        np.exp(powers - top[:, None]).sum(1, out=out)
    with np.errstate(divide="ignore"):
        np.log(out, out=out)
    out += top


def prefer(
    from_own: Array, from_rest: Array, scratch: Array, gains: Array, loses: Array
) -> None:
    """Adds to the counts of robust preferences, given `q - p_i` and `q - r_i`.

    If `q` is past `p_i` or `r_i` by more than the tolerance, their product is more than
    its square: one maximum settles most tokens for all auctions.
    """
    if np.multiply(from_own, from_rest, out=scratch).max() <= TOLERANCE**2:
        gains += 1
        return
    other = from_own - from_rest  # r_i - p_i
    size, other_size = np.abs(from_own), np.abs(other)
    same = from_own * other >= 0
    better = (size <= other_size + TOLERANCE) & (same | (size <= TOLERANCE))
    worse = (other_size <= size + TOLERANCE) & (same | (other_size <= TOLERANCE))
    gains += better.all(-1)
    loses += worse.all(-1) & ~better.all(-1)


def payments(bids: Array, ratio: Array, rng: Rng) -> tuple[Array, Array]:
    """Realised and conditional payments `(T, n, A)`, given `p_i(y) / q(y)`.

    Agent i won its token with probability `lambda_i (p_i - r_i)+ / q`, which is
    `b_i / B_i (p_i / q - 1)+`, and then pays `B U / (1 - U)`, `U` uniform below
    `lambda_i`. One uniform decides both.
    """
    total = bids.sum(0)
    others, excess = total - bids, np.maximum(ratio - 1, 0)
    odds = bids / others
    price = (np.log1p(odds) - odds / (1 + odds)) * total
    # Won if v < odds excess; then U = lambda v / (odds excess): (1 - lambda) v / excess
    uniform = rng.random(ratio.shape, dtype=ratio.dtype)
    won = uniform < odds * excess
    uniform *= others / total
    paid = np.zeros_like(ratio)
    np.divide(uniform, excess - uniform, out=paid, where=won)
    paid *= others
    return paid, excess * price


def total_variation_optimum(least: Array, values: Array) -> Array:
    """The most welfare at any distribution, summed over the tokens; changes `least`.

    Raise `q` from 0 to a distribution. Its cost `sum_i w_i sum_t |q - p_i| / 2` changes
    at `q(t)` by the weight of the agents with `p_i(t) <= q(t)`, less a half of all. So
    the amounts of `q` above the set `S` of agents and below all others are used in the
    order of the weight of `S`. Inclusion and exclusion gives them from `least[s]`,
    `sum_t min p_i(t)` over the agents in the bits of `s`, `(2^n, T, A)`.
    """
    n, sets = len(values), len(least)
    for bit in 1 << np.arange(n):
        without = np.array([s for s in range(1, sets) if not s & bit])
        least[without] -= least[without | bit]
    outside = np.arange(sets)[:, None] >> np.arange(n) & 1 == 0
    weight = (outside.astype(values.dtype) @ values)[1:]
    order = weight.argsort(0)
    weight = np.take_along_axis(weight, order, 0)
    amounts = np.take_along_axis(least[1:], order[:, None], 0)
    for k in range(1, len(amounts)):
        amounts[k] += amounts[k - 1]
    used = np.minimum(amounts, 1, out=amounts)[:-1].sum(1)  # at last, all of it
    return ((weight[1:] - weight[:-1]) * used).sum(0) - len(least[0]) * weight[-1]


def measure_texts(
    agents: Agents, bids: Array, values: Array, rng: Rng, work: Workspace
) -> tuple[dict[Key, Array], Array, Array]:
    """Measures `(A,)` or `(n, A)` of a chunk of texts; tokens; realised payments.

    Bids and values are `(n, A)`, positive, n > 1. No token ends a text.
    """
    (n, auctions), num_tokens = bids.shape, len(work.drawn)
    weights = mixing_weights(bids, values)
    work.gains[:], work.loses[:] = 0, 0
    uniform = rng.random((num_tokens, auctions), dtype=bids.dtype)
    for t in range(num_tokens):
        measure_token(work, t, weights, uniform[t], agents)
    log_p, log_q = work.drawn[:, :n], work.drawn[:, n:]
    log_ratio = log_p - log_q
    ratio = np.exp(log_ratio)
    bounded = np.maximum(log_ratio, np.log(np.finfo(bids.dtype).tiny))  # 0 log 0 = 0
    paid, conditional = payments(bids, ratio, rng)
    spent, expected = paid.sum(0), conditional.sum(0)
    estimated = {  # (n, A)
        "total_variation": np.minimum(ratio - 1, 0).sum(0),
        "forward_kl": (ratio - 1 - bounded * ratio).sum(0),
        "reverse_kl": log_ratio.sum(0),
    }
    cross = work.cross.transpose(0, 2, 3, 1)
    own = np.einsum("tiia->tia", cross)
    valued = {  # (T, n, A)
        "total_variation": work.distance * -0.5,
        "forward_kl": np.subtract(cross[:, :n, n], own[:, :n], order="C"),
        "reverse_kl": np.subtract(cross[:, n, :n], own[:, n:], order="C"),
    }
    cross = cross.sum(0)[:n, :n]
    all_own, total = np.einsum("iia->ia", cross), values.sum(0)
    least = np.ones((1 << n, num_tokens, auctions), bids.dtype)
    least[work.sets] = work.shared.swapaxes(0, 1)
    pairs = 1 << np.arange(n)[:, None] | 1 << np.arange(n)
    alone = {  # v_i(p_k): (i, k, A)
        "total_variation": least[pairs].sum(2) - num_tokens,
        "forward_kl": cross - all_own[:, None],
        "reverse_kl": cross.swapaxes(0, 1) - all_own,
    }
    most = {
        "total_variation": total_variation_optimum(least, values),
        "forward_kl": total * work.mixed.sum(0) - (values * all_own).sum(0),
        "reverse_kl": total * work.tilted.sum(0),
    }
    found: dict[Key, Array] = {"length": np.full(auctions, float(num_tokens))}
    for name in VALUATIONS:
        worth = values * valued[name]
        text_worth, token_worth = worth.sum(0), worth.sum(1)
        infinite = np.isinf(token_worth)
        found["finite_welfare", name] = np.where(infinite, 0, token_worth).sum(0)
        found["infinite_tokens", name] = infinite.sum(0).astype(bids.dtype)
        welfare = found["welfare", name] = text_worth.sum(0)
        single = (values[:, None] * alone[name]).sum(0).max(0)
        found["realized_welfare", name] = (values * estimated[name]).sum(0)
        found["minimum_welfare", name] = worth.min(1).sum(0)
        found["utility", name] = text_worth - spent
        found["expected_utility", name] = text_worth - expected
        with np.errstate(invalid="ignore"):
            found["optimum_shortfall", name] = most[name] - welfare
            gap = single - welfare
        found["single_agent_shortfall", name] = np.where(np.isinf(single), single, gap)
    with np.errstate(divide="ignore"):
        found["nash_welfare"] = np.log1p(valued["total_variation"]).sum((0, 1))
    found["payment"], found["revenue"] = spent, spent.sum(0)
    found["expected_payment"], found["expected_revenue"] = expected, expected.sum(0)
    # The reference is the mean of the agents.
    likelihood = found["log_likelihood"] = np.log(np.exp(log_p).mean(1)).sum(0)
    found["log_ratio"] = log_p.sum(0) - likelihood
    found["entropy"] = -own[:, n].mean(0)
    found["log_prob"] = work.drawn[:, n].sum(0)
    found["weight"] = bids / bids.sum(0)
    found["robustly_gains"] = work.gains / num_tokens
    found["robustly_loses"] = work.loses / num_tokens
    gained = values * found["log_ratio"]
    found["log_ratio_welfare"] = gained.sum(0)
    found["minimum_log_ratio_welfare"] = gained.min(0)
    found["log_ratio_utility"] = gained - spent
    found["divergence"] = found["log_prob"] - likelihood
    # At a price of 1 for a nat.
    found["regularized_welfare"] = found["log_ratio_welfare"] - found["divergence"]
    drawn = found["drawn_tokens"] = np.full(auctions, num_tokens, bids.dtype)
    found["forward_passes"] = n * drawn
    return found, work.last[1:], paid


class Moments:
    """Counts, sums and sums of squares of the rows of all measures, and histograms."""

    def __init__(self):
        self.sizes: dict[Key, int] = {}
        self.count = self.infinite = self.total = self.squares = np.zeros(())
        self.bins = np.zeros(0, np.int64)

    def add(self, found: dict[Key, Array]) -> None:
        """Adds a chunk of texts; a bin is the upper half of a float32."""
        arrays = {key: np.atleast_2d(array) for key, array in found.items()}
        sample = np.concatenate(list(arrays.values()))
        if not self.sizes:
            self.sizes = {key: len(array) for key, array in arrays.items()}
            self.bins = np.zeros(len(sample) * BINS, np.int64)
        codes = sample.astype(np.float32, copy=False).view(np.uint32) >> 16
        first = np.arange(0, len(self.bins), BINS)[:, None]
        np.add.at(self.bins, (codes + first).ravel(), 1)
        finite = np.isfinite(sample)
        sample[~finite] = 0
        self.count = self.count + finite.sum(1)
        self.infinite = self.infinite + (~finite).sum(1)
        self.total = self.total + sample.sum(1, dtype=np.float64)
        self.squares = self.squares + np.square(sample).sum(1, dtype=np.float64)

    def summary(self) -> dict[Key, tuple[Array, Array]]:
        """Mean and variance of each measure, `(n,)` for one of the agents."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean**2) / np.maximum(self.count - 1, 1)
        ends = np.cumsum(list(self.sizes.values()))[:-1]
        pairs = zip(np.split(mean, ends), np.split(variance, ends), strict=True)
        return dict(zip(self.sizes, pairs, strict=True))

    def quantile(self, level: float) -> Array:
        """Quantiles of all rows, within 0.4 %: the middle of a bin."""
        middle = ((np.arange(BINS, dtype=np.uint32) << 16) + (1 << 15)).view(np.float32)
        order = np.argsort(middle)
        order = order[np.isfinite(middle[order])]
        below = self.bins.reshape(-1, BINS)[:, order].cumsum(1)
        reached = below >= np.maximum(level * below[:, -1:], 1)
        return middle[order][reached.argmax(1)]


def run(
    log_probs_table: Array,
    num_auctions: int,
    num_tokens: int,
    rng: np.random.Generator,
    dtype: Any = np.float64,
    chunk: int = 1019,
) -> Moments:
    """Moments of all measures over texts of one cell; values are log-normal(0, 0.5).

    The table is `(n, V, V)`, row = last token, texts start in row 0. Bids are truthful.
    """
    n, vocabulary = log_probs_table.shape[:2]
    totals = np.logaddexp.reduce(log_probs_table, axis=-1, keepdims=True)
    agents = table_agents((log_probs_table - totals).astype(dtype))
    moments = Moments()
    work = Workspace(n, vocabulary, min(chunk, num_auctions), num_tokens, dtype)
    for start in range(0, num_auctions, chunk):
        size = min(chunk, num_auctions - start)
        if size != len(work.rows):
            work = Workspace(n, vocabulary, size, num_tokens, dtype)
        values = np.exp(SPREAD * rng.standard_normal((n, size), dtype=dtype))
        moments.add(measure_texts(agents, values, values, rng, work)[0])
    return moments
