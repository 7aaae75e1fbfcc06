"""What pacing policies bid, token by token, from their definitions."""

import numpy as np


def adaptive(value, rate, start, most, per_token, paid):
    """``w / (1 + mu)`` and ``mu <- clip(mu - rate (rho - z), 0, most)``."""
    mu, bids = start, []
    for charge in paid:
        bids.append(value / (1 + mu))
        mu = min(max(mu - rate * (per_token - charge), 0), most)
    return np.array(bids)


def multiplicative(value, rate, start, least, per_token, paid):
    """``m w`` and ``m <- clip(m exp(rate (1 - z / rho)), least, 1)``."""
    multiplier, bids = start, []
    for charge in paid:
        bids.append(value * multiplier)
        multiplier *= np.exp(rate * (1 - charge / per_token))
        multiplier = min(max(multiplier, least), 1)
    return np.array(bids)


def pid(value, gains, start, least, most, per_token, paid):
    """``w exp(phi)`` with ``phi = P e + I + D (e - e')``, within bounds."""
    proportional, integral, derivative = gains
    low, high = np.log(least), np.log(most)
    total, error, bids = np.log(start), 0.0, [value * start]
    for charge in paid[:-1]:
        last, error = error, 1 - charge / per_token
        total = np.clip(total + integral * error, low, high)
        signal = proportional * error + total + derivative * (error - last)
        bids.append(value * np.exp(np.clip(signal, low, high)))
    return np.array(bids)


def value_maximiser(value, target, rates, most, per_token, paid, ratio):
    """``w (1 + l) / (target l + mu)``; `ratio` is ``p_i(x) / q(x)`` of each token."""
    roi, budget, bids = 1.0, 0.0, []
    for charge, granted in zip(paid, ratio, strict=True):
        bids.append(value * min((1 + roi) / (target * roi + budget), most))
        worth = value * min(granted, 1)
        roi *= np.exp(-rates[0] * (worth - target * charge))
        budget = max(budget - rates[1] * (per_token - charge), 0)
    return np.array(bids)
