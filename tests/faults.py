"""Right rules with one small fault each, for audits and checks to find.

Sizes are leaves, so that one compiled program audits every size.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

import tokenauction_jax as ta


@ta.record
class Payment:
    """A payment of which the methods are off by factors.

    Attributes:
      payment: What is right.
      expect: On all that `expected` says.
      condition: On all that `conditional` says.
      realize: On all that `realized` says.
      favour: On all that the first agent pays.
      refund: Share of its bid that every agent gets back where bids are far apart.
    """

    payment: ta.Payment
    expect: Any = 1.0
    condition: Any = 1.0
    realize: Any = 1.0
    favour: Any = 1.0
    refund: Any = 0.0
    name: ClassVar[str] = "faulty"

    def _charged(self, bids, pays):
        far = bids.max() > 1e5 * jnp.where(bids > 0, bids, bids.max()).min()
        pays = pays.at[0].multiply(self.favour)
        return jnp.where(far, (1 - self.refund) * pays - self.refund * bids, pays)

    def expected(self, bids, log_probs):
        pays = self.payment.expected(bids, log_probs)
        return self.expect * self._charged(bids, pays)

    def conditional(self, bids, log_probs, token):
        pays = self.payment.conditional(bids, log_probs, token)
        return self.condition * self._charged(bids, pays)

    def realized(self, key, bids, log_probs, token):
        pays = self.payment.realized(key, bids, log_probs, token)
        return self.realize * self._charged(bids, pays)


@ta.record
class Aggregation:
    """Linear aggregation, but for small faults.

    Attributes:
      told: Exponent on bids in `weights`, where `log_prob` uses 1.
      kept: Share of the weight that is not dealt out evenly, in `weights`.
      order: Of the power mean.
      favour: On the first agent's bid.
      mass: What probabilities add up to.
    """

    told: Any = 1.0
    kept: Any = 1.0
    order: Any = 1.0
    favour: Any = 1.0
    mass: Any = 1.0
    name: ClassVar[str] = "faulty"
    monotone: ClassVar[bool] = False

    def weights(self, bids):
        weights = ta.linear(self.told).weights(bids)
        return self.kept * weights + (1 - self.kept) / bids.size

    def log_prob(self, bids, log_probs):
        bids = bids.at[0].multiply(self.favour)
        log_q = ta.power_mean(self.order).log_prob(bids, log_probs)
        return log_q + jnp.log(self.mass)


@ta.record
class Sampler:
    """The stable sampler at other bids than it should.

    Attributes:
      bids: Factor on own bids.
    """

    bids: Any = 1.0

    def __call__(self, key, aggregation, agent, own_bids, bids, log_probs):
        own_bids = self.bids * own_bids
        return ta.stable_sample(key, aggregation, agent, own_bids, bids, log_probs)


@ta.record
class Critical:
    """Linear aggregation with a critical bid of its own, off by a factor."""

    factor: Any = 1.0
    name: ClassVar[str] = "critical"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        return ta.linear().weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear().log_prob(bids, log_probs)

    def critical_bid(self, key, agent, bids, log_probs, token):
        found = ta.critical_bid(key, ta.linear(), agent, bids, log_probs, token)
        return self.factor * found


@ta.record
class Power:
    """Linear aggregation as users write it, whose derivative at a zero bid is none."""

    influence: Any
    name: ClassVar[str] = "power"
    monotone: ClassVar[bool] = True

    def weights(self, bids):
        scores = bids**self.influence
        return scores / scores.sum()

    def log_prob(self, bids, log_probs):
        return jnp.log(self.weights(bids) @ jnp.exp(log_probs))
