"""Payments from the tokens that filters leave are those from all tokens."""

import dataclasses
from typing import Any, ClassVar

import impostors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoder

import tokenauction_jax as ta
from tokenauction_jax.agents.filters import filter_logits, sampling
from tokenauction_jax.agents.wrapped import WrappedPool
from tokenauction_jax.mechanism import invariances
from tokenauction_jax.simulation import support

# Of which 18 tokens are looked at: 8, a quarter more, and 8.
A, N, V, MOST, LOOKED_AT = 6, 3, 300, 8, 18
KEY = jax.random.key(0)
BIDS = jax.random.gamma(jax.random.key(1), 2.0, (A, N))
LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


@ta.record
class Filtered(WrappedPool):
    """Another pool that says how many tokens are left."""

    pool: Any
    most: int | None = ta.static_field()

    @property
    def most_tokens(self):
        return self.most

    def step(self, state, tokens):
        return self.pool.step(state, tokens)


@ta.record
class Neutral(impostors.Wrapped):
    """Linear aggregation by quadrature, which says that it is neutral."""

    neutral: ClassVar[bool] = True


@ta.record
class Width:
    """How many tokens it is shown, and the number of the one that is drawn."""

    neutral: bool = ta.static_field()
    name: ClassVar[str] = "width"

    def expected(self, bids, log_probs):
        return jnp.full(bids.shape, float(log_probs.shape[1]))

    def conditional(self, bids, log_probs, token):
        # Of this agent's tokens the drawn one is known by its probability.
        return self.expected(bids, log_probs).at[0].set(jnp.exp(log_probs[0, token]))

    def realized(self, key, bids, log_probs, token):
        return self.conditional(bids, log_probs, token)


def tables(top_k=MOST // 2, seed=0):
    """Distributions `(N, V)` that share most of their likely tokens."""
    shared, own = jax.random.split(jax.random.key(seed))
    logits = 3 * jax.random.normal(shared, (1, V))
    logits += 0.5 * jax.random.normal(own, (N, V))
    return filter_logits(sampling(N, top_k=top_k), logits)


def run(mechanism, log_probs, most_tokens, bids=BIDS, **options):
    pool = Filtered(ta.agents.tabular(log_probs), most_tokens)
    return ta.simulate(KEY, mechanism, pool, bids, num_tokens=4, **options)


def mechanisms():
    wrapped = Neutral(1.0)
    pairs = {
        "Clarke, linear": (LINEAR, ta.clarke(LINEAR)),
        "Clarke, log-linear": (LOG_LINEAR, ta.clarke(LOG_LINEAR)),
        "Myerson": (LINEAR, ta.myerson(LINEAR, ta.total_variation())),
        "second price by quadrature": (wrapped, ta.second_price(wrapped)),
    }
    return [
        pytest.param(ta.Mechanism(*rules), id=name) for name, rules in pairs.items()
    ]


@pytest.mark.parametrize("mechanism", mechanisms())
def test_payments(mechanism):
    assert invariances.is_neutral(mechanism.payment)
    few, all_ = (run(mechanism, tables(), most) for most in (MOST, None))
    np.testing.assert_array_equal(few.tokens, all_.tokens)
    np.testing.assert_array_equal(few.log_prob, all_.log_prob)
    assert all_.valid.all()
    assert (all_.payments > 0).any()
    for name in ("payments", "expected_payments"):
        x, y = getattr(few, name), getattr(all_, name)
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def test_derivatives():
    mechanism = ta.Mechanism(LOG_LINEAR, ta.clarke(LOG_LINEAR))

    def total(numbers, most):
        bids, logits = numbers
        log_probs = jnp.where(jnp.isneginf(tables()), -jnp.inf, logits)
        log_probs = jax.nn.log_softmax(log_probs)
        rollout = run(mechanism, log_probs, most, bids)
        return rollout.expected_payments.sum()

    logits = jnp.where(jnp.isneginf(tables()), 0, tables())
    few, all_ = (jax.grad(total)((BIDS, logits), most) for most in (MOST, None))
    for x, y in zip(few, all_, strict=True):
        assert jnp.abs(y).max() > 0.1
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def seen(neutral, log_probs, most_tokens, **options):
    """How many tokens the payment was shown `(A,)`; checks which one was drawn."""
    mechanism = ta.Mechanism(LINEAR, Width(neutral))
    rollout = run(mechanism, log_probs, most_tokens, **options)
    drawn = jnp.exp(log_probs[0])[rollout.tokens]
    np.testing.assert_array_equal(rollout.payments[..., 0], drawn)
    widths = np.asarray(rollout.payments[..., 1])
    np.testing.assert_array_equal(widths, widths[:, :1].repeat(4, 1))
    return widths[:, 0]


@pytest.mark.parametrize(
    ("neutral", "top_k", "most_tokens", "wanted"),
    [
        (True, 4, MOST, LOOKED_AT),
        (False, 4, MOST, V),
        (True, 4, None, V),
        # A pool may be wrong: it has 3 x 40 tokens at most, and more than 18.
        (True, 40, MOST, V),
        # So many that nothing is gained.
        (True, 4, 60, V),
    ],
    ids=["few", "not neutral", "not known", "wrong", "many"],
)
def test_what_a_payment_is_shown(neutral, top_k, most_tokens, wanted):
    assert (seen(neutral, tables(top_k), most_tokens) == wanted).all()


def test_blocks_are_looked_at_by_themselves():
    """In a block where an auction has many tokens, all payments are from all."""

    @ta.record
    class Two:
        """Agents with few tokens, but for auction 1."""

        few: jax.Array
        many: jax.Array
        num_agents, vocab_size, end_token, divisible = N, V, None, True
        most_tokens = MOST

        def init(self, num_auctions, *, first_auction, **options):
            return first_auction + jnp.arange(num_auctions)

        def step(self, numbers, tokens):
            wide = (numbers == 1)[:, None, None]
            return numbers, jnp.where(wide, self.many[None], self.few[None])

    mechanism = ta.Mechanism(LINEAR, Width(neutral=True))
    pool = Two(tables(4), tables(60))
    found = ta.simulate(KEY, mechanism, pool, BIDS, num_tokens=1, block_size=2)
    widths = np.asarray(found.payments[:, 0, 1])
    np.testing.assert_array_equal(widths, [V, V, *[LOOKED_AT] * 4])


def test_auctions_that_are_no_numbers_have_all_tokens():
    log_probs = jnp.tile(tables(4)[None], (A, 1, 1)).at[2, 1].set(jnp.nan)
    keys, mechanism = jax.random.split(KEY, A), ta.Mechanism(LINEAR, Width(True))
    run = jax.jit(support.auctions, static_argnums=4)
    *_, found, defined = run(mechanism, keys, BIDS, log_probs, MOST)
    assert (found["payments"][:, 1] == V).all()
    assert defined.tolist() == [True, True, False, True, True, True]


def test_own_payments_are_not_neutral_unless_they_say_so():
    """A rule may give tokens that nobody can produce a chance of their own."""

    @ta.record
    class Smoothed(impostors.Wrapped):
        def log_prob(self, bids, log_probs):
            q = jnp.exp(super().log_prob(bids, log_probs))
            return jnp.log(0.9 * q + 0.1 / q.size)

    rule = Smoothed(1.0)
    payment = ta.myerson(rule, ta.total_variation())
    assert not invariances.is_neutral(payment)
    few, all_ = (
        run(ta.Mechanism(rule, payment), tables(), most) for most in (MOST, None)
    )
    np.testing.assert_array_equal(few.payments, all_.payments)


def test_language_models_say_how_many_tokens_top_k_leaves():
    logits = sampling(3, top_k=[5, 7, 2])
    assert logits.most_tokens == 14
    assert logits.only([0, 2]).most_tokens == 7
    assert sampling(2, top_k=[5, None]).most_tokens is None
    assert sampling(2, top_p=0.5).most_tokens is None
    filtered = Filtered(ta.agents.tabular(tables()), 12)
    assert ta.agents.with_reference(filtered, "mean").most_tokens == 12
    assert ta.agents.with_reference(filtered, "uniform").most_tokens is None
    other = dataclasses.replace(filtered, most=None)
    assert ta.agents.with_reference(other, "mean").most_tokens is None


def test_language_models():
    """Top-k of 4 for each of 3 agents, a quarter more, and 8."""
    model = tiny_decoder.make(vocab_size=V)
    pool = ta.agents.from_language_model(model, None, [[5], [6, 7], [8]], top_k=4)
    mechanism = ta.Mechanism(LINEAR, Width(neutral=True))
    rollout = ta.simulate(KEY, mechanism, pool, BIDS, num_tokens=3)
    assert (rollout.payments[..., 1] == 12 + 3 + 8).all()
    mechanism = ta.Mechanism(LINEAR, ta.clarke(LINEAR))
    few = ta.simulate(KEY, mechanism, pool, BIDS, num_tokens=3)
    pool = Filtered(pool, None)
    all_ = ta.simulate(KEY, mechanism, pool, BIDS, num_tokens=3)
    np.testing.assert_array_equal(few.tokens, all_.tokens)
    np.testing.assert_allclose(few.payments, all_.payments, rtol=2e-5, atol=1e-6)
