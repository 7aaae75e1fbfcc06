"""What looks right and is not: rules, samplers, pools and policies to be rejected.

The samplers, called like `ta.stable_sample`, have the right law at every bid and yet
are not stable.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

import tokenauction_jax as ta


def path(aggregation, agent, own_bids, bids, log_probs):
    """The aggregate at each own bid, `(k, V)`."""
    own_bids, bids = jnp.asarray(own_bids, float), jnp.asarray(bids, float)

    def log_q(own_bid):
        return aggregation.log_prob(bids.at[agent].set(own_bid), log_probs)

    return jax.vmap(log_q)(own_bids)


def shared_gumbel(key, aggregation, agent, own_bids, bids, log_probs):
    """The largest of `log q + noise`, with one noise for all own bids."""
    log_q = path(aggregation, agent, own_bids, bids, log_probs)
    noise = jax.random.gumbel(key, log_q.shape[-1:])
    return jnp.argmax(log_q + noise[None], axis=-1).astype(jnp.int32)


def shared_inverse_cdf(key, aggregation, agent, own_bids, bids, log_probs):
    """The first token whose cumulative probability exceeds one uniform."""
    log_q = path(aggregation, agent, own_bids, bids, log_probs)
    below = jnp.cumsum(jnp.exp(log_q), axis=-1) <= jax.random.uniform(key)
    last = log_q.shape[-1] - 1
    return jnp.minimum(below.sum(-1), last).astype(jnp.int32)


def others(aggregation, bids, log_probs):
    """For each agent its own probabilities and those of the aggregate without it."""
    alone = (1 - jnp.eye(bids.size, dtype=bids.dtype)) * bids[None]
    log_r = jax.vmap(aggregation.log_prob, (0, None))(alone, log_probs)
    return jnp.exp(log_probs), jnp.exp(log_r)


@ta.record
class SharePreserving:
    """Charges the least bid that keeps the share ``b_i / sum b``: the own bid."""

    aggregation: ta.Aggregation
    name: ClassVar[str] = "share_preserving"

    def _wins(self, bids, log_probs):
        p, r = others(self.aggregation, bids, log_probs)
        return (p > r) & (bids.sum() > bids)[:, None]

    def expected(self, bids, log_probs):
        q = jnp.exp(self.aggregation.log_prob(bids, log_probs))
        return bids * (self._wins(bids, log_probs) * q[None]).sum(-1)

    def conditional(self, bids, log_probs, token):
        return bids * self._wins(bids, log_probs)[:, token]

    def realized(self, key, bids, log_probs, token):
        del key
        return self.conditional(bids, log_probs, token)


@ta.record
class LogLinearSecondPrice:
    """The formulas of the mean second price under linear, with another aggregate."""

    aggregation: ta.Aggregation
    name: ClassVar[str] = "log_linear_second_price"

    def _price(self, bids):
        """``B phi(b / B)`` and the share of each agent."""
        rest = bids.sum() - bids
        odds = bids / jnp.where(rest > 0, rest, 1)
        price = rest * (jnp.log1p(odds) - odds / (1 + odds))
        return jnp.where(rest > 0, price, 0), bids / bids.sum()

    def expected(self, bids, log_probs):
        p, r = others(self.aggregation, bids, log_probs)
        return self._price(bids)[0] * jnp.abs(p - r).sum(-1) / 2

    def conditional(self, bids, log_probs, token):
        p, r = (x[:, token] for x in others(self.aggregation, bids, log_probs))
        price, share = self._price(bids)
        q = share * p + (1 - share) * r
        return price * jnp.maximum(p - r, 0) / jnp.where(q > 0, q, 1)

    def realized(self, key, bids, log_probs, token):
        del key
        return self.conditional(bids, log_probs, token)


@ta.record
class Changed:
    """Linear aggregation but for what ``change(log_q, bids, log_probs)`` does."""

    change: Callable[..., Any] = ta.static_field()
    name: ClassVar[str] = "changed"
    monotone: ClassVar[bool] = False

    def weights(self, bids):
        return ta.linear().weights(bids)

    def log_prob(self, bids, log_probs):
        return self.change(ta.linear().log_prob(bids, log_probs), bids, log_probs)


@ta.record
class Weighed:
    """Linear aggregation but for what ``change(weights)`` does."""

    change: Callable[..., Any] = ta.static_field()
    name: ClassVar[str] = "weighed"
    monotone: ClassVar[bool] = False

    def weights(self, bids):
        return self.change(ta.linear().weights(bids))

    def log_prob(self, bids, log_probs):
        return ta.linear().log_prob(bids, log_probs)


@ta.record
class Valued:
    """Total variation but for what ``change(value)`` does."""

    change: Callable[..., Any] = ta.static_field()
    name: ClassVar[str] = "valued"

    def value(self, log_q, log_p):
        return self.change(ta.total_variation().value(log_q, log_p))


@ta.record
class Wrapped:
    """Linear aggregation under another name: a monotone rule, not an impostor."""

    influence: float
    name: ClassVar[str] = "wrapped"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return ta.linear(self.influence).weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(self.influence).log_prob(bids, log_probs)


@ta.record
class Sampled:
    """Another rule but for its draws, ``draw(key, bids, log_probs)``."""

    rule: ta.Aggregation
    draw: Callable[..., Any] = ta.static_field()
    name: ClassVar[str] = "sampled"
    monotone: ClassVar[bool] = False

    def weights(self, bids):
        return self.rule.weights(bids)

    def log_prob(self, bids, log_probs):
        return self.rule.log_prob(bids, log_probs)

    def sample(self, key, bids, log_probs):
        return self.draw(key, bids, log_probs)


@ta.record
class SampledFromLogits(Sampled):
    """The same of its draws from logits only."""

    def sample(self, key, bids, log_probs):
        return self.rule.sample(key, bids, log_probs)

    def sample_from_logits(self, key, bids, logits):
        return self.draw(key, bids, logits)


@ta.record
class Boast:
    """Log-linear aggregation that claims to be monotone."""

    name: ClassVar[str] = "boast"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return ta.log_linear().weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.log_linear().log_prob(bids, log_probs)


@ta.record
class SoftmaxShares:
    """Linear aggregation by shares that are a softmax of the bids."""

    temperature: float
    name: ClassVar[str] = "softmax_shares"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return jax.nn.softmax(jnp.asarray(bids) / self.temperature)

    def log_prob(self, bids, log_probs):
        return jnp.log(self.weights(bids) @ jnp.exp(log_probs))


@ta.record
class SharesSecondPrice:
    """Charges each agent its share of the highest bid that another makes."""

    aggregation: ta.Aggregation
    name: ClassVar[str] = "shares_second_price"

    def expected(self, bids, log_probs):
        del log_probs
        own = jnp.eye(bids.size, dtype=bool)
        highest = jnp.where(own, -jnp.inf, bids[None]).max(-1)
        return self.aggregation.weights(bids) * highest

    def conditional(self, bids, log_probs, token):
        del token
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        del key, token
        return self.expected(bids, log_probs)


@ta.record
class Baked:
    """Linear aggregation whose influence is not a leaf."""

    influence: float = ta.static_field()
    name: ClassVar[str] = "baked"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return ta.linear(self.influence).weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(self.influence).log_prob(bids, log_probs)


@ta.record
class Lottery:
    """Charges the whole bid half of the time, but for factors on what it says."""

    expect: float
    condition: float
    realize: float
    name: ClassVar[str] = "lottery"

    def expected(self, bids, log_probs):
        del log_probs
        return self.expect * bids / 2

    def conditional(self, bids, log_probs, token):
        del log_probs, token
        return self.condition * bids / 2

    def realized(self, key, bids, log_probs, token):
        del log_probs, token
        return self.realize * bids * jax.random.bernoulli(key, shape=bids.shape)


@ta.record
class Charged:
    """Charges ``change(bids)`` whatever is drawn."""

    change: Callable[..., Any] = ta.static_field()
    name: ClassVar[str] = "charged"

    def expected(self, bids, log_probs):
        del log_probs
        return self.change(bids)

    def conditional(self, bids, log_probs, token):
        del log_probs, token
        return self.change(bids)

    def realized(self, key, bids, log_probs, token):
        del key, log_probs, token
        return self.change(bids)


@ta.record
class RandomPool:
    """Random answers of two agents about five tokens.

    Attributes:
      first_position: An integer, of the first token.
      number: ``number(places, first_auction, num_auctions)`` seeds the auctions.
      answer: ``answer(log_probs, tokens)``, what is made of the random ones.
    """

    first_position: Any
    number: Callable[..., Any] = ta.static_field()
    answer: Callable[..., Any] = ta.static_field()
    num_agents: ClassVar[int] = 2
    vocab_size: ClassVar[int] = 5
    end_token: ClassVar[int | None] = None

    def init(self, num_auctions, *, key=None, first_auction=0, num_tokens=None):
        del num_tokens
        places = jnp.arange(num_auctions, dtype=jnp.uint32)
        numbers = self.number(places, first_auction, num_auctions)
        # Wild enough, and quicker to compile than a generator.
        seeds = jax.random.uniform(key) * (1 + numbers.astype(jnp.float32))
        return seeds, jnp.asarray(self.first_position)

    def step(self, state, tokens):
        seeds, position = state
        logits = jnp.arange(10.0).reshape(1, 2, 5) + position
        logits = jnp.sin(logits * 100 * seeds[:, None, None])
        return (seeds, position + 1), self.answer(jax.nn.log_softmax(logits), tokens)


@ta.record
class Bidder:
    """A policy that bids ``bid(state, info)``, the next state with it."""

    start: Any
    act: Callable[..., Any] = ta.static_field()

    def init(self):
        return self.start

    def bid(self, state, info):
        return self.act(state, info)


@ta.record
class BakedBidder:
    """A constant policy whose bid is not a leaf."""

    amount: float = ta.static_field()

    def init(self):
        return ()

    def bid(self, state, info):
        return self.amount, state


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def rejection(match, check, *args):
    """The message of a check that fails, as `match` says."""
    with pytest.raises(AssertionError, match=match) as caught:
        check(*args)
    return str(caught.value)
