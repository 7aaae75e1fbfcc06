"""Myerson payments where values are all but steps along the own bids.

In float32 transitions lie where log-probabilities of thousands cancel: what payments
that should be next to 0 are off by is the rounding of these logs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import definitions

import tokenauction_jax as ta

N, V = 3, 3
# Of logits, and how far payments may be off.
SCALES = {30: 2e-5, 300: 5e-5, 1000: 2e-4, 3000: 2e-3}
# The rule, and its name and influence in the reference.
RULES = {
    "log_linear": (ta.log_linear(), "log_linear", 1.0),
    "power_mean(0.5)": (ta.power_mean(0.5), 0.5, 1.0),
}
PAIRS = [
    ("log_linear", "forward_kl"),
    *(pytest.param(rule, "reverse_kl", marks=pytest.mark.slow) for rule in RULES),
]


@jax.jit
def batched(payment, bids, log_probs):
    return jax.vmap(payment.expected)(bids, log_probs)


@jax.jit
def slopes(payment, bids, log_probs):
    """Derivatives of each agent's payment in the bids, `(n, n)`."""
    return jax.jacrev(payment.expected)(bids, log_probs)


def price(rule, valuation):
    return ta.myerson(RULES[rule][0], getattr(ta, valuation)())


def example():
    """Payments are 0, 0 and 15,050."""
    logits = np.array([(0, -2e4, -3e4), (-50, 0, -100), (-1e4, -2e4, 0)], np.float32)
    log_probs = jax.nn.log_softmax(logits)
    return np.array([0.5, 1, 2], np.float32), np.asarray(log_probs)


def auctions(scale, count, dtype=np.float32):
    rng = np.random.default_rng(scale)
    logits = jnp.asarray(scale * rng.normal(size=(count, N, V)), dtype)
    bids = 10 ** rng.uniform(-1, 1, (count, N))
    # Near-ties of tokens and of agents, in a third each.
    logits = logits.at[::3, :, 1].set(logits[::3, :, 0] + 1e-2)
    logits = logits.at[1::3, 1].set(logits[1::3, 0] + 1e-2 * logits[1::3, 2])
    return bids.astype(dtype), np.asarray(jax.nn.log_softmax(logits))


def check(found, args, due, digits, rounding=2e-4):
    """All payments above 1 % of the bid to these digits, none of them off by more."""
    bids, log_probs = args
    error, paid = np.abs(found - due), due > 1e-2 * bids
    assert (error <= digits * due)[paid].all(), (found, due)
    assert (error <= rounding * bids * np.abs(log_probs).max()).all(), (found, due)


def oracle(bids, log_probs, rule, valuation):
    _, name, influence = RULES[rule]
    return np.array(
        [
            definitions.sharp_myerson(bids, log_probs, i, name, valuation, influence)
            for i in range(N)
        ]
    )


def test_named_example():
    """Also beside auctions that are not sharp, which keep their payments."""
    bids, log_probs = example()
    payment = price("log_linear", "reverse_kl")
    due = oracle(bids, log_probs, "log_linear", "reverse_kl")
    np.testing.assert_allclose(due, [0, 0, 15050], rtol=1e-6, atol=1e-6)
    smooth = np.log(np.full((N, V), 1 / 3, np.float32) + np.eye(N, V, dtype="f4") / 9)
    smooth = jax.nn.log_softmax(smooth)
    found = batched(payment, np.stack([bids, bids]), np.stack([log_probs, smooth]))
    np.testing.assert_allclose(found[0], due, rtol=1e-3)
    clarke = ta.clarke(ta.log_linear())
    np.testing.assert_allclose(found[1], clarke.expected(bids, smooth), rtol=1e-5)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("scale", SCALES)
def test_sweep(scale):
    """Against Clarke's closed form in 60 digits; supports are full."""
    args = auctions(scale, 100)
    found = np.asarray(batched(price("log_linear", "reverse_kl"), *args), float)
    for pays, *auction in zip(found, *args, strict=True):
        due = [definitions.clarke(*auction, i, "log_linear") for i in range(N)]
        check(pays, auction, np.array(due), SCALES[scale])


@pytest.mark.parametrize(("rule", "valuation"), PAIRS)
def test_pairs(rule, valuation):
    args = auctions(300, 6)
    found = np.asarray(batched(price(rule, valuation), *args), float)
    for pays, *auction in zip(found, *args, strict=True):
        check(pays, auction, oracle(*auction, rule, valuation), SCALES[300])


@pytest.mark.parametrize("scale", [30, 300])
def test_gradients(scale):
    """Of 60-digit Clarke payments by difference quotients."""
    payment = price("log_linear", "reverse_kl")
    for bids, log_probs in zip(*auctions(scale, 6), strict=True):
        exact = bids.astype(float)
        found = slopes(payment, bids, log_probs)
        for i in range(N):
            due = np.zeros(N)
            for j in range(N):
                step = 1e-7 * exact[j] * (np.arange(N) == j)
                high, low = (
                    definitions.clarke(exact + sign * step, log_probs, i, "log_linear")
                    for sign in (1, -1)
                )
                due[j] = (high - low) / (2 * step[j])
            terms = np.abs(due).max() + np.abs(log_probs).max()
            np.testing.assert_allclose(found[i], due, rtol=1e-3, atol=1e-3 * terms)


@ta.record
class WinnerTakesAll:
    """The highest bidder's distribution."""

    name = "winner_takes_all"
    monotone = True

    def weights(self, bids):
        return jax.nn.one_hot(jnp.argmax(bids), bids.size, dtype=bids.dtype)

    def log_prob(self, bids, log_probs):
        return log_probs[jnp.argmax(jnp.asarray(bids))]


def test_a_jump_counts_in_full():
    bids = np.array([1.0, 3.0, 2.0], np.float32)
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32)
    payment = ta.myerson(WinnerTakesAll(), ta.total_variation())
    due = [0, 2 * np.abs(p[1] - p[2]).sum() / 2, 0]
    np.testing.assert_allclose(payment.expected(bids, np.log(p)), due, rtol=1e-3)
