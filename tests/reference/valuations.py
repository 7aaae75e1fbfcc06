"""Valuations by definition: per token, at most zero."""

import numpy as np

from reference.aggregation import LD


def _relative_entropy(log_p, log_q):
    log_p, log_q = np.asarray(log_p, LD), np.asarray(log_q, LD)
    with np.errstate(invalid="ignore"):
        terms = np.exp(log_p) * (log_p - log_q)
    return np.where(log_p > -np.inf, terms, 0).sum(-1)


def total_variation(log_q, log_p):
    """`-TV(q, p)`, half the sum of absolute differences."""
    difference = np.exp(np.asarray(log_q, LD)) - np.exp(np.asarray(log_p, LD))
    return -np.abs(difference).sum(-1) / 2


def forward_kl(log_q, log_p):
    """`-KL(p || q)`."""
    return -_relative_entropy(log_p, log_q)


def reverse_kl(log_q, log_p):
    """`-KL(q || p)`."""
    return -_relative_entropy(log_q, log_p)


def entropy(log_q):
    """`-sum_t q log q`, in nats."""
    return -_relative_entropy(log_q, np.zeros_like(np.asarray(log_q, LD)))
