"""Aggregations against their definitions, in value and in derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, instances, valuations
from reference.compare import assert_within, smooth_auction

import tokenauction_jax as ta

INFLUENCES = (0.5, 1.0, 2.0, 3.7)
ORDERS = (-2.0, -1.0, -1e-6, 0.0, 1e-6, 1e-3, 0.5, 1.0, 2.0)
RULES = [
    *((order, 1.0) for order in ORDERS),
    *((order, a) for order in (-1.0, 0.0, 0.5) for a in INFLUENCES if a != 1),
]
DISJOINT = np.log(np.array([[0.5, 0.5, 1e-45], [1e-45, 1e-45, 1.0]], np.float32))
DISJOINT[DISJOINT < -50] = -np.inf


# The rule is an argument: one compilation per class and shape, whatever its numbers.
@jax.jit
def log_probs_of(rule, bids, log_probs):
    return jax.vmap(rule.log_prob)(bids, log_probs)


def check(rule, order, influence, batches):
    order, influence = np.float32(order), np.float32(influence)
    for batch in instances.within_reach(influence, batches):
        args = (batch.bids, batch.log_probs)
        found = log_probs_of(rule, *batch.padded())
        assert np.isneginf(found[:, args[1].shape[2] :]).all()
        found = found[:, : args[1].shape[2]]
        expected = aggregation.aggregate(*args, order, influence)
        tolerance = aggregation.log_tolerance(*args, expected, order, influence)
        assert_within(found, expected, tolerance)
        likely = expected > np.log(1e-30)
        total = np.where(likely, np.exp(np.asarray(found, float)), 0).sum(-1)
        undefined = np.isneginf(expected).all(-1)
        allowed = np.where(np.isfinite(expected), tolerance, 0).max(-1)
        assert (undefined | (np.abs(total - 1) <= allowed + 1e-5)).all()


@pytest.mark.parametrize("influence", INFLUENCES)
def test_linear(auctions, influence):
    check(ta.linear(influence), 1.0, influence, auctions)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_log_linear(auctions, influence):
    check(ta.log_linear(influence), 0.0, influence, auctions)


@pytest.mark.parametrize(("order", "influence"), RULES)
def test_power_mean(auctions, order, influence):
    check(ta.power_mean(order, influence), order, influence, auctions)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_weights(auctions, influence):
    rule = ta.power_mean(0.5, influence)
    for batch in auctions:
        bids, _ = batch.padded()
        found = jax.vmap(rule.weights)(bids)[:, : batch.bids.shape[1]]
        expected = aggregation.weights(batch.bids, np.float32(influence))
        assert_within(found, expected, 1e-5 * expected + 1e-37)
        assert (np.asarray(found)[batch.bids == 0] == 0).all()


def test_golden_example():
    log_probs = jnp.log(jnp.array([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]]))
    found = ta.linear().log_prob(jnp.array([1, 2, 2]), log_probs)
    np.testing.assert_allclose(jnp.exp(found), [0.56, 0.44], rtol=1e-6)


def test_members_of_the_family_coincide(auctions):
    for batch in auctions:
        args = batch.padded()
        for rule, order in ((ta.linear(2.0), 1.0), (ta.log_linear(0.5), 0.0)):
            found = log_probs_of(rule, *args)
            family = log_probs_of(ta.power_mean(order, rule.influence), *args)
            tolerance = aggregation.log_tolerance(
                *args, np.asarray(family), order, rule.influence
            )
            assert_within(found, family, tolerance)


@pytest.mark.parametrize(
    ("rule", "valuation"), [("linear", "forward_kl"), ("log_linear", "reverse_kl")]
)
def test_optimality(rule, valuation, x64):
    """No other distribution has a smaller bid-weighted sum of divergences."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        bids, log_probs = smooth_auction(seed)
        log_q = np.asarray(getattr(ta, rule)().log_prob(bids, log_probs))

        def welfare(log_q, bids=bids, log_probs=log_probs):
            value = getattr(valuations, valuation)
            return sum(
                b * value(log_q, row) for b, row in zip(bids, log_probs, strict=True)
            )

        best = welfare(log_q)
        for size in (1e-4, 1e-2, 1.0):
            for noise in rng.normal(size=(100, log_q.size)):
                other = aggregation.renormalize(log_q + size * noise)
                assert welfare(other) <= best + 1e-15


class TestEdgeCases:
    @pytest.mark.parametrize("order", ORDERS)
    def test_single_positive_bidder_gets_its_own_distribution(self, order):
        log_probs = jnp.log(jnp.array([[0.25, 0.75, 0], [0, 0, 1]]))
        found = ta.power_mean(order).log_prob(jnp.array([3.0, 0.0]), log_probs)
        np.testing.assert_allclose(np.exp(found), [0.25, 0.75, 0], rtol=1e-6)
        found = ta.power_mean(order).log_prob(jnp.array([3.0]), log_probs[:1])
        np.testing.assert_allclose(np.exp(found), [0.25, 0.75, 0], rtol=1e-6)

    @pytest.mark.parametrize("order", [-2.0, -1e-6, 0.0])
    def test_undefined_auctions(self, order):
        rule, bids = ta.power_mean(order), jnp.array([1.0, 2.0])
        with pytest.raises(ValueError, match=r"(?s)0.*1"):
            rule.log_prob(bids, DISJOINT)
        for method in (log_probs_of, lambda rule, *x: jax.vmap(rule.log_prob)(*x)):
            found = method(rule, bids[None], jnp.asarray(DISJOINT)[None])
            assert np.isneginf(found).all()

        @jax.jit
        @jax.grad
        def slopes(numbers):
            rule, *auction = numbers
            log_q = rule.log_prob(*auction)
            return jnp.where(jnp.isfinite(log_q), log_q, 0).sum()

        for leaf in jax.tree.leaves(slopes((rule, bids, DISJOINT))):
            assert np.isfinite(leaf).all()

    def test_the_agents_of_an_undefined_auction_are_named(self):
        log_probs = jnp.log(jnp.array([[1.0, 0], [0.5, 0.5], [0, 1.0], [0.5, 0.5]]))
        with pytest.raises(ValueError, match=r"0.*2"):
            ta.log_linear().log_prob(jnp.array([1.0, 0.0, 1.0, 0.0]), log_probs)

    @pytest.mark.parametrize(
        "bids",
        [[0.0, 0.0], [1.0, np.nan], [1.0, -0.5], [1.0, np.inf]],
        ids=["zero", "nan", "negative", "infinite"],
    )
    @pytest.mark.parametrize("name", ["linear", "log_linear"])
    def test_bad_bids(self, name, bids):
        log_probs = jnp.log(jnp.full((2, 3), 1 / 3))
        with pytest.raises(ValueError, match="bids"):
            getattr(ta, name)().log_prob(jnp.array(bids), log_probs)
        found = jax.jit(getattr(ta, name)().log_prob)(jnp.array(bids), log_probs)
        assert found.shape == (3,)

    @pytest.mark.parametrize(
        ("bids", "log_probs", "name"),
        [
            ((3,), (2, 4), "log_probs .*one row for each of 3 bids"),
            ((2, 1), (2, 4), "bids"),
            ((), (1, 4), "bids"),
            ((2,), (2,), "log_probs"),
            ((2,), (1, 2, 4), "log_probs"),
        ],
        ids=str,
    )
    def test_wrong_shapes(self, bids, log_probs, name):
        for rule in (ta.linear(), ta.log_linear(), ta.power_mean(0.5)):
            for call in (rule.log_prob, jax.jit(rule.log_prob)):
                with pytest.raises(ValueError, match=name):
                    call(jnp.ones(bids), jnp.full(log_probs, -1.0))

    def test_all_zero_bids_under_jit_are_undefined(self):
        log_probs = jnp.log(jnp.full((2, 3), 1 / 3))
        for rule in (ta.linear(), ta.log_linear(), ta.power_mean(0.5)):
            found = jax.jit(rule.log_prob)(jnp.zeros(2), log_probs)
            assert np.isneginf(found).all()

    def test_large_influence_approaches_winner_takes_all(self):
        log_probs = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
        found = ta.linear(50.0).log_prob(jnp.array([2.0, 1.0]), log_probs)
        np.testing.assert_allclose(np.exp(found), [0.9, 0.1], rtol=1e-5)


class TestRecords:
    def test_names_and_monotonicity(self):
        assert ta.linear().name == "linear"
        assert ta.log_linear().name == "log_linear"
        assert isinstance(ta.power_mean(0.5).name, str)
        assert ta.linear(2.0).monotone
        assert not ta.log_linear().monotone
        assert not ta.power_mean(1.0).monotone
        # Constants of the class, known without an object.
        assert type(ta.linear()).monotone is True
        assert type(ta.power_mean(0.5)).monotone is False

    def test_numbers_are_float_leaves(self):
        for rule in (ta.linear(1), ta.log_linear(2), ta.power_mean(-1, 3)):
            leaves = jax.tree.leaves(rule)
            assert leaves
            assert all(isinstance(leaf, float) for leaf in leaves)

    @pytest.mark.parametrize("influence", [0.0, -1.0, np.nan, np.inf])
    def test_bad_influence(self, influence):
        for factory in (ta.linear, ta.log_linear, lambda a: ta.power_mean(0.5, a)):
            with pytest.raises(ValueError, match="influence"):
                factory(influence)

    @pytest.mark.parametrize("order", [np.nan, np.inf])
    def test_bad_order(self, order):
        with pytest.raises(ValueError, match="order"):
            ta.power_mean(order)

    def test_rules_are_frozen(self):
        with pytest.raises(AttributeError):
            ta.linear().influence = 2.0
