"""One cell of a tabular study in NumPy, as fast as we can write it: the peer.

Linear aggregation, truthful bids and the second price; the agents' distributions are
rows of a Markov table. Every measure of a study is computed for every text. A table has
few rows, which decides how:

- The tokens of a chunk of texts are drawn first; then all (text, token) pairs that
  stand at one row are measured together. Their aggregates are one small matrix
  product, and arrays `(V, pairs)` reduce over the vocabulary along the first axis.
- What depends on the row alone (entropies, distances between agents,
  total-variation optima) is a table, see `numpy_study_tables`.
- Bids are the values, so `q` itself is the optimum for forward KL.

`run` gives the moments and a histogram of each measure. Keys are a name or
`(name, valuation)`; measures of an agent have `n` rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy_study_moments import Key, Moments
from numpy_study_tables import HALFWAY, VALUATIONS, Tables, classes

Array = np.ndarray[Any, np.dtype[Any]]
TOLERANCE = 1e-6
# Columns of an array (V, pairs): two of them stay in the second-level cache (256 and
# 384 are 10 and 5 % slower, 768 the same).
BLOCK = 512
SPREAD = 0.5  # of the logarithm of a value


def draw_texts(tables: Tables, shares: Array, num_tokens: int, rng) -> tuple:
    """Rows and tokens `(T, A)` of texts, by inverse CDF.

    `q` is a mixture of the agents' distributions: one uniform chooses the agent, a
    second one the token by bisection of that agent's cumulative probabilities.
    """
    agents, auctions = shares.shape
    dtype, vocabulary = shares.dtype, tables.vocabulary
    edges = shares.cumsum(0)
    rows = np.empty((num_tokens, auctions), np.intp)
    tokens = np.empty_like(rows)
    uniform = np.empty((2, auctions), dtype)
    row: Array = np.zeros(auctions, np.intp)
    steps = [1 << k for k in reversed(range((tables.width - 1).bit_length()))]
    for t in range(num_tokens):
        rng.random(dtype=dtype, out=uniform)
        agent = np.greater_equal(uniform[0], edges[0]).astype(np.intp)
        for i in range(1, agents - 1):
            agent += uniform[0] >= edges[i]
        start = agent * vocabulary
        start += row
        start *= tables.width
        place = start - 1
        for step in steps:
            reached = tables.cumulative.take(place + step)
            place += step * (reached <= uniform[1])
        rows[t] = row
        place -= start
        row = np.add(place, 1, out=tokens[t])
    return rows, tokens


@dataclass
class Dense:
    """What needs a pass over the vocabulary, per pair; pairs sorted by their row."""

    distance: Array  # (n, P): TV(q, p_i)
    cross: Array  # (n, P): sum_t p_i log q
    reverse: Array  # (n, P): sum_t q log p_i
    partition: Array  # (P,): sum_t prod_i p_i^lambda_i
    gains: Array  # (n, P)
    loses: Array  # (n, P)
    unanimous: bool = True  # all prefer q everywhere

    @classmethod
    def empty(cls, agents: int, pairs: int, dtype) -> "Dense":
        """Uninitialised, except for the preferences: all prefer `q`."""
        size = (agents, pairs)
        distance, cross, reverse = np.empty((3, *size), dtype)
        partition = np.empty(pairs, dtype)
        gains, loses = np.ones(size, bool), np.zeros(size, bool)
        return cls(distance, cross, reverse, partition, gains, loses)


class Workspace:
    """Two arrays over the vocabulary for one block, allocated once."""

    def __init__(self, vocabulary: int, dtype):
        self.size = vocabulary
        self.arrays = np.empty((2, vocabulary * BLOCK), dtype)
        self.ones = np.ones((1, vocabulary), dtype)

    def views(self, pairs: int) -> tuple[Array, Array]:
        """Both as contiguous `(V, m)`."""
        one, other = self.arrays[:, : self.size * pairs].reshape(2, self.size, pairs)
        return one, other


def measure_block(
    tables: Tables, row: int, shares: Array, space: Workspace, out: Dense, where: slice
) -> None:
    """Fills `out[where]` for pairs at one row; `shares` is `(n, m)`."""
    p = tables.columns[row]
    one, other = space.views(shares.shape[1])
    np.log(np.matmul(p, shares, out=one), out=one)
    np.matmul(p.T, one, out=out.cross[:, where])
    np.matmul(tables.cross[row], shares, out=out.reverse[:, where])
    np.exp(np.matmul(tables.log_columns[row], shares, out=one), out=one)
    np.matmul(space.ones, one, out=out.partition[None, where])
    others = 1 - 1 / (1 - shares)
    agreed = True
    for i, share in enumerate(shares):
        # q - p_i and q - r_i, as combinations of the agents' distributions.
        coefficients = shares.copy()
        coefficients[i] -= 1
        np.matmul(p, coefficients, out=one)
        np.multiply(shares, others[i], out=coefficients)
        coefficients[i] = share
        np.matmul(p, coefficients, out=other)
        # Where q lies outside p_i..r_i by e, the product is at least e^2.
        np.multiply(one, other, out=other)
        agreed = agreed and other.max() <= TOLERANCE**2
        np.matmul(space.ones, np.abs(one, out=one), out=out.distance[i : i + 1, where])
    if not agreed:
        _prefer(p, shares, out, where)


def _prefer(p: Array, shares: Array, out: Dense, where: slice) -> None:
    """Robust preferences exactly, for a block where the quick test fails."""
    out.unanimous = False
    q = p @ shares
    for i in range(len(shares)):
        others = shares.copy()
        others[i] = 0
        own, r = p[:, i : i + 1], p @ (others / others.sum(0))
        low, high = np.minimum(own, r) - TOLERANCE, np.maximum(own, r) + TOLERANCE
        gains = ((q >= low) & (q <= high)).all(0)
        low, high = np.minimum(own, q) - TOLERANCE, np.maximum(own, q) + TOLERANCE
        loses = ((r >= low) & (r <= high)).all(0)
        out.gains[i, where] = gains
        out.loses[i, where] = loses & ~gains


def measure_dense(
    tables: Tables, shares: Array, rows: Array, space: Workspace
) -> dict[Key, Array]:
    """Sums over the tokens of each text, of all that depends on `q` and no payment."""
    flat = rows.astype(tables.row_type).ravel()
    order = np.argsort(flat, kind="stable")  # a radix sort for small integers
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    places = places.reshape(rows.shape)
    shares = shares.take(np.remainder(order, rows.shape[1], out=order), axis=1)
    out = Dense.empty(len(shares), len(order), shares.dtype)
    counts = np.bincount(flat, minlength=tables.vocabulary)
    start = 0
    for row, count in enumerate(counts):
        blocks = -(-count // BLOCK)
        for block in range(blocks):
            low, high = count * block // blocks, count * (block + 1) // blocks
            where = slice(start + low, start + high)
            measure_block(tables, row, shares[:, where], space, out, where)
        start += count

    def per_text(array: Array) -> Array:
        if array.ndim == 1:
            return array.take(places).sum(0)
        return np.stack([row.take(places).sum(0) for row in array])

    found: dict[Key, Array] = {}
    entropy = -np.einsum("np,np->p", shares, out.cross)
    found["entropy"] = per_text(entropy)
    forward = np.subtract(out.cross, np.repeat(tables.own, counts, 1), out=out.cross)
    reverse = np.add(out.reverse, entropy, out=out.reverse)
    if not tables.bounded:
        reverse[reverse < HALFWAY] = -np.inf
    out.distance *= 0.5
    nash = np.subtract(1, out.distance).prod(0)
    distance = np.negative(out.distance, out=out.distance)
    with np.errstate(divide="ignore"):
        found["nash_welfare"] = per_text(np.log(nash, out=nash))
        found["partition"] = per_text(np.log(out.partition, out=out.partition))
    for name, value in zip(VALUATIONS, (distance, forward, reverse), strict=True):
        found["value", name] = per_text(value)
        value *= shares
        found["minimum", name] = per_text(value.min(0))
    sums = out.gains, out.loses
    for name, preferences in zip(("gains", "loses"), sums, strict=True):
        if out.unanimous:
            size = len(shares), rows.shape[1]
            number = len(rows) if name == "gains" else 0
            found[name] = np.full(size, number, shares.dtype)
        else:
            found[name] = per_text(preferences).astype(shares.dtype)
    return found


def payments(
    values: Array, shares: Array, ratio: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Realised payments `(n, T, A)` and conditional ones, given `p_i(y) / q(y)`.

    Agent i won its token with probability `lambda_i (p_i - r_i)+ / q`, which is
    `b_i / B_i (p_i / q - 1)+`, and then pays `B U / (1 - U)`, `U` uniform below
    `lambda_i`. One uniform decides both.
    """
    others = values.sum(0) - values
    excess = np.subtract(ratio, 1)
    np.maximum(excess, 0, out=excess)
    odds = values / others
    price = others * (np.log1p(odds) - odds / (1 + odds)) / (1 - shares)
    conditional = excess * price[:, None]
    # Won if v < odds excess; then U = lambda v / (odds excess), which is
    # (1 - lambda) v / excess.
    uniform = np.empty_like(ratio)
    rng.random(dtype=ratio.dtype, out=uniform)
    won = uniform < odds[:, None] * excess
    uniform *= (1 - shares)[:, None]
    excess -= uniform
    np.divide(uniform, excess, out=uniform, where=won)
    uniform *= others[:, None]
    uniform *= won
    return uniform, conditional


def measure_tokens(
    tables: Tables, values: Array, shares: Array, rows: Array, tokens: Array, rng
) -> dict[Key, Array]:
    """Sums over the tokens of each text, of all that depends on the token drawn."""
    at = rows * tables.vocabulary
    at += tokens
    ratio = tables.token_p.take(at, axis=1)
    q = np.einsum("nta,na->ta", ratio, shares)
    ratio /= q
    log_q = np.log(q, out=q)
    found: dict[Key, Array] = {}
    paid, conditional = payments(values, shares, ratio, rng)
    found["payment"], found["expected_payment"] = paid.sum(1), conditional.sum(1)
    found["log_mean"] = tables.token_log_mean.take(at).sum(0)
    log_p = tables.token_log_p.take(at, axis=1)
    found["log_p"] = log_p.sum(1)
    excess = ratio - 1
    linear = excess.sum(1)
    found["realized", "total_variation"] = np.minimum(excess, 0, out=excess).sum(1)
    found["realized", "reverse_kl"] = found["log_p"] - log_q.sum(0)
    log_p -= log_q
    np.maximum(log_p, np.log(tables.tiny), out=log_p)  # 0 log 0 = 0
    log_p *= ratio
    found["realized", "forward_kl"] = linear - log_p.sum(1)
    return found


def measure_rows(
    tables: Tables, values: Array, rows: Array
) -> tuple[dict[str, Array], Array]:
    """`W(p_k)` `(n, A)` of each valuation, and the total-variation optimum."""
    agents, auctions = values.shape
    distances, which = classes(tables, values)
    at = rows + which * tables.vocabulary
    best = np.stack([row.take(at).sum(0) for row in distances])
    at = rows + np.arange(auctions) * tables.vocabulary
    visits = np.bincount(at.ravel(), minlength=auctions * tables.vocabulary)
    visits = visits.reshape(auctions, -1).astype(values.dtype)
    size = (auctions, agents, agents)
    apart = (visits @ tables.apart).reshape(size)
    infinite = np.isinf(tables.divergence)
    divergence = visits @ np.where(infinite, 0, tables.divergence)
    if infinite.any():
        divergence[visits @ infinite.astype(values.dtype) > 0] = np.inf
    divergence = divergence.reshape(size)
    tilted = divergence.transpose(0, 2, 1)
    alone = {
        name: -np.einsum("aki,ia->ka", array, values)
        for name, array in zip(VALUATIONS, (apart, tilted, divergence), strict=True)
    }
    return alone, -np.einsum("na,na->a", values, best)


def measure_texts(
    tables: Tables,
    values: Array,
    rows: Array,
    tokens: Array,
    rng,
    space: Workspace,
    reference: str = "mean",
) -> dict[Key, Array]:
    """Every measure of every text, `(A,)` or `(n, A)`; the bids are the values."""
    total = values.sum(0)
    shares = values / total
    length = len(rows)
    dense = measure_dense(tables, shares, rows, space)
    drawn = measure_tokens(tables, values, shares, rows, tokens, rng)
    alone, best = measure_rows(tables, values, rows)
    found: dict[Key, Array] = {"length": np.full(len(total), float(length))}
    paid, expected = drawn["payment"], drawn["expected_payment"]
    for name in VALUATIONS:
        worth = values * dense["value", name]
        welfare = worth.sum(0)
        found["welfare", name] = welfare
        found["realized_welfare", name] = (values * drawn["realized", name]).sum(0)
        found["minimum_welfare", name] = total * dense["minimum", name]
        found["utility", name] = worth - paid
        found["expected_utility", name] = worth - expected
        most = alone[name].max(0)
        with np.errstate(invalid="ignore"):
            gap = most - welfare
            found["single_agent_shortfall", name] = np.where(most > -np.inf, gap, most)
            if name == "total_variation":
                shortfall = best - welfare
            elif name == "reverse_kl":
                shortfall = total * dense["partition"] - welfare
            else:
                shortfall = np.zeros_like(welfare)
        found["optimum_shortfall", name] = shortfall
    found["nash_welfare"] = dense["nash_welfare"]
    found["payment"], found["revenue"] = paid, paid.sum(0)
    found["expected_payment"], found["expected_revenue"] = expected, expected.sum(0)
    likelihood = drawn["log_mean"]
    if reference == "uniform":
        likelihood = np.full_like(likelihood, -length * np.log(tables.vocabulary))
    found["log_likelihood"] = likelihood
    found["log_ratio"] = drawn["log_p"] - likelihood
    found["entropy"] = dense["entropy"] / length
    found["influence"] = shares
    found["robustly_gains"] = dense["gains"] / length
    found["robustly_loses"] = dense["loses"] / length
    return found


def run(
    log_probs_table: Array,
    num_auctions: int,
    num_tokens: int,
    rng: np.random.Generator,
    dtype: Any = np.float64,
    chunk: int = 4096,
) -> Moments:
    """Moments of all measures over texts of one cell; values are log-normal(0, 0.5).

    The table is `(n, V, V)`, row = last token, texts start in row 0. No token ends a
    text. Two to four agents.
    """
    tables = Tables(log_probs_table, dtype)
    space = Workspace(tables.vocabulary, dtype)
    moments = Moments()
    for start in range(0, num_auctions, chunk):
        size = min(chunk, num_auctions - start)
        normal = rng.standard_normal((tables.agents, size), dtype=dtype)
        values = np.exp(SPREAD * normal)
        shares = values / values.sum(0)
        rows, tokens = draw_texts(tables, shares, num_tokens, rng)
        moments.add(measure_texts(tables, values, rows, tokens, rng, space))
    return moments
