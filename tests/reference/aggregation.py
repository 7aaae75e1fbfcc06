"""Aggregations by definition; leading batch axes are allowed everywhere."""

import numpy as np

LD = np.longdouble
INF = LD(np.inf)


def renormalize(log_weights):
    """Log-probabilities with `logsumexp == 0` along the last axis; all -inf stays."""
    log_weights = np.asarray(log_weights, LD)
    top = log_weights.max(-1, keepdims=True)
    shifted = log_weights - np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted - np.where(np.isfinite(total), total, 0)


def weights(bids, influence=1.0):
    """`lambda_i = b_i^a / sum_j b_j^a`; all zero when nobody bids."""
    powers = np.asarray(bids, LD) ** LD(influence)
    powers = np.where(np.asarray(bids) > 0, powers, 0)
    total = powers.sum(-1, keepdims=True)
    return powers / np.where(total > 0, total, 1)


def log_mean(shares, log_probs, order):
    """Log of the power mean over agents, before normalisation: (..., V)."""
    shares, order = np.asarray(shares, LD)[..., None], LD(order)
    active = shares > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if order == 0:
            return np.where(active, shares * log_probs, 0).sum(-2)
        powers = np.where(active, shares * np.exp(order * log_probs), 0).sum(-2)
        return np.log(powers) / order


def aggregate(bids, log_probs, order, influence=1.0):
    """`log q` of `power_mean(order, influence)`; all -inf where undefined."""
    shares = weights(bids, influence)
    return renormalize(log_mean(shares, renormalize(log_probs), order))


def linear(bids, log_probs, influence=1.0):
    """`q = sum_i lambda_i p_i`."""
    shares = weights(bids, influence)[..., None]
    with np.errstate(divide="ignore"):
        return np.log((shares * np.exp(renormalize(log_probs))).sum(-2))


def log_linear(bids, log_probs, influence=1.0):
    """`q ~ prod_i p_i^lambda_i` over the agents that bid."""
    return aggregate(bids, log_probs, 0.0, influence)


def without(bids, agent):
    """The same bids with this agent's set to zero."""
    bids = np.array(bids, LD)
    bids[..., agent] = 0
    return bids


def log_tolerance(bids, log_probs, log_q, order, influence=1.0):
    """Allowed error of a float32 `log q`: `1e-6 max(10, sum_i lambda_i |log p_i|)`.

    Below a probability of 1e-30 also 1e-6 of `log q`. At a positive order a token that
    one bidder excludes has a mean of size `lambda^(1/order)`, so float32 rounding of
    lambda is magnified by `1/order` there.
    """
    shares = weights(bids, influence)[..., None]
    log_p = renormalize(log_probs)
    with np.errstate(invalid="ignore"):
        scale = np.where(shares > 0, shares * np.abs(log_p), 0).sum(-2)
    excluded = ~np.isfinite(scale)
    size = np.abs(np.where(np.isfinite(log_q), log_q, 0))
    magnified = size + 1 / LD(order) if order > 0 else size
    scale = np.maximum(scale, np.where(log_q < np.log(1e-30), size, 0))
    # Normalising adds the error of the heaviest tokens to all the others.
    scale = np.where(excluded, magnified, scale)
    heaviest = log_q > log_q.max(-1, keepdims=True) - 5
    heavy = np.where(heaviest, scale, 0).max(-1, keepdims=True)
    return 1e-6 * np.maximum(10, np.maximum(scale, heavy))
