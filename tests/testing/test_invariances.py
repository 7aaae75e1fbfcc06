"""Rules that say what does not matter to them are taken at their word, and tested."""

from typing import ClassVar

import impostors
import jax.numpy as jnp
import pytest
from impostors import rejection

import tokenauction_jax as ta
from tokenauction_jax import testing

LINEAR = ta.linear()


@ta.record
class NeutralChange(impostors.Changed):
    neutral: ClassVar[bool] = True


@ta.record
class FirstToken:
    """Likes the first token, whatever the agent prefers."""

    name: ClassVar[str] = "first_token"
    neutral: ClassVar[bool] = True

    def value(self, log_q, log_p):
        gap = jnp.exp(log_q[0]) - jnp.exp(log_p[0])
        return -(gap**2)


@ta.record
class Wordy:
    """Charges by the size of the vocabulary."""

    name: ClassVar[str] = "wordy"
    neutral: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def expected(self, bids, log_probs):
        return bids / log_probs.shape[1]

    def conditional(self, bids, log_probs, token):
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        return self.expected(bids, log_probs)


@ta.record
class Sharp:
    """Charges by how sure agents are of their likeliest tokens."""

    takes_logits: bool = ta.static_field()
    name: ClassVar[str] = "sharp"
    deterministic: ClassVar[bool] = True

    def expected(self, bids, log_probs):
        return bids * jnp.exp(log_probs.max(1).min())

    def conditional(self, bids, log_probs, token):
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        return self.expected(bids, log_probs)


@ta.record
class Candid(Wordy):
    """The same, which says so."""

    neutral: ClassVar[bool] = False


def smoothed(log_q, bids, log_probs):
    """Some of its probability goes to tokens that nobody can produce."""
    return jnp.log(0.9 * jnp.exp(log_q) + 0.1 / log_q.size)


def without_first(log_q, bids, log_probs):
    """The first token is never drawn."""
    return log_q.at[0].set(-jnp.inf)


@pytest.mark.parametrize("change", [smoothed, without_first])
def test_aggregations(change):
    match = "log_prob with tokens renumbered and impossible ones added"
    rejection(match, testing.check_aggregation, NeutralChange(change))


def test_valuations():
    match = "value with tokens renumbered and impossible ones added"
    rejection(match, testing.check_valuation, FirstToken())


def test_payments():
    match = "expected with tokens renumbered and impossible ones added"
    rejection(match, testing.check_payment, Wordy(), LINEAR)
    testing.check_payment(Candid(), LINEAR)


def test_logits():
    match = "expected of logits, and not of log-probabilities,"
    rejection(match, testing.check_payment, Sharp(takes_logits=True), LINEAR)
