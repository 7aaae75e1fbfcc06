"""Steps of proofs in docs/mathematics.md that no other test computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

ORDERS = (-1.5, -1.0, 0.0, 0.3, 1.0, 2.0, 5.0)


@jax.jit
def aggregate(rule, bids, log_probs):
    return jnp.exp(rule.log_prob(bids, log_probs))


slopes_in_bids = jax.jit(jax.jacfwd(aggregate, argnums=1))


def transformed(z, order):
    return np.log(z) if order == 0 else (z**order - 1) / order


@pytest.mark.parametrize("order", ORDERS)
def test_how_every_power_mean_moves(order, x64):
    """Equation (1): one factor c > 0 for all tokens."""
    rule = ta.power_mean(order)
    log_probs = jnp.log(np.random.default_rng(0).dirichlet(np.ones(3), 2))
    bids = jnp.array([1.0, 2.0])
    slopes = slopes_in_bids(rule, bids, log_probs)[:, 0]
    q = np.asarray(aggregate(rule, bids, log_probs))
    moved = transformed(np.exp(log_probs[0]) / q, order)
    factors = np.asarray(slopes) / (q * (moved - q @ moved))
    assert factors[0] > 0
    np.testing.assert_allclose(factors, factors[0], rtol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_a_token_that_is_right_is_moved_off(order, x64):
    """The construction by which no power mean but the linear one is monotone."""
    p, q, small = np.array([0.2, 0.5, 0.3]), np.array([0.2, 0.3, 0.5]), 1e-2
    if order == 0:
        rival, weight = q ** (1 + small) * p**-small, small / (1 + small)
        rival /= rival.sum()
    else:
        rival = (q**order - small * p**order) ** (1 / order)
        weight = small / (small + rival.sum() ** order)
        rival /= rival.sum()
    log_probs = jnp.log(np.stack([p, rival]))
    rule = ta.power_mean(order)
    bids = jnp.array([weight, 1 - weight])
    np.testing.assert_allclose(aggregate(rule, bids, log_probs), q, rtol=1e-9)
    slope = slopes_in_bids(rule, bids, log_probs)[0, 0]
    if order == 1:
        np.testing.assert_allclose(slope, 0, atol=1e-12)
    else:
        assert np.sign(slope) == np.sign(1 - order)
