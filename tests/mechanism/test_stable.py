"""Stable sampling, for `linear` and for users' own monotone rules."""

from functools import partial
from typing import ClassVar

import faults
import impostors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from monotone_rules import (
    FALSE_ALARM,
    OWN_BIDS,
    RULES,
    K,
    Looked,
    N,
    V,
    assert_frequencies,
    assert_law,
    assert_stable,
    auction,
    draw,
    log,
    mixture,
    violations,
)
from scipy import special

import tokenauction_jax as ta


def assert_coupling(name, key, agent, bids, log_probs, own_bids=OWN_BIDS):
    """Right at every own bid, and stable."""
    tokens = np.asarray(draw(RULES[name][0], key, agent, own_bids, bids, log_probs))
    assert tokens.dtype == np.int32
    assert tokens.shape == (K, own_bids.size)
    for own_bid, column in zip(own_bids, tokens.T, strict=True):
        assert_frequencies(column, mixture(name, bids, log_probs, agent, own_bid))
    p, r = np.exp(log_probs[agent]), mixture(name, bids, log_probs, agent, 0)
    assert_stable(tokens, own_bids, p, r)
    return tokens


@pytest.mark.parametrize("name", RULES)
def test_law_and_stability(name):
    for agent in range(N):
        key = jax.random.key(agent)
        tokens = assert_coupling(name, key, agent, *auction(agent))
        assert (tokens != tokens[:, :1]).any(1).mean() > 0.1


@pytest.mark.parametrize("name", ["linear", "saturating"])
def test_own_bids_in_any_order(name):
    order = np.random.default_rng(0).permutation(OWN_BIDS.size)
    tokens, shuffled = (
        draw(RULES[name][0], jax.random.key(0), 1, own_bids, *auction(0))
        for own_bids in (OWN_BIDS, OWN_BIDS[order])
    )
    np.testing.assert_array_equal(shuffled, np.asarray(tokens)[:, order])


def test_one_key_at_a_time():
    sample = jax.jit(partial(ta.stable_sample, agent=0, own_bids=OWN_BIDS))
    bids, log_probs = auction(0)
    together = draw(ta.linear(), jax.random.key(3), 0, OWN_BIDS, bids, log_probs)
    keys = jax.random.split(jax.random.key(3), K)
    for number in range(20):
        tokens = sample(keys[number], ta.linear(), bids=bids, log_probs=log_probs)
        np.testing.assert_array_equal(tokens, together[number])


# Bids, and weights of N agents for the first tokens; the others have none.
CORNERS = {
    "zero probabilities": ([1.0, 2.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "disjoint supports": ([1.0, 2.0, 3.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "one other bid": ([1.0, 0.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "no other bid": ([1.0, 0.0, 0.0], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "agreement": ([1.0, 1.0, 1.0], [[1, 0, 3], [1, 0, 3], [1, 0, 3]]),
    "a tied token": ([1.0, 1.0, 1.0], [[1, 1, 2], [1, 2, 1], [1, 2, 1]]),
    "certainty": ([1.0, 2.0, 3.0], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]),
}


@pytest.mark.parametrize("name", ["linear", "linear(2)", "saturating"])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, name):
    bids, weights = CORNERS[corner]
    p = np.array(weights) / np.sum(weights, axis=-1, keepdims=True)
    p = np.pad(p, ((0, 0), (0, V - 3)))
    bids, log_probs = np.array(bids, np.float32), log(p)
    key = jax.random.key(0)
    if corner == "no other bid":
        # The rule is `p` at every own bid; so must be its limit at 0.
        tokens = draw(RULES[name][0], key, 0, OWN_BIDS, bids, log_probs)
        np.testing.assert_array_equal(tokens, np.tile(tokens[:, :1], OWN_BIDS.size))
        assert_frequencies(np.asarray(tokens[:, 0]), p[0])
        return
    tokens = assert_coupling(name, key, 0, bids, log_probs)
    if corner in ("agreement", "certainty"):
        np.testing.assert_array_equal(tokens, np.tile(tokens[:, :1], OWN_BIDS.size))


@pytest.mark.parametrize(
    ("name", "p"), [("linear", [[0.0, 1.0]]), ("contest", [[1.0], [1.0]])], ids=str
)
def test_one_agent_or_token(name, p):
    sample = jax.jit(partial(ta.stable_sample, agent=0, own_bids=OWN_BIDS))
    for seed in range(3):
        args = {"bids": np.ones(len(p)), "log_probs": log(p)}
        tokens = sample(jax.random.key(seed), RULES[name][0], **args)
        np.testing.assert_array_equal(tokens, np.full(OWN_BIDS.size, np.argmax(p[0])))


class TestTails:
    """`r = (1, 0)` and `p = (0, 1)`: the token switches where lambda is a uniform."""

    bids = np.ones(2, np.float32)
    log_probs = log([[0, 1], [1, 0]])

    def test_switches_have_no_grid(self):
        """One float32 uniform is a multiple of 2^-24, at one end or at both."""

        @jax.jit
        def switched(key, own_bids):
            def sample(key, own_bid):
                rule, own_bids = ta.linear(), own_bid[None]
                return ta.stable_sample(key, rule, 0, own_bids, *self.auction())[0]

            return jax.vmap(sample)(jax.random.split(key, 20_000), own_bids) == 1

        low, high = (np.full(20_000, x) for x in (-30.0, 30.0))
        for _ in range(40):
            middle = (low + high) / 2
            reached = switched(jax.random.key(0), np.exp(middle).astype(np.float32))
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        assert_law(special.expit(high), lambda s: s)
        # Neither lambda, 1 - lambda nor their ratio, one of which is what rounds.
        for measure in (special.expit, np.exp):
            for side in (measure(high), measure(-high)):
                small = side[side < 2.0**-6]
                assert small.size > 200
                for step in (2.0**-23, 2.0**-24):
                    assert_law(small / step % 1, lambda s: s)

    @pytest.mark.slow
    @pytest.mark.parametrize(("chance", "batches"), [(1e-8, 8192)])
    def test_rare_switches(self, chance, batches):
        @jax.jit
        def count(key):
            own_bids = jnp.full(1, chance / (1 - chance))

            def sample(key):
                return ta.stable_sample(key, ta.linear(), 0, own_bids, *self.auction())

            def batch(total, key):
                tokens = jax.vmap(sample)(jax.random.split(key, 2**14))
                return total + tokens.sum(), None

            return jax.lax.scan(batch, 0, jax.random.split(key, batches))[0]

        seen, due = int(count(jax.random.key(1))), chance * batches * 2**14
        assert special.gammainc(seen, due) > FALSE_ALARM if seen else True
        assert special.gammaincc(seen + 1, due) > FALSE_ALARM

    def auction(self):
        return self.bids, self.log_probs


@ta.record
class Own:
    """A rule that brings its own methods."""

    number: float
    name: ClassVar[str] = "own"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        raise NotImplementedError

    log_prob = weights

    def stable_sample(self, key, agent, own_bids, bids, log_probs):
        del key, bids, log_probs
        return (self.number + agent + 0 * own_bids).astype(jnp.int32)

    def critical_bid(self, key, agent, bids, log_probs, token):
        del key, log_probs
        return self.number * bids[agent] + token


def test_a_rules_own_methods_come_first():
    key, args = jax.random.key(0), auction(0)
    tokens = ta.stable_sample(key, Own(4.0), 2, OWN_BIDS, *args)
    np.testing.assert_array_equal(tokens, np.full(OWN_BIDS.size, 6))
    pays = ta.critical_bid(key, Own(0.5), 2, *args, 3)
    np.testing.assert_allclose(pays, 0.5 * args[0][2] + 3)


@pytest.mark.parametrize(
    "sampler", [impostors.shared_gumbel, impostors.shared_inverse_cdf]
)
@pytest.mark.parametrize("vocabulary", [2, V])
def test_sharing_random_numbers_is_not_stable(sampler, vocabulary):
    """At more than two tokens, although the law at every own bid is right."""
    bids, log_probs = auction(0, vocabulary)

    @jax.jit
    @jax.vmap
    def sample(key):
        return sampler(key, ta.linear(), 0, OWN_BIDS, bids, log_probs)

    tokens = np.asarray(sample(jax.random.split(jax.random.key(0), K)))
    for own_bid, column in zip(OWN_BIDS, tokens.T, strict=True):
        assert_frequencies(column, mixture("linear", bids, log_probs, 0, own_bid))
    r = mixture("linear", bids, log_probs, 0, 0)
    wrong = violations(tokens, OWN_BIDS, np.exp(log_probs[0]), r).mean()
    if vocabulary == 2:
        assert wrong == 0
    else:
        assert wrong > 0.01


class TestErrors:
    @pytest.mark.parametrize("rule", [ta.log_linear(), ta.power_mean(1.0)])
    def test_rules_that_are_not_monotone(self, rule):
        key, args = jax.random.key(0), auction(0)
        wrong = f"no stable sampler exists for '{rule.name}'"
        with pytest.raises(ValueError, match=wrong):
            ta.stable_sample(key, rule, 0, OWN_BIDS, *args)
        with pytest.raises(ValueError, match=wrong):
            ta.critical_bid(key, rule, 0, *args, 0)

    def test_wrong_arguments(self):
        key, (bids, log_probs) = jax.random.key(0), auction(0)
        for wrong, name in (
            ((N, OWN_BIDS, bids, log_probs), "agent"),
            ((0, 1.0, bids, log_probs), "own_bids"),
            ((0, -OWN_BIDS, bids, log_probs), "own_bids"),
            ((0, OWN_BIDS, bids[:2], log_probs), "log_probs"),
        ):
            with pytest.raises(ValueError, match=name):
                ta.stable_sample(key, ta.linear(), *wrong)
        for wrong, name in (
            ((N, bids, log_probs, 0), "agent"),
            ((0, bids[:2], log_probs, 0), "log_probs"),
            ((0, bids, log_probs, V), "token"),
            ((0, bids, log_probs, 0.0), "token"),
            ((0, 1.0, log_probs, 0), "^bids has shape"),
            ((0, bids[None], log_probs, 0), "^bids has shape"),
            ((0, -bids, log_probs, 0), "^bids must be finite"),
            ((0, bids * np.float32(1e-35), log_probs, 0), "^bids must be 0 or from"),
        ):
            with pytest.raises(ValueError, match=name):
                ta.critical_bid(key, ta.linear(), *wrong)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("rule", [faults.Power(0.7), Looked(1.0, 0.7)], ids=repr)
def test_rules_without_a_derivative_switch_beside_a_zero_bidder(rule):
    """The powers of a zero bid have an infinite one: the token never switched."""
    p = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25] * 4])
    own_bids, bids = jnp.array([0.1, 1.0, 10.0, 1e4]), jnp.array([1.0, 1.0, 0.0])
    path = ta.linear(0.7), 0, own_bids, bids, jnp.log(p)
    draws = jax.random.split(jax.random.key(0), 20_000)
    tokens = jax.vmap(lambda key: ta.stable_sample(key, rule, *path[1:]))(draws)
    q = np.exp(impostors.path(*path))
    found = (np.asarray(tokens)[..., None] == np.arange(4)).mean(axis=0)
    assert np.abs(found - q).max() < np.sqrt(np.log(2 * q.size / FALSE_ALARM) / 40_000)
    assert ((tokens[:, 1:] != tokens[:, :-1]).sum(axis=1) <= 1).all()
