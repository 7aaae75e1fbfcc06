"""Policies: what is right passes, what is wrong is named."""

import impostors
import jax
import jax.numpy as jnp
import pytest
from impostors import rejection

import tokenauction_jax as ta
from tokenauction_jax import bidding, testing

POLICIES = [
    bidding.constant(2.0),
    bidding.constant(0.0),
    bidding.schedule([1.0, 0.0, 3.0]),
    bidding.platform(1.0),
    bidding.adaptive_pacing(2.0, 0.1),
    bidding.multiplicative_pacing(2.0, 0.1),
    bidding.pid(2.0, proportional=0.3, integral=0.1, derivative=0.1, most=3.0),
    bidding.value_maximiser(2.0, 1.5, 0.1, budget_rate=0.1),
]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_built_in_policies_pass(policy):
    testing.check_policy(policy)


def test_networks_pass():
    testing.check_policy(bidding.network(2.0, key=jax.random.key(0), hidden=4))


@pytest.mark.parametrize(
    ("bid", "match"),
    [
        (lambda state, info: (jnp.ones(2), state), r"returns float32\[4, 2\]"),
        (lambda state, info: (jnp.int32(1), state), r"returns int32\[4\], not float32"),
        (lambda state, info: (info.last_payment - 1, state), "bids are negative in"),
        (lambda state, info: (info.spent / info.budget, state), "bid is NaN in"),
        (lambda state, info: (info.budget, state), "bids are above 1e30 in"),
        (lambda state, info: (1.0, state > 0), "changes its state from float32"),
        (lambda state, info: (1.0, (state, state)), "changes its state from float32"),
        (lambda state, info: state, "raises TypeError"),
        (
            lambda state, info: (1.0 * isinstance(state, jax.core.Tracer), state),
            "bid compiled under vmap, not as it is, is 1",
        ),
    ],
)
def test_poor_policies_are_rejected(bid, match):
    message = rejection(match, testing.check_policy, impostors.Bidder(0.0, bid))
    assert "'Bidder'" in message


def test_a_policy_may_say_only_whether_it_pays():
    bidder = type("Bidder", (impostors.Bidder,), {"pays": 0.5})
    policy = ta.record(bidder)(0.0, lambda state, info: (1.0, state))
    rejection("pays is 0.5, neither True nor False", testing.check_policy, policy)


def test_numbers_must_be_leaves():
    baked = impostors.BakedBidder(2.0)
    rejection("'amount' is not a leaf", testing.check_policy, baked)


def test_a_rule_is_not_a_policy():
    match = "'linear' does not implement Policy: it has no"
    rejection(match, testing.check_policy, ta.linear())
