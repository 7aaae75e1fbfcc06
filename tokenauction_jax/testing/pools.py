"""Checks of pools."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.auditing.calls import layout, mismatch
from tokenauction_jax.testing.auctions import seeded_key
from tokenauction_jax.testing.subject import check_record, reject, running


def check_pool(pool: AgentPool, *, tolerance: float = 1e-4, seed: int = 0) -> None:
    """Checks a pool: what it answers, and that auctions do not touch one another.

    It answers normalised log-probabilities `(A, n, V)`, to the first tokens -1 and to
    later ones; its state keeps structure, shapes and dtypes; it answers alike step by
    step and compiled in a scan; and auction k gets the same answers whatever the number
    of auctions, the number of the first, and the texts of its neighbours.

    Args:
      pool: The pool, a pytree of its numbers.
      tolerance: The largest difference in probability that counts as rounding.
      seed: Of the pool's key and the tokens that it reads.

    Raises:
      AssertionError: If a check fails.
    """
    name, (size, steps) = check_record(pool, AgentPool), (4, 4)
    for member in ("num_agents", "vocab_size"):
        number = getattr(pool, member)
        if not isinstance(number, int | np.integer) or number < 1:
            reject(f"{name}: {member} is {number!r}, not a positive integer")
    if pool.end_token is not None and pool.end_token not in range(pool.vocab_size):
        reject(f"{name}: end_token is {pool.end_token!r}, neither None nor a token")

    def start(pool: AgentPool, first: Any, num_auctions: int) -> Any:
        numbers = {"first_auction": jnp.uint32(first), "num_tokens": steps}
        return pool.init(num_auctions, key=seeded_key(seed), **numbers)

    @jax.jit
    def scan(pool: AgentPool, first: Any, tokens: jax.Array) -> jax.Array:
        state = start(pool, first, tokens.shape[1])
        return jnp.exp(lax.scan(pool.step, state, tokens)[1])

    def probs(first: int, tokens: np.ndarray) -> np.ndarray:
        with running(f"{name} compiled"):
            return np.asarray(scan(pool, first, jnp.asarray(tokens)))

    rng = np.random.default_rng(seed)
    tokens = rng.integers(pool.vocab_size, size=(steps, size), dtype=np.int32)
    tokens[0] = -1
    with running(f"{name} step by step"):
        state, by_step, layouts = start(pool, 0, size), [], set()
        layouts.add(layout(state))
        for token in tokens:
            state, log_probs = pool.step(state, jnp.asarray(token))
            layouts.add(layout(state))
            by_step.append(log_probs)
    shape = size, pool.num_agents, pool.vocab_size
    wrong = mismatch(by_step[0], shape, jnp.floating)
    if wrong:
        reject(f"{name}: step {wrong}")
    if len(layouts) > 1:
        reject(f"{name}: the state changes its layout: {' or '.join(layouts)}")
    whole, halves = probs(0, tokens), [probs(k, tokens[:, k : k + 2]) for k in (0, 2)]
    others = np.where(np.arange(size) < 2, tokens, (tokens + 1) % pool.vocab_size)
    for what, found, wanted in (
        ("from normalised ones", whole, whole / whole.sum(axis=-1, keepdims=True)),
        ("in a scan or step by step", whole, np.exp(np.stack(by_step))),
        ("beside other texts", probs(0, others)[:, :2], whole[:, :2]),
        ("in a smaller batch", halves[0], whole[:, :2]),
        ("with a later first_auction", halves[1], whole[:, 2:]),
    ):
        differ = np.abs(found - wanted)
        if not (differ <= tolerance).all():
            place = np.unravel_index(differ.argmax(), differ.shape)[:3]
            rows = {"found": found[place], "expected": wanted[place]}
            reject(f"{name}: answers differ {what}, by {differ.max():.3g}", rows)
