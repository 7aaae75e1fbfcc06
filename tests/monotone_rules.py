"""Users' own monotone rules beside `linear`, and what holds of draws from them.

Keys are fixed; every bound is crossed by a right sampler with a probability of at most
`FALSE_ALARM`.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from reference import aggregation
from reference.compare import smooth_auction
from scipy import special

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
