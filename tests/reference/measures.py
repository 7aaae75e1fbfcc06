"""Measures of a study by definition: one token, and one text from its tokens.

A key is a name or, for a measure that depends on the valuation, `(name, valuation)`.
Measures of an agent are arrays `(n,)`. Values may be infinite or NaN; a study counts
such values and leaves them out of its averages.
"""

import numpy as np
from scipy import optimize, sparse

from reference import aggregation, valuations
from reference.aggregation import INF, LD, renormalize, without

VALUATIONS = {
    "total_variation": valuations.total_variation,
    "forward_kl": valuations.forward_kl,
    "reverse_kl": valuations.reverse_kl,
}
TOLERANCE = 1e-6
# Averaged over the tokens of a text; all others are summed.
MEANS = ("entropy", "weight", "robustly_gains", "robustly_loses")
# Of a token only: `W(p_k)` for each agent k. `single_agent_shortfall` of a text needs
# their sums over its tokens.
ALONE = "single_agent_welfare"


def aggregate(rule, bids, log_probs):
    """`log q` of "linear", "log_linear" or ("power_mean", order)."""
    if rule == "linear":
        return aggregation.linear(bids, log_probs)
    if rule == "log_linear":
        return aggregation.log_linear(bids, log_probs)
    name, order = rule
    if name != "power_mean":
        raise ValueError(f"unknown aggregation {rule!r}")
    return aggregation.aggregate(bids, log_probs, order)


def agents_welfare(valuation, values, log_q, log_probs):
    """`w_i v_i(q)` of each agent; 0 where the value is 0, even if `v_i` is -inf."""
    terms = np.zeros(len(values), LD)
    for i, value in enumerate(values):
        if value > 0:
            terms[i] = value * VALUATIONS[valuation](log_q, log_probs[i])
    return terms


def optimum(valuation, values, log_probs):
    """`log q'` of a distribution with the most welfare; None where all have -inf."""
    if np.sum(values) == 0:
        return np.full(log_probs.shape[1], -np.log(LD(log_probs.shape[1])))
    if valuation == "forward_kl":
        return aggregation.linear(values, log_probs)
    if valuation == "reverse_kl":
        log_q = aggregation.log_linear(values, log_probs)
        return log_q if np.isfinite(log_q).any() else None
    return _total_variation_optimum(values, log_probs)


def _total_variation_optimum(values, log_probs):
    """Minimises `sum_i w_i sum_t d_i(t) / 2` with `d_i >= |q - p_i|`, `sum q = 1`.

    The solver allows an absolute error of 1e-7: in units of 1e-6 that is 1e-13. What is
    left moves the point, not the value: `q` is made a distribution before its welfare
    is computed.
    """
    unit = 1e-6
    p = np.exp(log_probs).astype(float) / unit
    agents, vocabulary = p.shape
    one = sparse.eye(vocabulary)
    cost = [np.zeros(vocabulary)]
    rows, bounds = [], []
    for i in range(agents):
        cost.append(np.full(vocabulary, float(values[i]) / 2))
        distance = [None] * agents
        distance[i] = -one
        rows.append([one, *distance])  # q - p_i <= d_i
        bounds.append(p[i])
        rows.append([-one, *distance])  # p_i - q <= d_i
        bounds.append(-p[i])
    total = np.zeros((1, vocabulary * (agents + 1)))
    total[0, :vocabulary] = 1
    solution = optimize.linprog(
        np.concatenate(cost),
        A_ub=sparse.bmat(rows, format="csr"),
        b_ub=np.concatenate(bounds),
        A_eq=total,
        b_eq=[1 / unit],
        bounds=(0, None),
        method="highs",
    )
    if not solution.success:
        raise RuntimeError(solution.message)
    q = np.maximum(solution.x[:vocabulary], 0)
    with np.errstate(divide="ignore"):
        return np.log(LD(1) * q / q.sum())


def one_token_estimate(valuation, ratio):
    """`f(p_i(y) / q(y))`, whose mean under `q` is `v_i(q)` if the supports agree."""
    if valuation == "total_variation":
        return -max(LD(0), 1 - ratio)
    if valuation == "reverse_kl":
        return np.log(ratio) if ratio > 0 else -INF
    return -(ratio * np.log(ratio) - ratio + 1) if ratio > 0 else LD(-1)


def robustly_prefers(log_q, log_other, log_p, tolerance=TOLERANCE):
    """Whether `q` is at every token on the way from the other to `p`, or at either."""
    q, other, p = np.exp(log_q), np.exp(log_other), np.exp(log_p)
    for t in range(len(q)):
        deviation, other_deviation = q[t] - p[t], other[t] - p[t]
        closer = abs(deviation) <= abs(other_deviation) + tolerance
        same_side = deviation * other_deviation >= 0 or abs(deviation) <= tolerance
        if not (closer and same_side):
            return False
    return True


def log_reference(reference, log_probs, token):
    """`log p_ref(y)` of the reference model."""
    if reference == "uniform":
        return -np.log(LD(log_probs.shape[1]))
    if reference == "mean":
        return np.log(np.exp(log_probs[:, token]).mean())
    raise ValueError(f"unknown reference {reference!r}")


def token_measures(
    bids,
    values,
    log_probs,
    aggregation,
    token,
    realized,
    conditional,
    reference="uniform",
):
    """Every measure of one token, but `length`; `ALONE` for the single agents."""
    bids, values = np.asarray(bids, LD), np.asarray(values, LD)
    realized, conditional = np.asarray(realized, LD), np.asarray(conditional, LD)
    log_probs = renormalize(log_probs)
    n = len(bids)
    log_q = aggregate(aggregation, bids, log_probs)
    if not np.isfinite(log_q[token]):
        raise ValueError(f"the auction is undefined or cannot draw token {token}")
    found = {}
    for name in VALUATIONS:
        welfare = agents_welfare(name, values, log_q, log_probs)
        found["welfare", name] = welfare.sum()
        found["minimum_welfare", name] = welfare.min()
        finite = np.isfinite(welfare.sum())
        found["finite_welfare", name] = welfare.sum() if finite else LD(0)
        found["infinite_tokens", name] = LD(not finite)
        found["utility", name] = welfare - realized
        found["expected_utility", name] = welfare - conditional
        estimate = LD(0)
        for i in range(n):
            if values[i] > 0:
                ratio = np.exp(log_probs[i, token] - log_q[token])
                estimate += values[i] * one_token_estimate(name, ratio)
        found["realized_welfare", name] = estimate
        best = optimum(name, values, log_probs)
        most = -INF
        if best is not None:
            most = agents_welfare(name, values, best, log_probs).sum()
        with np.errstate(invalid="ignore"):
            found["optimum_shortfall", name] = most - welfare.sum()
        found[ALONE, name] = np.array(
            [
                agents_welfare(name, values, log_probs[k], log_probs).sum()
                for k in range(n)
            ]
        )
    nash = LD(0)
    gains, loses = np.zeros(n), np.zeros(n)
    for i in range(n):
        with np.errstate(divide="ignore"):
            nash += np.log1p(valuations.total_variation(log_q, log_probs[i]))
        rest = without(bids, i)
        if rest.sum() > 0:
            log_r = aggregate(aggregation, rest, log_probs)
            gains[i] = robustly_prefers(log_q, log_r, log_probs[i])
            if not gains[i]:
                loses[i] = robustly_prefers(log_r, log_q, log_probs[i])
    found["nash_welfare"] = nash
    found["payment"], found["revenue"] = realized, realized.sum()
    found["expected_payment"] = conditional
    found["expected_revenue"] = conditional.sum()
    found["log_likelihood"] = log_reference(reference, log_probs, token)
    found["log_ratio"] = log_probs[:, token] - found["log_likelihood"]
    found["log_prob"] = log_q[token]
    found["entropy"] = valuations.entropy(log_q)
    found["weight"] = bids / bids.sum()
    found["robustly_gains"], found["robustly_loses"] = gains, loses
    return {key: np.asarray(value, float)[()] for key, value in found.items()}


def text_measures(tokens, tau=1.0):
    """Every measure of one text; `tokens` lists the arguments of `token_measures`.

    Each is a dictionary of keyword arguments. The values must be the same throughout.
    """
    each = [token_measures(**arguments) for arguments in tokens]
    found = {"length": float(len(each))}
    for key in each[0]:
        total = sum(measures[key] for measures in each)
        if key in MEANS:
            found[key] = total / len(each)
        elif key[0] != ALONE:
            found[key] = total
    for name in VALUATIONS:
        alone = sum(measures[ALONE, name] for measures in each)
        found["single_agent_shortfall", name] = -np.inf
        if (alone > -np.inf).any():
            found["single_agent_shortfall", name] = alone.max() - found["welfare", name]
    values = np.asarray(tokens[0]["values"], float)
    gained = np.array(
        [w * x if w > 0 else 0 for w, x in zip(values, found["log_ratio"], strict=True)]
    )
    divergence = found["log_prob"] - found["log_likelihood"]
    return found | {
        "log_ratio_welfare": gained.sum(),
        "minimum_log_ratio_welfare": gained.min(),
        "log_ratio_utility": gained - found["payment"],
        "divergence": divergence,
        "regularized_welfare": gained.sum() - tau * divergence,
        "forward_passes": float(len(each) * len(values)),
        "drawn_tokens": float(len(each)),
    }
