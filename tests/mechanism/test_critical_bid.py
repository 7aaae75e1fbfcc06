"""Critical bids, and second prices of users' own monotone rules."""

import jax
import numpy as np
import pytest
from monotone_rules import (
    FALSE_ALARM,
    OWN_BIDS,
    RULES,
    Contest,
    K,
    N,
    V,
    WinnerTakesAll,
    assert_frequencies,
    assert_law,
    auction,
    critical,
    draw,
    mixture,
)
from reference import payments
from reference.compare import assert_payments
from scipy import integrate, special

import tokenauction_jax as ta


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
