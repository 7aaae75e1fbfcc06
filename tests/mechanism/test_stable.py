"""Stable sampling and critical bids, for `linear` and for users' own monotone rules.

Keys are fixed; every bound is crossed by a right sampler with a probability of at most
`FALSE_ALARM`.
"""

from functools import partial
from typing import ClassVar

import faults
import impostors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, payments
from reference.compare import assert_payments, smooth_auction
from scipy import integrate, special

import tokenauction_jax as ta

FALSE_ALARM = 1e-7
# One shape and number of keys: compiling takes seconds.
K, N, V = 4096, 3, 8
OWN_BIDS = np.array([1.0, 0.0, 30.0, 0.01, 3.0, 1000.0, 0.3, 10.0], np.float32)


@ta.record
class Contest:
    """A user's rule, `q = sum_i f(b_i) p_i / sum_j f(b_j)` for an increasing `f`.

    Monotone for every agent, as only its own weight changes. `f` is between `b^power`,
    which makes it `linear` under another name, and `log1p(2 b)`.
    """

    share: float
    power: float
    name: ClassVar[str] = "contest"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return ta.linear().weights(self.scores(jnp.asarray(bids)))

    def log_prob(self, bids, log_probs):
        return ta.linear().log_prob(self.scores(jnp.asarray(bids)), log_probs)

    def scores(self, bids):
        return self.share * bids**self.power + (1 - self.share) * jnp.log1p(2 * bids)


@ta.record
class Looked(Contest):
    """The same without any derivative, as of what is looked up in a table."""

    def scores(self, bids):
        return jax.lax.stop_gradient(bids**self.power)


@ta.record
class WinnerTakesAll:
    """The highest bidder's distribution, the first one's of several."""

    name: ClassVar[str] = "winner_takes_all"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        bids = jnp.asarray(bids)
        return jax.nn.one_hot(jnp.argmax(bids), bids.size, dtype=bids.dtype)

    def log_prob(self, bids, log_probs):
        return jnp.asarray(log_probs)[jnp.argmax(jnp.asarray(bids))]


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(p, np.float32))


def highest(bids):
    return np.eye(len(bids))[np.argmax(bids)]


# Each rule, and the bids at which `linear` would do the same.
RULES = {
    "linear": (ta.linear(), lambda bids: bids),
    "linear(0.5)": (ta.linear(0.5), np.sqrt),
    "linear(2)": (ta.linear(2), np.square),
    "contest": (Contest(1.0, 1.0), lambda bids: bids),
    "contest(2)": (Contest(1.0, 2.0), np.square),
    "saturating": (Contest(0.0, 1.0), lambda bids: np.log1p(2 * bids)),
    "winner_takes_all": (WinnerTakesAll(), highest),
}


def mixture(name, bids, log_probs, agent, own_bid):
    """The aggregate at an own bid, `(V,)`."""
    moved = np.array(bids, float)
    moved[agent] = own_bid
    return np.exp(aggregation.linear(RULES[name][1](moved), log_probs)).astype(float)


@jax.jit
def draw(rule, key, agent, own_bids, bids, log_probs):
    """Tokens `(K, k)` of `K` keys."""

    def sample(key):
        return ta.stable_sample(key, rule, agent, own_bids, bids, log_probs)

    return jax.vmap(sample)(jax.random.split(key, K))


@jax.jit
def critical(rule, key, agent, bids, log_probs, tokens):
    """Critical bids `(K,)` of `K` keys and tokens."""

    def pays(key, token):
        return ta.critical_bid(key, rule, agent, bids, log_probs, token)

    return jax.vmap(pays)(jax.random.split(key, K), tokens)


def assert_frequencies(tokens, q):
    """Each token's count, exactly binomial."""
    draws = len(tokens)
    counts = np.bincount(tokens, minlength=q.size)
    assert counts.size == q.size
    assert (counts[q == 0] == 0).all()
    q = np.clip(q, 0, 1)
    assert (special.bdtr(counts, draws, q) > FALSE_ALARM).all()
    assert (special.bdtrc(counts - 1, draws, q) > FALSE_ALARM)[counts > 0].all()


def assert_law(sample, cdf):
    """Dvoretzky-Kiefer-Wolfowitz; `cdf` may have an atom at zero."""
    sample = np.sort(np.asarray(sample, float))
    above = np.searchsorted(sample, sample, side="right") / sample.size
    gap = np.abs(above - np.asarray(cdf(sample), float)).max()
    positive = sample[sample > 0]
    below = np.searchsorted(sample, positive, side="left") / sample.size
    gap = max(gap, np.abs(below - np.asarray(cdf(positive), float)).max(initial=0))
    assert gap < np.sqrt(np.log(2 / FALSE_ALARM) / (2 * sample.size))


def violations(tokens, own_bids, p, r):
    """Draws `(K,)` that change twice, or not from outside T+ into T+, as bids rise."""
    tokens = np.asarray(tokens)[:, np.argsort(own_bids)]
    changes = tokens[:, 1:] != tokens[:, :-1]
    gains = p > r
    lost = (changes & gains[tokens[:, :-1]]).any(1)
    missed = (changes & ~gains[tokens[:, 1:]]).any(1)
    return (changes.sum(1) > 1) | lost | missed


def assert_stable(tokens, own_bids, p, r):
    assert not violations(tokens, own_bids, p, r).any()


def auction(seed, vocabulary=V):
    """Without ties: `T+` is the same in float32."""
    bids, log_probs = smooth_auction(seed, N, vocabulary)
    return bids.astype(np.float32), log_probs.astype(np.float32)


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


def gaining(name, bids, log_probs, agent):
    """Tokens of T+ and the others, the likeliest first."""
    p, r = np.exp(log_probs[agent]), mixture(name, bids, log_probs, agent, 0)
    order = np.argsort(-p)
    return order[(p > r)[order]], order[(p <= r)[order]]


class TestCriticalBid:
    @pytest.mark.parametrize("name", ["linear", "linear(2)", "contest", "saturating"])
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_law_given_the_token(self, name, scale):
        """At most `s` with probability `q_s(y) / q(y)`; 0 outside T+."""
        (rule, equivalent), agent = RULES[name], 1
        bids, log_probs = auction(1)
        bids[agent] *= scale
        gains, others = gaining(name, bids, log_probs, agent)
        for token in (gains[0], others[0]):
            args = (jax.random.key(token), agent, bids, log_probs, np.full(K, token))
            pays = np.asarray(critical(rule, *args), float)
            assert (pays >= 0).all()
            assert (pays <= bids[agent] * (1 + 1e-6)).all()
            if token in others:
                np.testing.assert_array_equal(pays, 0)

            def cdf(s, token=token):
                # Float32 rounds, at the own bid above all.
                spent = equivalent(np.asarray(s) * (1 + 1e-6))
                auction = (equivalent(bids.astype(float)), log_probs)
                return payments.payment_cdf(spent, *auction, agent, token)

            assert_law(pays, cdf)

    @pytest.mark.parametrize("name", ["linear", "linear(2)", "saturating"])
    def test_mean_over_sampled_tokens(self, name):
        """`integral of s dq_s(T+)`, the expected second price."""
        rule, agent = RULES[name][0], 0
        bids, log_probs = auction(2)
        log_probs = np.array(jax.nn.log_softmax(4 * log_probs))
        bids[agent] = 2 * bids[1:].sum()
        gains, _ = gaining(name, bids, log_probs, agent)

        def reached(own_bid):
            return mixture(name, bids, log_probs, agent, own_bid)[gains].sum()

        own_bid = float(bids[agent])
        due = own_bid * reached(own_bid) - integrate.quad(reached, 0, own_bid)[0]
        own_bids = np.full(OWN_BIDS.size, bids[agent])
        tokens = draw(rule, jax.random.key(0), agent, own_bids, bids, log_probs)[:, 0]
        pays = critical(rule, jax.random.key(1), agent, bids, log_probs, tokens)
        # Hoeffding.
        bound = own_bid * np.sqrt(np.log(2 / FALSE_ALARM) / (2 * K))
        assert due > 2 * bound
        assert abs(np.asarray(pays, float).mean() - due) < bound

    @pytest.mark.parametrize("name", ["linear", "saturating"])
    def test_independent_of_the_token_under_the_same_key(self, name):
        """The price of a win tells nothing of the token sampled with its key."""
        rule, agent = RULES[name][0], 0
        bids, log_probs = auction(2)
        gains, _ = gaining(name, bids, log_probs, agent)
        tokens = draw(rule, jax.random.key(5), agent, OWN_BIDS, bids, log_probs)
        args = (agent, bids, log_probs, np.full(K, gains[0]))
        pays = np.asarray(critical(rule, jax.random.key(5), *args), float)
        tokens = np.asarray(tokens)
        at_zero = tokens[:, OWN_BIDS == 0]
        drawn = np.concatenate([at_zero == np.arange(V), tokens != at_zero], axis=1)
        won = pays > 0
        for told in drawn.T.astype(float):
            for x, y in ((told, won), (told[won], pays[won])):
                if x.std() > 0:
                    correlation = np.corrcoef(x, y)[0, 1] * np.sqrt(x.size)
                    assert abs(correlation) < special.ndtri(1 - FALSE_ALARM / 2)

    @pytest.mark.parametrize("name", ["linear", "contest", "saturating"])
    @pytest.mark.parametrize("bids", [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]], ids=str)
    def test_nothing_to_pay_for(self, name, bids):
        """Without a bid, or without another one."""
        _, log_probs = auction(1)
        for token in range(V):
            args = (np.array(bids, np.float32), log_probs, np.full(K, token))
            pays = critical(RULES[name][0], jax.random.key(token), 0, *args)
            np.testing.assert_array_equal(pays, 0)

    def test_winner_takes_all_pays_the_highest_other_bid(self):
        _, log_probs = auction(1)
        bids = np.array([1.0, 5.0, 3.0], np.float32)
        p, r = np.exp(log_probs[1]), np.exp(log_probs[2])
        token = np.argmax(p / r)
        args = (jax.random.key(0), 1, bids, log_probs, np.full(K, token))
        pays = np.asarray(critical(WinnerTakesAll(), *args))
        won = pays > 0
        np.testing.assert_allclose(pays[won], 3.0, rtol=1e-5)
        chance = r[token] / p[token]
        assert_frequencies(won.astype(int), np.array([chance, 1 - chance]))


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


class TestNumericalSecondPrice:
    """Second prices of a rule that is `linear` without saying so."""

    expected = staticmethod(jax.jit(lambda payment, *args: payment.expected(*args)))
    conditional = staticmethod(
        jax.jit(lambda payment, *args: payment.conditional(*args))
    )

    @pytest.mark.parametrize("influence", [1.0, 2.0])
    def test_means(self, influence):
        payment = ta.second_price(Contest(1.0, influence))
        assert not isinstance(payment, type(ta.second_price(ta.linear())))
        for ratio in (1e-2, 1.0, 1e2):
            bids, log_probs = auction(4)
            bids[1] *= ratio
            due = payments.second_price(bids, log_probs, influence)
            assert_payments(self.expected(payment, bids, log_probs), due)
            for token in range(V):
                args = (bids, log_probs, token)
                due = payments.second_price_given(*args, influence)
                assert_payments(self.conditional(payment, *args), due)

    def test_draws(self):
        """Each agent's have the law given the token, independently."""
        bids, log_probs = auction(4)
        log_probs[1], bids[1] = log_probs[0], bids[0]
        token = int(np.argmax(log_probs[0] - log_probs[2]))
        payment = ta.second_price(Contest(1.0, 1.0))

        @jax.jit
        def realized(key):
            call = jax.vmap(payment.realized, (0, None, None, None))
            return call(jax.random.split(key, K), bids, log_probs, token)

        pays = np.asarray(realized(jax.random.key(2)), float)
        for agent in range(N):

            def cdf(s, agent=agent):
                s = s * (1 + 1e-6)
                return payments.payment_cdf(s, bids, log_probs, agent, token)

            assert_law(pays[:, agent], cdf)
        wins = (pays[:, :2] > 0).astype(float)
        assert wins.mean() > 0.1
        bound = special.ndtri(1 - FALSE_ALARM / 2) / np.sqrt(K)
        assert abs(np.corrcoef(wins.T)[0, 1]) < bound

    def test_it_belongs_to_its_rule(self):
        rule = Contest(1.0, 1.0)
        assert ta.Mechanism(rule, ta.second_price(rule)).payment.name == "second_price"
        with pytest.raises(ValueError, match="built for"):
            ta.Mechanism(ta.linear(), ta.second_price(rule))


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
