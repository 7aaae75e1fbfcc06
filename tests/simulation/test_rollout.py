"""What the texts of many auctions look like, against enumeration and the reference.

Keys are fixed; statistical bounds are crossed with a probability of at most
`FALSE_ALARM` by a right rollout.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, payments
from reference.compare import assert_payments, assert_within
from scipy import special

import tokenauction_jax as ta

FALSE_ALARM = 1e-7
SECOND_PRICE = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
CLARKE = ta.Mechanism(ta.log_linear(), ta.clarke(ta.log_linear()))


def table(agents=3, vocabulary=4, seed=1, markov=False):
    rng = np.random.default_rng(seed)
    shape = (agents, vocabulary) if markov else (agents,)
    return np.log(rng.dirichlet(np.ones(vocabulary), size=shape)).astype(np.float32)


def assert_frequencies(found, probabilities):
    """Pearson's chi-square of counts of outcomes `0..k-1`."""
    probabilities = np.asarray(probabilities, float)
    assert np.bincount(found, minlength=probabilities.size).size == probabilities.size
    seen = np.bincount(found, minlength=probabilities.size)
    expected = probabilities * found.size
    assert expected.min() > 5
    statistic = ((seen - expected) ** 2 / expected).sum()
    freedom = probabilities.size - 1
    assert special.gammaincc(freedom / 2, statistic / 2) > FALSE_ALARM


@pytest.fixture(scope="module")
def texts():
    """10,000 texts of two tokens by three agents that do not read them."""
    log_probs = table()
    bids = np.array([1.0, 2.0, 0.5], np.float32)
    rollout = ta.simulate(
        jax.random.key(0),
        SECOND_PRICE,
        ta.agents.tabular(log_probs),
        bids,
        num_tokens=2,
        num_auctions=10_000,
    )
    return bids, log_probs, jax.tree.map(np.asarray, rollout)


class TestOneTable:
    def test_shapes_and_dtypes(self, texts):
        _, _, rollout = texts
        assert isinstance(rollout, ta.Rollout)
        expected = {
            "tokens": ((10_000, 2), np.int32),
            "payments": ((10_000, 2, 3), np.float32),
            "expected_payments": ((10_000, 2, 3), np.float32),
            "log_prob": ((10_000, 2), np.float32),
            "mask": ((10_000, 2), np.bool_),
            "valid": ((10_000,), np.bool_),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(rollout, name)
            assert (array.shape, array.dtype) == (shape, dtype), name
        assert rollout.mask.all()
        assert rollout.valid.all()

    def test_tokens_follow_the_aggregate_independently(self, texts):
        bids, log_probs, rollout = texts
        q = np.exp(aggregation.linear(bids, log_probs)).astype(float)
        pairs = rollout.tokens @ np.array([4, 1])
        assert_frequencies(pairs, np.outer(q, q).ravel())

    def test_log_probability_of_the_drawn_token(self, texts):
        bids, log_probs, rollout = texts
        log_q = aggregation.linear(bids, log_probs)
        assert_within(rollout.log_prob, log_q[rollout.tokens], 1e-5)

    def test_expected_payments_are_those_given_the_token(self, texts):
        bids, log_probs, rollout = texts
        given, terms = payments.second_price_table(bids, log_probs)
        reference = given[rollout.tokens], terms[rollout.tokens]
        assert_payments(rollout.expected_payments, reference)

    def test_mean_payments(self, texts):
        bids, log_probs, rollout = texts
        due, _ = payments.second_price(bids, log_probs)
        # Hoeffding: 20,000 independent payments in [0, bid].
        bound = bids * np.sqrt(np.log(2 / FALSE_ALARM) / (2 * 20_000))
        for pays in (rollout.payments, rollout.expected_payments):
            assert (np.abs(pays.mean((0, 1)) - due) < bound).all()

    def test_law_of_the_payments_given_the_token(self, texts):
        """Noise shared by the token and the payment would distort it."""
        bids, log_probs, rollout = texts
        for agent, token in itertools.product(range(3), range(4)):
            sample = np.sort(rollout.payments[rollout.tokens == token][:, agent])
            law = payments.payment_cdf(
                sample * (1 + 1e-6), bids, log_probs, agent, token
            )
            rank = np.searchsorted(sample, sample, side="right") / sample.size
            # Dvoretzky-Kiefer-Wolfowitz
            bound = np.sqrt(np.log(2 / FALSE_ALARM) / (2 * sample.size))
            assert np.abs(rank - law.astype(float)).max() < bound

    def test_payments_are_independent_between_positions(self, texts):
        _, _, rollout = texts
        surprise = rollout.payments - rollout.expected_payments
        correlation = np.corrcoef(surprise[:, 0, 1], surprise[:, 1, 1])[0, 1]
        assert abs(correlation) < special.ndtri(1 - FALSE_ALARM / 2) / 100


def test_markov_chains_by_enumeration():
    """All 27 texts of three tokens, beginning at the row `start`."""
    log_probs, bids = table(2, 3, markov=True), np.array([1.0, 1.5])
    pool = ta.agents.tabular(log_probs, start=2)
    rollout = ta.simulate(
        jax.random.key(0), CLARKE, pool, bids, num_tokens=3, num_auctions=20_000
    )
    rows = aggregation.log_linear(bids, np.moveaxis(log_probs, 1, 0))
    q = np.exp(rows).astype(float)
    probabilities = [
        q[2, a] * q[a, b] * q[b, c] for a, b, c in itertools.product(range(3), repeat=3)
    ]
    assert_frequencies(np.asarray(rollout.tokens) @ np.array([9, 3, 1]), probabilities)
    due = np.stack(
        [payments.clarke_log_linear(bids, log_probs[:, row])[0] for row in range(3)]
    )
    tokens = np.asarray(rollout.tokens)
    row = np.concatenate([np.full((20_000, 1), 2), tokens[:, :-1]], axis=1)
    assert_payments(rollout.payments, (due[row].astype(float), 1))
    assert_within(rollout.log_prob, rows[row, tokens], 1e-5)


@pytest.fixture(scope="module")
def ended():
    """5,000 texts that end with token 2, and its probability."""
    log_probs, bids = table(2, 4), np.array([1.0, 2.0], np.float32)
    pool = ta.agents.tabular(log_probs, end_token=2)
    assert pool.end_token == 2
    rollout = ta.simulate(
        jax.random.key(0), SECOND_PRICE, pool, bids, num_tokens=5, num_auctions=5000
    )
    q = np.exp(aggregation.linear(bids, log_probs)).astype(float)
    return q[2], jax.tree.map(np.asarray, rollout)


class TestEndOfText:
    def test_the_mask_ends_with_the_end_token(self, ended):
        _, rollout = ended
        is_end = (rollout.tokens == 2) & rollout.mask
        finished = np.cumsum(is_end, axis=1) - is_end > 0
        np.testing.assert_array_equal(rollout.mask, ~finished)
        assert rollout.valid.all()

    def test_everything_after_it_is_zero(self, ended):
        _, rollout = ended
        assert not rollout.mask.all()
        for name in ("tokens", "log_prob", "payments", "expected_payments"):
            np.testing.assert_array_equal(getattr(rollout, name)[~rollout.mask], 0)

    def test_the_end_token_is_paid_for(self, ended):
        _, rollout = ended
        last = (rollout.tokens == 2) & rollout.mask
        assert (rollout.expected_payments[last].max(-1) > 0).all()
        assert (rollout.log_prob[last] < 0).all()

    def test_lengths_are_geometric(self, ended):
        stop, rollout = ended
        lengths = rollout.mask.sum(1)
        chances = stop * (1 - stop) ** np.arange(4)
        assert_frequencies(lengths - 1, [*chances, 1 - chances.sum()])

    def test_without_an_end_token_texts_reach_their_cap(self):
        pool = ta.agents.tabular(table(2, 4))
        assert pool.end_token is None
        rollout = ta.simulate(
            jax.random.key(0),
            SECOND_PRICE,
            pool,
            np.ones(2),
            num_tokens=5,
            num_auctions=20,
        )
        assert rollout.mask.all()


def test_accumulated_observations_are_sums_over_the_text():
    table = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]))
    pool = ta.agents.tabular(table, end_token=2)
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    values = jnp.arange(10.0).reshape(5, 2)

    def seen(bids, log_probs, log_q, token, value):
        return {"worth": value * jnp.exp(log_q[token]), "token": token}

    rollout = ta.simulate(
        *(jax.random.key(0), mechanism, pool, jnp.ones((5, 2))),
        num_tokens=6,
        observe=seen,
        accumulate=seen,
        observe_args=(values,),
    )
    assert (~rollout.mask).any()
    for name, each in rollout.observations.items():
        mask = rollout.mask.reshape(*rollout.mask.shape, *[1] * (each.ndim - 2))
        expected = jnp.where(mask, each, 0).sum(1)
        np.testing.assert_allclose(rollout.totals[name], expected, rtol=1e-6)


def test_a_token_is_traced_once():
    """Although the shapes of what is accumulated are needed before it runs."""
    calls = []

    def seen(bids, log_probs, log_q, token):
        calls.append(token)
        return {"likely": log_q[token], "token": token}

    ta.simulate(
        *(jax.random.key(0), CLARKE, ta.agents.tabular(table()), jnp.ones((2, 3))),
        num_tokens=2,
        accumulate=seen,
    )
    assert len(calls) == 1


def test_observe_args_have_a_row_an_auction():
    pool = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5]])))
    mechanism = ta.Mechanism(ta.linear(), ta.pay_your_bid())
    with pytest.raises(
        ValueError, match=r"observe_args .*\(3, 2\), expected \(4, ...\)"
    ):
        ta.simulate(
            *(jax.random.key(0), mechanism, pool, jnp.ones((4, 1))),
            num_tokens=1,
            observe_args=(jnp.ones((3, 2)),),
        )
