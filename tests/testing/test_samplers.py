"""Samplers: the stable one passes, shared noise does not."""

import faults
import impostors
import jax
import jax.numpy as jnp
import pytest
from impostors import rejection

import tokenauction_jax as ta
from tokenauction_jax import testing

LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


def test_the_stable_sampler_passes():
    testing.check_stable_sampler(ta.stable_sample, LINEAR)


def unmoved(key, aggregation, agent, own_bids, bids, log_probs):
    """The law at one bid for all own bids."""
    token = jax.random.categorical(key, aggregation.log_prob(bids, log_probs))
    return jnp.full(own_bids.shape, token)


def first_listed(key, aggregation, agent, own_bids, bids, log_probs):
    """The law at the first own bid for all of them."""
    bids = bids.at[agent].set(own_bids[0])
    return unmoved(key, aggregation, agent, own_bids, bids, log_probs)


def one_number(key, aggregation, agent, own_bids, bids, log_probs):
    return jnp.zeros(())


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_sampler_at_other_bids_is_rejected(factor):
    sampler = faults.Sampler(factor)
    rejection("leans to what", testing.check_stable_sampler, sampler, LINEAR)


def test_probabilities_a_rounding_past_one_are_no_fault():
    """The allowance was NaN where q sums to 1 + 1.2e-7."""

    @ta.record
    class Heavy(impostors.Wrapped):
        def log_prob(self, bids, log_probs):
            q = ta.linear().log_prob(bids, log_probs) + 1.2e-7
            return jnp.where(q > -1e-7, 1.2e-7, q)

    def sampler(key, aggregation, *path):
        return ta.stable_sample(key, LINEAR, *path)

    testing.check_stable_sampler(sampler, Heavy(1.0))


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (impostors.shared_gumbel, "shared_gumbel is not stable: in [1-8]"),
        (impostors.shared_inverse_cdf, "shared_inverse_cdf is not stable: in [1-8]"),
        (unmoved, "the frequency of tokens by unmoved"),
        (first_listed, "first_listed depends on the order of own bids"),
        (one_number, r"returns float32\[8192\], not integer\[8192, 6\]"),
    ],
)
def test_poor_samplers_are_rejected(sampler, match):
    message = rejection(match, testing.check_stable_sampler, sampler, LINEAR)
    assert "\n  own_bids = [" in message


def test_log_linear_has_no_stable_sampler():
    call = testing.check_stable_sampler, ta.stable_sample, LOG_LINEAR
    rejection("no stable sampler exists", *call)
