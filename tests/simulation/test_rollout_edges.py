"""Undefined auctions and bad input."""

import impostors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import payments
from reference.compare import assert_payments

import tokenauction_jax as ta

LINEAR = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
LOG_LINEAR = ta.Mechanism(ta.log_linear(), ta.clarke(ta.log_linear()))
ARRAYS = ("tokens", "log_prob", "payments", "expected_payments")


def run(mechanism, log_probs, bids, num_tokens=4, num_auctions=200, **kwargs):
    pool = ta.agents.tabular(log_probs, **kwargs)
    rollout = ta.simulate(
        jax.random.key(0),
        mechanism,
        pool,
        bids,
        num_tokens=num_tokens,
        num_auctions=num_auctions,
    )
    return jax.tree.map(np.asarray, rollout)


@ta.record
class NaNAtLast:
    """A pool that answers NaN for one token of one agent."""

    num_agents = 2
    vocab_size = 40
    end_token = None

    def init(self, num_auctions, **rest):
        return jnp.zeros(num_auctions)

    def step(self, state, tokens):
        even = jnp.full((*tokens.shape, 2, 40), -np.log(40.0))
        return state, even.at[..., 1, -1].set(jnp.nan)


@pytest.mark.parametrize(
    "rule",
    [
        ta.linear(),
        ta.log_linear(),
        ta.power_mean(0.5),
        impostors.Wrapped(1.0),
        impostors.Changed(lambda q, bids, log_probs: log_probs.mean(0)),
    ],
    ids=lambda rule: rule.name,
)
def test_a_pool_that_answers_nan(rule):
    """Whichever token is drawn, and whatever draws it."""
    mechanism = ta.Mechanism(rule, ta.pay_your_bid())
    size = {"num_tokens": 2, "num_auctions": 50}
    found = ta.simulate(jax.random.key(0), mechanism, NaNAtLast(), np.ones(2), **size)
    assert not found.valid.any()
    assert not found.mask.any()


class TestUndefinedAuctions:
    """After token 1 the two agents have no token in common."""

    log_probs = np.log(
        np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]], np.float32),
        where=np.array([[[1, 1], [1, 0]], [[1, 1], [0, 1]]], bool),
        out=np.full((2, 2, 2), -np.inf, np.float32),
    )

    def test_they_are_reported_and_masked(self):
        rollout = run(LOG_LINEAR, self.log_probs, np.ones(2))
        after_one = np.cumsum(rollout.tokens == 1, axis=1) > 0
        broken = np.concatenate([np.zeros((200, 1), bool), after_one[:, :-1]], axis=1)
        np.testing.assert_array_equal(rollout.mask, ~broken)
        np.testing.assert_array_equal(rollout.valid, ~broken.any(1))
        assert 0 < rollout.valid.sum() < 200
        for name in ARRAYS:
            array = getattr(rollout, name)
            assert np.isfinite(array).all()
            np.testing.assert_array_equal(array[~rollout.mask], 0)

    def test_from_the_first_token(self):
        rollout = run(LOG_LINEAR, self.log_probs, np.ones(2), start=1)
        assert not rollout.valid.any()
        assert not rollout.mask.any()
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(rollout, name), 0)

    def test_linear_has_none(self):
        rollout = run(LINEAR, self.log_probs, np.ones(2))
        assert rollout.valid.all()
        assert rollout.mask.all()

    def test_a_zero_bidder_has_no_veto(self):
        rollout = run(LOG_LINEAR, self.log_probs, np.array([1.0, 0.0]))
        assert rollout.valid.all()

    def test_texts_that_end_before_are_valid(self):
        rollout = run(LOG_LINEAR, self.log_probs, np.ones(2), end_token=1)
        assert rollout.valid.all()
        assert not rollout.mask.all()

    def test_gradients_are_finite(self):
        def revenue(bids, log_probs):
            pool = ta.agents.tabular(log_probs)
            rollout = ta.simulate(
                jax.random.key(0), LOG_LINEAR, pool, bids, num_tokens=4, num_auctions=8
            )
            return rollout.expected_payments.sum() + rollout.log_prob.sum()

        for slope in jax.grad(revenue, (0, 1))(
            jnp.ones(2), jnp.asarray(self.log_probs)
        ):
            assert np.isfinite(slope).all()


LOG_PROBS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32))


class TestBids:
    def test_one_row_for_each_auction(self):
        bids = np.random.default_rng(0).uniform(0.1, 3, (50, 2)).astype(np.float32)
        pool = ta.agents.tabular(LOG_PROBS)
        rollout = ta.simulate(jax.random.key(0), LINEAR, pool, bids, num_tokens=3)
        assert rollout.tokens.shape == (50, 3)
        for row in (0, 17, 49):
            given, terms = payments.second_price_table(bids[row], LOG_PROBS)
            tokens = np.asarray(rollout.tokens[row])
            reference = given[tokens], terms[tokens]
            assert_payments(rollout.expected_payments[row], reference)
        agreeing = ta.simulate(
            jax.random.key(0), LINEAR, pool, bids, num_tokens=3, num_auctions=50
        )
        np.testing.assert_array_equal(agreeing.tokens, rollout.tokens)

    def test_a_zero_bid_and_a_single_agent(self):
        for bids, rows in (([1.0, 0.0], LOG_PROBS), ([1.0], LOG_PROBS[:1])):
            rollout = run(LINEAR, rows, np.array(bids))
            np.testing.assert_array_equal(rollout.payments, 0)
            log_prob = LOG_PROBS[0][rollout.tokens]
            np.testing.assert_allclose(rollout.log_prob, log_prob, atol=1e-5)

    @pytest.mark.parametrize(
        ("bids", "num_auctions"),
        [
            (np.ones(3), 4),
            (np.ones((4, 3)), None),
            (np.ones((4, 2)), 5),
            (np.ones((2, 2, 2)), None),
            (np.float32(1.0), 4),
            (np.array([1.0, -1.0]), 4),
            (np.array([1.0, np.nan]), 4),
            (np.array([1.0, np.inf]), 4),
            (np.zeros(2), 4),
            (np.array([[1.0, 1.0], [0.0, 0.0]]), None),
        ],
        ids=str,
    )
    def test_bad_bids(self, bids, num_auctions):
        pool = ta.agents.tabular(LOG_PROBS)
        with pytest.raises(ValueError, match="bids"):
            ta.simulate(
                jax.random.key(0),
                LINEAR,
                pool,
                bids,
                num_tokens=2,
                num_auctions=num_auctions,
            )

    def test_the_number_of_auctions_is_needed(self):
        with pytest.raises(ValueError, match="num_auctions"):
            ta.simulate(
                jax.random.key(0),
                LINEAR,
                ta.agents.tabular(LOG_PROBS),
                np.ones(2),
                num_tokens=2,
            )

    @pytest.mark.parametrize("name", ["num_tokens", "num_auctions"])
    @pytest.mark.parametrize("size", [0, -1])
    def test_bad_sizes(self, name, size):
        sizes = {"num_tokens": 2, "num_auctions": 2, name: size}
        with pytest.raises(ValueError, match=name):
            ta.simulate(
                jax.random.key(0),
                LINEAR,
                ta.agents.tabular(LOG_PROBS),
                np.ones(2),
                **sizes,
            )
