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

    slopes = jax.jit(jax.grad(loss, (0, 1)))(jnp.ones(2), log(OVERSHOOT))
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert any(np.abs(slope).max() > 0 for slope in slopes)


def preferred(q, other, p, tolerance=1e-6):
    """Design, section 1, in a loop over tokens."""
    for x, y, wanted in zip(q, other, p, strict=True):
        d, e = float(x) - float(wanted), float(y) - float(wanted)
        miss = abs(d) if d * e < 0 else abs(d) - abs(e)
        if miss > tolerance:
            return False
    return True


def outcomes(seed, size=6, vocabulary=3):
    """Rows at random, of which some are mixtures, exact copies and near ones."""
    rng = np.random.default_rng(seed)
    p, *rows = rng.dirichlet(np.ones(vocabulary), size)
    rows += [(rows[0] + p) / 2, (rows[1] + 3 * p) / 4, rows[0], p]
    rows.append(rows[1] + 1e-4 * (rows[0] - rows[1]))
    return np.array(rows, np.float32), p.astype(np.float32)


class TestPreferenceOrder:
    @pytest.mark.parametrize("tolerance", [1e-6, 0.05])
    @pytest.mark.parametrize("vocabulary", [2, 3, 8])
    def test_it_follows_the_definition(self, vocabulary, tolerance):
        both = 0
        for seed in range(5):
            rows, p = outcomes(seed, vocabulary=vocabulary)
            found = np.asarray(ta.preference_order(log(rows), log(p), tolerance))
            assert found.dtype == bool
            due = [[preferred(a, b, p, tolerance) for b in rows] for a in rows]
            np.testing.assert_array_equal(found, due)
            pair = ta.robustly_prefers(log(rows[1]), log(rows[0]), log(p), tolerance)
            assert found[1, 0] == pair
            both += found.sum() - np.trace(found)
        assert both > 0

    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_a_partial_order(self, seed):
        """Reflexive, antisymmetric and, at no tolerance, transitive."""
        rows, p = outcomes(seed)
        order = np.asarray(ta.preference_order(log(rows), log(p), 0.0))
        assert order.diagonal().all()
        through = (order[:, :, None] & order[None]).any(1)
        assert (order | ~through).all()
        same = np.exp(log(rows))[:, None] == np.exp(log(rows))[None]
        np.testing.assert_array_equal(order & order.T, same.all(-1))
        assert (order & order.T).sum() > len(rows)
        # Steps of t and t add up to at most 2 t.
        near = np.asarray(ta.preference_order(log(rows), log(p), 0.01))
        twice = np.asarray(ta.preference_order(log(rows), log(p), 0.02 + 1e-6))
        assert (twice | ~(near[:, :, None] & near[None]).any(1)).all()

    def test_the_wish_itself_comes_first(self):
        rows, p = outcomes(0)
        order = np.asarray(ta.preference_order(log(rows), log(p)))
        assert order[np.flatnonzero((rows == p).all(1))].all()

    def test_the_path_of_own_bids_is_a_chain(self):
        """Under linear the higher bid is preferred, strictly."""
        bids, log_probs, _ = random_auction(0)
        moved = np.tile(bids, (OWN_BIDS.size, 1))
        moved[:, 1] = OWN_BIDS
        path = jax.vmap(ta.linear().log_prob, (0, None))(moved, log_probs)
        order = np.asarray(ta.preference_order(path, log_probs[1]))
        np.testing.assert_array_equal(order, np.tri(OWN_BIDS.size, dtype=bool))
        assert ta.comparable_fraction(path, log_probs[1]) == 1

    def test_zero_probabilities(self):
        rows = log([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.1, 0.9]])
        order = ta.preference_order(rows, rows[0])
        np.testing.assert_array_equal(order, [[1, 1, 1], [0, 1, 0], [0, 0, 1]])

    def test_transformations(self):
        batch = [outcomes(seed) for seed in range(3)]
        rows, p = (log(np.stack(x)) for x in zip(*batch, strict=True))
        together = jax.jit(jax.vmap(ta.preference_order))(rows, p)
        for order, *args in zip(together, rows, p, strict=True):
            np.testing.assert_array_equal(order, ta.preference_order(*args))


class TestComparableFraction:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_counts_pairs(self, seed):
        rows, p = outcomes(seed)
        pairs = list(itertools.combinations(rows, 2))
        due = sum(preferred(a, b, p) or preferred(b, a, p) for a, b in pairs)
        found = ta.comparable_fraction(log(rows), log(p))
        np.testing.assert_allclose(found, due / len(pairs), rtol=1e-6)
        assert 0 < due < len(pairs)

    def test_most_outcomes_cannot_be_compared(self):
        """Two random ones can be in any one token with a chance of at most a half."""
        rng = np.random.default_rng(0)
        p, *rows = rng.dirichlet(np.ones(8), 101)
        assert ta.comparable_fraction(log(rows), log(p)) < 0.01
        p, *rows = rng.dirichlet(np.ones(2), 101)
        assert ta.comparable_fraction(log(rows), log(p)) > 0.4

    def test_two_outcomes(self):
        p, near, far = log([0.8, 0.2]), log([0.5, 0.5]), log([0.3, 0.7])
        beyond = log([0.9, 0.1])
        assert ta.comparable_fraction(np.stack([near, far]), p) == 1
        assert ta.comparable_fraction(np.stack([far, near]), p) == 1
        assert ta.comparable_fraction(np.stack([beyond, near]), p) == 0
        assert ta.comparable_fraction(np.stack([beyond, near]), p, 0.1 + 1e-6) == 1


def test_errors_name_the_argument():
    log_probs = log(OVERSHOOT)
    with pytest.raises(ValueError, match="agent must be in"):
        ta.monotonicity_gap(ta.linear(), 2, [1.0], [1.0, 1.0], log_probs)
    with pytest.raises(ValueError, match="own_bids has shape"):
        ta.monotonicity_gap(ta.linear(), 0, 1.0, [1.0, 1.0], log_probs)
    with pytest.raises(ValueError, match="log_p has shape"):
        ta.robustly_prefers(log_probs[0], log_probs[0], log_probs)
    for call in (ta.preference_order, ta.comparable_fraction):
        with pytest.raises(ValueError, match="log_qs has shape"):
            call(log_probs[0], log_probs[0])
        with pytest.raises(ValueError, match="log_p has shape"):
            call(log_probs, log_probs)
        with pytest.raises(ValueError, match="log_p has shape"):
            call(log_probs, log_probs[0, :2])
    with pytest.raises(ValueError, match="log_qs needs at least 2"):
        ta.comparable_fraction(log_probs[:1], log_probs[0])
