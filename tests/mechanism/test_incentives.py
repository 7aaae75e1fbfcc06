import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

# design.md, section 1: the first token overshoots both agents under log-linear.
OVERSHOOT = np.array([[0.058137, 0.941852, 1.1e-5], [0.128133, 1.4e-5, 0.871853]])
OWN_BIDS = np.geomspace(0.01, 100, 50)


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(p))


@pytest.mark.parametrize(
    ("q", "other", "p", "preferred"),
    [
        ([0.5, 0.5], [0.3, 0.7], [0.8, 0.2], True),
        ([0.3, 0.7], [0.5, 0.5], [0.8, 0.2], False),
        ([0.9, 0.1], [0.3, 0.7], [0.8, 0.2], False),  # overshoots, though nearer
        ([0.8, 0.2], [0.3, 0.7], [0.8, 0.2], True),
        ([0.5, 0.5], [0.5, 0.5], [0.8, 0.2], True),
        ([0.5, 0.2, 0.3], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0], False),  # third token
        ([0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0], True),
    ],
)
def test_robust_preference(q, other, p, preferred):
    assert bool(ta.robustly_prefers(log(q), log(other), log(p))) is preferred


def test_tolerance_forgives_in_probability():
    q, other, p = log([0.5 - 1e-3, 0.5 + 1e-3]), log([0.5, 0.5]), log([1.0, 0.0])
    assert not ta.robustly_prefers(q, other, p)
    assert ta.robustly_prefers(q, other, p, tolerance=2e-3)


def definition(log_prob, own_bids, bids, log_probs, agent):
    """Design, section 2, in a loop over steps and tokens."""
    deviations = []
    for own_bid in sorted(own_bids):
        path = np.array(bids)
        path[agent] = own_bid
        q = np.exp(np.asarray(log_prob(path, log_probs), float))
        deviations.append(q - np.exp(log_probs[agent]))
    gap = 0.0
    for before, after in itertools.pairwise(deviations):
        for d, e in zip(before, after, strict=True):
            gap = max(gap, abs(e) if d * e < 0 else abs(e) - abs(d))
    return gap


def random_auction(seed):
    rng = np.random.default_rng(seed)
    log_probs = log(rng.dirichlet(np.full(6, 0.5), 3) + 1e-12).astype(np.float32)
    return rng.uniform(0.1, 2, 3), log_probs, rng.uniform(0.01, 5, 7)


@pytest.mark.parametrize("rule", [ta.log_linear(), ta.power_mean(0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_gap_follows_the_definition(rule, seed):
    bids, log_probs, own_bids = random_auction(seed)
    expected = definition(rule.log_prob, own_bids, bids, log_probs, 1)
    found = ta.monotonicity_gap(rule, 1, own_bids, bids, log_probs)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("influence", [0.5, 1.0, 3.0])
def test_linear_has_no_gap(influence):
    gap = jax.jit(ta.monotonicity_gap, static_argnums=1)
    for seed in range(20):
        bids, log_probs, own_bids = random_auction(seed)
        assert gap(ta.linear(influence), 0, own_bids, bids, log_probs) < 1e-6


def test_log_linear_overshoots():
    own_bids = np.geomspace(0.01, 100, 50)
    bids = np.ones(2)
    for agent in (0, 1):
        gap = ta.monotonicity_gap(
            ta.log_linear(), agent, own_bids, bids, log(OVERSHOOT)
        )
        assert gap > 1e-3


def test_gap_of_undefined_bids_does_not_count():
    disjoint = log([[1.0, 0.0], [0.0, 1.0]])
    gap = ta.monotonicity_gap(ta.log_linear(), 0, [0.0, 1.0, 2.0], [9.0, 1.0], disjoint)
    assert gap == 0


def test_gap_is_differentiable():
    def loss(bids, log_probs):
        return ta.monotonicity_gap(ta.log_linear(), 0, OWN_BIDS, bids, log_probs)

    slopes = jax.grad(loss, (0, 1))(jnp.ones(2), jnp.asarray(log(OVERSHOOT)))
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert any(np.abs(slope).max() > 0 for slope in slopes)


def test_errors_name_the_argument():
    log_probs = log(OVERSHOOT)
    with pytest.raises(ValueError, match="agent must be in"):
        ta.monotonicity_gap(ta.linear(), 2, [1.0], [1.0, 1.0], log_probs)
    with pytest.raises(ValueError, match="own_bids has shape"):
        ta.monotonicity_gap(ta.linear(), 0, 1.0, [1.0, 1.0], log_probs)
    with pytest.raises(ValueError, match="log_p has shape"):
        ta.robustly_prefers(log_probs[0], log_probs[0], log_probs)
