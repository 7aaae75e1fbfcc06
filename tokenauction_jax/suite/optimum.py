"""The best that any mechanism can do, where it can be computed."""

from typing import NamedTuple

import jax
import numpy as np

from tokenauction_jax.agents.random_tables import RandomPool
from tokenauction_jax.agents.tabular import TabularPool
from tokenauction_jax.mechanism import keys
from tokenauction_jax.scenarios.population import Population

# Auctions at a time.
_BLOCK = 1024


class Range(NamedTuple):
    """What regularised welfare lies between, in money per text.

    Attributes:
      reference: That of texts of the reference, the uniform mixture of the agents.
      best: The largest of any law of the text.
    """

    reference: float
    best: float


def regularized_range(cell: Population, num_auctions: int, tau: float) -> Range | None:
    """Of the auctions of a cell, on average; None if its agents are no tables.

    The largest ``E sum_i w_i log(p_i(y) / p_ref(y)) - tau KL(q || p_ref)`` is ``tau log
    E_ref exp(sum_i w_i log(p_i(y) / p_ref(y)) / tau)`` (Donsker and Varadhan), which of
    texts is a recursion over the tokens.

    Args:
      cell: Of a study, whose reference is the mean of the agents.
      num_auctions: How many.
      tau: What a nat of divergence costs, in money.
    """
    pool, setting = cell.pool, cell.setting
    tables = isinstance(pool, TabularPool) and pool.end_token is None
    if not (tables or isinstance(pool, RandomPool)):
        return None
    found = []
    for first in range(0, num_auctions, _BLOCK):
        size = min(_BLOCK, num_auctions - first)
        values = np.asarray(cell.draw(first, size)[0], np.float64)
        found.append(
            _ranges(_log_probs(cell, first, size), values, setting.num_tokens, tau)
        )
    start = pool.start if isinstance(pool, TabularPool) else 0
    every = np.concatenate(found)
    return Range(*every[:, :, start % every.shape[2]].mean(0))


def _log_probs(cell: Population, first: int, size: int) -> np.ndarray:
    """Of the agents by last token, `(A or 1, n, V or 1, V)`."""
    pool = cell.pool
    if isinstance(pool, TabularPool):
        table = np.asarray(pool.log_probs, np.float64)
        return table[None] if table.ndim == 3 else table[None, :, None]
    # As `simulate` draws them.
    key = keys.split(jax.random.key(cell.setting.seed))[1]
    return np.asarray(pool.init(size, key=key, first_auction=first), np.float64)[
        :, :, None
    ]


def _ranges(
    log_probs: np.ndarray, values: np.ndarray, num_tokens: int, tau: float
) -> np.ndarray:
    """Both ends by the token before the text, `(A, 2, V or 1)`."""
    log_reference = np.logaddexp.reduce(log_probs, axis=1) - np.log(log_probs.shape[1])
    ratio = log_probs - log_reference[:, None]
    gain = np.einsum(
        "an,ansv->asv", values, np.broadcast_to(ratio, (len(values), *ratio.shape[1:]))
    )
    reference = np.exp(log_reference)
    ends = np.zeros((len(values), 2, gain.shape[1]))
    for _ in range(num_tokens):
        # By the next token, or the same after all of them.
        later = np.broadcast_to(ends, (len(values), 2, gain.shape[2]))[:, :, None]
        mean = (reference * (gain + later[:, 0])).sum(-1)
        best = tau * np.logaddexp.reduce(
            log_reference + (gain + later[:, 1]) / tau, axis=-1
        )
        ends = np.stack([mean, best], axis=1)
    return ends
