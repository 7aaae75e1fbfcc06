"""What is measured in each auction of a study: one row of numbers a text.

Every token is observed inside the rollout (`TokenMeasures`), and the observations of a
text are summed or averaged over its tokens (`text_measures`). Valuations, welfare and
robust preferences are those of Duetting et al. (arXiv 2310.10826), sections 3 to 5.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.aggregation import Linear
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.mechanism.incentives import miss, outcomes_without
from tokenauction_jax.simulation import Rollout, simulate
from tokenauction_jax.studies.divergences import divergence_measures

VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")
Reference = Literal["uniform", "mean", "agent"]
# By how much, in probability, a token may miss a robust preference.
_TOLERANCE = 1e-6

# The measures of a text, in the order of its row: unit, one for each valuation, one for
# each agent.
_MEASURES = {
    "welfare": ("money per text", True, False),
    "realized_welfare": ("money per text", True, False),
    "optimum_shortfall": ("money per text", True, False),
    "single_agent_shortfall": ("money per text", True, False),
    "minimum_welfare": ("money per text", True, False),
    "nash_welfare": ("nats per text", False, False),
    "revenue": ("money per text", False, False),
    "expected_revenue": ("money per text", False, False),
    "payment": ("money per text", False, True),
    "expected_payment": ("money per text", False, True),
    "utility": ("money per text", True, True),
    "expected_utility": ("money per text", True, True),
    "influence": ("share", False, True),
    "robustly_gains": ("share of tokens", False, True),
    "robustly_loses": ("share of tokens", False, True),
    "entropy": ("nats per token", False, False),
    "log_likelihood": ("nats per text", False, False),
    "log_ratio": ("nats per text", False, True),
    "length": ("tokens", False, False),
    "mention": ("share of texts", False, True),
}
UNITS = {name: unit for name, (unit, _, _) in _MEASURES.items()}
# Means of numbers in [0, 1] that are often 0 or 1 throughout.
SHARES = ("robustly_gains", "robustly_loses", "mention")
# Averaged over the tokens of a text; what else is observed is summed.
_AVERAGED = ("influence", "robustly_gains", "robustly_loses", "entropy")


class Column(NamedTuple):
    """One number of a text: a measure, of a valuation and an agent if it has them."""

    measure: str
    valuation: str = ""
    agent: int | None = None

    @property
    def key(self) -> str:
        """Such as ``utility/forward_kl/0``."""
        parts = (self.measure, self.valuation, "" if self.agent is None else self.agent)
        return "/".join(str(part) for part in parts if part != "")


class Texts(NamedTuple):
    """What one block of `A` auctions left, on the device or as NumPy arrays.

    Attributes:
      measures: `(A, M)`, NaN in rows that are not valid.
      valid: `(A,)`, False where an auction became undefined.
      length: `(A,)` tokens of each text.
      tokens: `(A, T)`.
      influence: `(A, T, n)`, the share of the drawn token's probability that each
        agent brought, ``lambda_i p_i / sum_j lambda_j p_j``.
    """

    measures: Any
    valid: Any
    length: Any
    tokens: Any
    influence: Any


def columns(num_agents: int, with_mentions: bool = False) -> list[Column]:
    """The columns of `Texts.measures`, and those of mentions if texts have them."""
    return [
        Column(name, valuation, agent)
        for name, (_, by_valuation, by_agent) in _MEASURES.items()
        if with_mentions or name != "mention"
        for valuation in (VALUATIONS if by_valuation else [""])
        for agent in (range(num_agents) if by_agent else [None])
    ]


@base.record
class TokenMeasures:
    """Observes one token of one auction.

    Attributes:
      aggregation: The rule of the auction.
      reference: The model of fluency: the uniform distribution, the mean of the
        agents', or that of a last "agent" which bids 0 and takes no part.
    """

    aggregation: Any
    reference: Reference = base.static_field()

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
        values: jax.Array,
    ) -> dict[str, jax.Array]:
        """Measures of one token: bids `(m,)`, log_probs `(m, V)`, values `(n,)`."""
        n = values.shape[0]
        weights = self.aggregation.weights(bids)[:n]
        drawn = log_probs[:, token]
        log_reference = self._log_reference(drawn, n, log_probs.shape[-1])
        gains, loses = self._robust_preferences(bids, log_probs, log_q, n)
        return divergence_measures(values, log_probs[:n], log_q) | {
            "realized": _realized_values(drawn[:n] - log_q[token]),
            "influence": weights,
            "robustly_gains": gains,
            "robustly_loses": loses,
            "entropy": distributions.entropy(log_q),
            "log_likelihood": log_reference,
            "log_ratio": drawn[:n] - log_reference,
        }

    def _robust_preferences(
        self, bids: jax.Array, log_probs: jax.Array, log_q: jax.Array, n: int
    ) -> tuple[jax.Array, jax.Array]:
        """Whether each agent prefers the outcome, and the one without it, `(n,)`."""
        others = distributions.sum_of_others(bids)[:n] > 0
        if isinstance(self.aggregation, Linear):
            # q - p_i is a share of r_i - p_i (section 4 of the paper): all gain.
            return others.astype(log_q.dtype), jnp.zeros(n, log_q.dtype)
        without = outcomes_without(self.aggregation, bids, log_probs)[:n]
        p = jnp.exp(log_probs[:n])
        with_it, without_it = jnp.exp(log_q)[None] - p, without - p
        gains = (miss(without_it, with_it) <= _TOLERANCE).all(-1) & others
        loses = (miss(with_it, without_it) <= _TOLERANCE).all(-1) & others & ~gains
        return gains.astype(log_q.dtype), loses.astype(log_q.dtype)

    def _log_reference(self, drawn: jax.Array, n: int, vocab_size: int) -> jax.Array:
        if self.reference == "uniform":
            return -jnp.log(jnp.asarray(vocab_size, drawn.dtype))
        if self.reference == "agent":
            return drawn[n]
        mean = jnp.full(n, 1 / n, drawn.dtype)
        return distributions.log_mixture(mean, drawn[:n, None])[0]


@base.record
class _Influence:
    """Observes the share of a token's probability that each agent brought."""

    aggregation: Any

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
        values: jax.Array,
    ) -> jax.Array:
        n = values.shape[0]
        ratio = jnp.exp(log_probs[:n, token] - log_q[token])
        brought = self.aggregation.weights(bids)[:n] * ratio
        return brought / distributions.nonzero(brought.sum())


def run_texts(
    key: jax.Array,
    mechanism: Mechanism,
    pool: Any,
    bids: jax.Array,
    values: jax.Array,
    first_auction: jax.Array,
    *,
    num_tokens: int,
    reference: Reference,
) -> Texts:
    """Simulates and measures one block of auctions; pure, to be jitted whole.

    Args:
      key: Of all auctions of the study.
      mechanism: The rules.
      pool: `n` agents, and the reference model after them if it is one of them.
      bids: `(A, n)`.
      values: `(A, n)`, true values.
      first_auction: The number of the block's first auction.
      num_tokens: The cap on the tokens of a text.
      reference: See `TokenMeasures`.
    """
    if reference == "agent":
        bids_in = jnp.concatenate([bids, jnp.zeros_like(bids[:, :1])], axis=1)
    else:
        bids_in = bids
    rollout = simulate(
        key,
        mechanism,
        pool,
        bids_in,
        num_tokens=num_tokens,
        first_auction=first_auction,
        observe=_Influence(mechanism.aggregation),
        accumulate=TokenMeasures(mechanism.aggregation, reference),
        observe_args=(values,),
    )
    return text_measures(rollout, values)


def text_measures(rollout: Rollout, values: jax.Array) -> Texts:
    """Sums and averages over the tokens of each text, in the order of `columns`."""
    mask, n = rollout.mask, values.shape[1]
    length = mask.sum(axis=1)

    def total(x: jax.Array) -> jax.Array:
        kept = jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)
        return kept.sum(axis=1)

    seen = dict(rollout.totals)
    for name in _AVERAGED:
        of_text = seen[name]
        tokens = jnp.maximum(length, 1).reshape(-1, *[1] * (of_text.ndim - 1))
        seen[name] = of_text / tokens
    paid = total(rollout.payments[..., :n])
    expected = total(rollout.expected_payments[..., :n])
    worth = _worth(values, seen["values"])
    best_single = seen["single_agents"].max(axis=-1)
    seen |= {
        "welfare": worth.sum(-1),
        "realized_welfare": _worth(values, seen["realized"]).sum(-1),
        "single_agent_shortfall": best_single - worth.sum(-1),
        "revenue": paid.sum(-1),
        "expected_revenue": expected.sum(-1),
        "payment": paid,
        "expected_payment": expected,
        "utility": worth - paid[:, None],
        "expected_utility": worth - expected[:, None],
        "length": length.astype(paid.dtype),
    }
    rows = [seen[name].reshape(mask.shape[0], -1) for name in _MEASURES if name in seen]
    matrix = jnp.concatenate(rows, axis=1)
    return Texts(
        measures=jnp.where(rollout.valid[:, None], matrix, jnp.nan),
        valid=rollout.valid,
        length=length,
        tokens=rollout.tokens,
        influence=rollout.observations,
    )


def _worth(values: jax.Array, x: jax.Array) -> jax.Array:
    """``w_i x_i`` `(A, 3, n)`, 0 for agents of value 0."""
    values = values[:, None]
    return jnp.where(values > 0, values * x, 0)


def _realized_values(log_ratio: jax.Array) -> jax.Array:
    """One-token estimates `(3, n)` of the values from ``log p_i(y) / q(y)`` `(n,)`.

    Each divergence is a mean over the drawn token of a convex function of that ratio.
    """
    ratio = jnp.exp(log_ratio)
    weighted = jnp.where(ratio > 0, ratio * log_ratio, 0)
    return jnp.stack([-jnp.maximum(1 - ratio, 0), -(weighted - ratio + 1), log_ratio])
