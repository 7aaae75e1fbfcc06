"""What is measured of each text: one row of numbers an auction.

Every token is observed inside the rollout (`TokenMeasures`), and the observations of a
text are summed or averaged over its tokens (`text_measures`). Valuations, welfare and
robust preferences are those of Duetting et al. (arXiv 2310.10826), sections 3 to 5.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.reference import with_reference
from tokenauction_jax.measures.columns import MEASURES
from tokenauction_jax.measures.tokens import Attribution, Reference, TokenMeasures
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.mechanism.base import Mechanism, Valuation
from tokenauction_jax.replies.text_auctions import (
    TextAuction,
    WrittenTexts,
    draws_tokens,
)
from tokenauction_jax.simulation import Rollout, simulate


class Texts(NamedTuple):
    """What one block of `A` auctions left, on the device or as NumPy arrays.

    Attributes:
      measures: `(A, M)`, NaN in rows that are not valid.
      valid: `(A,)`, False where an auction became undefined.
      length: `(A,)` tokens of each text.
      tokens: `(A, T)`.
      attribution: `(A, T, n)`, the share of the drawn token's probability that each
        agent brought, ``lambda_i p_i / sum_j lambda_j p_j``; `(A, 0, n)` where the
        mechanism gives no agent a share of a token.
    """

    measures: Any
    valid: Any
    length: Any
    tokens: Any
    attribution: Any


def run_texts(
    key: jax.Array,
    mechanism: Mechanism | TextAuction,
    pool: AgentPool,
    bids: jax.Array,
    values: jax.Array,
    first_auction: jax.Array,
    *,
    num_tokens: int,
    reference: Reference,
    valuation: Valuation | None = None,
    tau: ArrayLike = 1.0,
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
      valuation: One to measure besides the built-in ones.
      tau: What a nat of divergence costs in `regularized_welfare`, in money.
    """
    if not isinstance(mechanism, Mechanism):
        pool = pool if reference == "agent" else with_reference(pool, reference)
        written = mechanism.write(
            *(key, pool, bids),
            num_tokens=num_tokens,
            first_auction=first_auction,
            accumulate=TokenMeasures(linear(), "agent", valuation),
            observe_args=(values,),
        )
        if not draws_tokens(mechanism):
            written = dataclasses.replace(written, totals=None)
        return written_measures(written, values, tau)
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
        observe=Attribution(mechanism.aggregation),
        accumulate=TokenMeasures(mechanism.aggregation, reference, valuation),
        observe_args=(values,),
    )
    return text_measures(rollout, values, tau)


def text_measures(rollout: Rollout, values: jax.Array, tau: ArrayLike = 1.0) -> Texts:
    """Sums and averages over the tokens of each text, in the order of `columns`."""
    mask, n = rollout.mask, values.shape[1]
    length = mask.sum(axis=1)

    def total(x: jax.Array) -> jax.Array:
        kept = jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)
        return kept.sum(axis=1)

    seen = _of_path(rollout.totals, values, length)
    paid = total(rollout.payments[..., :n])
    expected = total(rollout.expected_payments[..., :n])
    log_prob = total(rollout.log_prob)
    tokens = length.astype(paid.dtype)
    seen |= {
        "log_prob": log_prob,
        "divergence": log_prob - seen["log_likelihood"],
        # Everyone answers every token.
        "forward_passes": n * tokens,
        "drawn_tokens": tokens,
        "length": tokens,
    }
    return Texts(
        measures=_rows(seen | _of_text(seen, values, paid, expected, tau), rollout),
        valid=rollout.valid,
        length=length,
        tokens=rollout.tokens,
        attribution=rollout.observations,
    )


def written_measures(written: WrittenTexts, values: jax.Array, tau: ArrayLike) -> Texts:
    """Likewise of texts that came about as a whole."""
    n, length = values.shape[1], written.mask.sum(axis=1)
    log_reference = written.log_probs[:, n]
    seen = {
        "divergence": written.divergence,
        "log_likelihood": log_reference,
        "log_ratio": written.log_probs[:, :n] - log_reference[:, None],
        "forward_passes": written.forward_passes,
        "drawn_tokens": written.drawn_tokens,
        "length": length.astype(values.dtype),
    }
    if written.totals is not None:
        of_path = _of_path(written.totals, values, length)
        of_path = {x: y for x, y in of_path.items() if not _is_of_tokens(x)}
        seen = of_path | seen | {"log_prob": written.divergence + log_reference}
    paid, expected = written.payments, written.expected_payments
    return Texts(
        measures=_rows(seen | _of_text(seen, values, paid, expected, tau), written),
        valid=written.valid,
        length=length,
        tokens=written.tokens,
        attribution=jnp.zeros((length.size, 0, n), values.dtype),
    )


_Seen = dict[str, jax.Array]


def _of_path(totals: _Seen, values: jax.Array, length: jax.Array) -> _Seen:
    """What is known where tokens have distributions, from sums over the tokens."""
    seen = dict(totals)
    for name, of_text in totals.items():
        if name in MEASURES and MEASURES[name].averaged:
            tokens = jnp.maximum(length, 1).reshape(-1, *[1] * (of_text.ndim - 1))
            seen[name] = of_text / tokens
    worth = _worth(values[:, None], seen["values"])
    return seen | {
        "worth": worth,
        "welfare": worth.sum(-1),
        "realized_welfare": _worth(values[:, None], seen["realized"]).sum(-1),
        "single_agent_shortfall": jnp.nanmax(seen["single_agents"], -1),
    }


def _of_text(
    seen: _Seen, values: jax.Array, paid: jax.Array, expected: jax.Array, tau: ArrayLike
) -> _Seen:
    """What is known of every text, from what agents pay `(A, n)`, also on average."""
    gained = _worth(values, seen["log_ratio"])
    found = {
        "revenue": paid.sum(-1),
        "expected_revenue": expected.sum(-1),
        "payment": paid,
        "expected_payment": expected,
        "log_ratio_welfare": gained.sum(-1),
        "minimum_log_ratio_welfare": gained.min(-1),
        "log_ratio_utility": gained - paid,
        "regularized_welfare": gained.sum(-1) - tau * seen["divergence"],
    }
    if "worth" in seen:
        found["utility"] = seen["worth"] - paid[:, None]
        found["expected_utility"] = seen["worth"] - expected[:, None]
    return found


def _is_of_tokens(name: str) -> bool:
    return name in MEASURES and MEASURES[name].scope == "token"


def _rows(seen: _Seen, texts: Rollout | WrittenTexts) -> jax.Array:
    """The measures that are there, in their order, `(A, M)`; NaN if undefined."""
    size = texts.valid.size
    rows = [seen[name].reshape(size, -1) for name in MEASURES if name in seen]
    return jnp.where(texts.valid[:, None], jnp.concatenate(rows, axis=1), jnp.nan)


def _worth(values: jax.Array, x: jax.Array) -> jax.Array:
    """``w_i x_i`` `(..., n)`, 0 for agents of value 0."""
    return jnp.where(values > 0, values * x, 0)
