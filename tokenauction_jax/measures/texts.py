"""What is measured of each text: one row of numbers an auction.

Every token is observed inside the rollout (`TokenMeasures`), and the observations of a
text are summed or averaged over its tokens (`text_measures`). Valuations, welfare and
robust preferences are those of Duetting et al. (arXiv 2310.10826), sections 3 to 5.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.measures.columns import MEASURES
from tokenauction_jax.measures.tokens import Attribution, Reference, TokenMeasures
from tokenauction_jax.mechanism.base import Mechanism, Valuation
from tokenauction_jax.simulation import Rollout, simulate


class Texts(NamedTuple):
    """What one block of `A` auctions left, on the device or as NumPy arrays.

    Attributes:
      measures: `(A, M)`, NaN in rows that are not valid.
      valid: `(A,)`, False where an auction became undefined.
      length: `(A,)` tokens of each text.
      tokens: `(A, T)`.
      attribution: `(A, T, n)`, the share of the drawn token's probability that each
        agent brought, ``lambda_i p_i / sum_j lambda_j p_j``.
    """

    measures: Any
    valid: Any
    length: Any
    tokens: Any
    attribution: Any


def run_texts(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: jax.Array,
    values: jax.Array,
    first_auction: jax.Array,
    *,
    num_tokens: int,
    reference: Reference,
    valuation: Valuation | None = None,
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
        observe=Attribution(mechanism.aggregation),
        accumulate=TokenMeasures(mechanism.aggregation, reference, valuation),
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
    for name, of_text in rollout.totals.items():
        if name not in MEASURES or not MEASURES[name].averaged:
            continue
        tokens = jnp.maximum(length, 1).reshape(-1, *[1] * (of_text.ndim - 1))
        seen[name] = of_text / tokens
    paid = total(rollout.payments[..., :n])
    expected = total(rollout.expected_payments[..., :n])
    worth = _worth(values, seen["values"])
    seen |= {
        "welfare": worth.sum(-1),
        "realized_welfare": _worth(values, seen["realized"]).sum(-1),
        "single_agent_shortfall": jnp.nanmax(seen["single_agents"], -1),
        "revenue": paid.sum(-1),
        "expected_revenue": expected.sum(-1),
        "payment": paid,
        "expected_payment": expected,
        "utility": worth - paid[:, None],
        "expected_utility": worth - expected[:, None],
        "log_prob": total(rollout.log_prob),
        "length": length.astype(paid.dtype),
    }
    rows = [seen[name].reshape(mask.shape[0], -1) for name in MEASURES if name in seen]
    matrix = jnp.concatenate(rows, axis=1)
    return Texts(
        measures=jnp.where(rollout.valid[:, None], matrix, jnp.nan),
        valid=rollout.valid,
        length=length,
        tokens=rollout.tokens,
        attribution=rollout.observations,
    )


def _worth(values: jax.Array, x: jax.Array) -> jax.Array:
    """``w_i x_i`` `(A, v, n)` under v valuations, 0 for agents of value 0."""
    values = values[:, None]
    return jnp.where(values > 0, values * x, 0)
