"""Many token auctions at once: one compiled scan over the tokens of all texts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool, SupportsBlocks
from tokenauction_jax.mechanism import keys
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import support
from tokenauction_jax.simulation.auction_step import (
    Observer,
    as_pytree,
    auction_keys,
    keep,
    observed,
)
from tokenauction_jax.simulation.bidders import (
    Bidders,
    check_answers,
    check_bidders,
    check_bids,
    check_rows,
    new_ledger,
    policy_bids,
    rows_of,
    settle,
    with_rows,
)
from tokenauction_jax.simulation.blocks import cache_size, even_size, in_blocks, scan
from tokenauction_jax.simulation.memory import explained, most_texts
from tokenauction_jax.simulation.meshes import is_spread, over_mesh
from tokenauction_jax.simulation.outcome import Rollout


def simulate(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
    *,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    observe: Observer | None = None,
    accumulate: Observer | None = None,
    observe_args: tuple[Any, ...] = (),
    block_size: int | None = None,
) -> Rollout:
    """Runs token auctions, each until its text ends or has `num_tokens` tokens.

    Randomness belongs to `key`, the number of the auction and the token's position:
    auction 17 draws the same tokens whatever runs beside it.

    Its derivatives hold the drawn tokens fixed: they leave out what a bid does to the
    path of the text. `bidding.expected` has those of the whole.

    Texts are written side by side, but no more of them than half of a device's memory
    is estimated to hold: then so many after so many.

    Where a mesh with an axis ``"auctions"`` is set (`jax.set_mesh`), each of its
    devices has a share of the auctions, in order; other axes may share out the agents.

    Args:
      key: A typed PRNG key.
      mechanism: The aggregation and payment rules.
      pool: An `AgentPool`, which supplies the agents' distributions.
      bids: Money per unit of value, `(n,)` or one row an auction, `(A, n)`; or
        `Bidders`, whose policies bid anew for every token, within their budgets. Where
        nobody bids any more an auction is undefined from that token on.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many auctions, ``A``; needed for bids `(n,)`, or
        budgets `(n,)`.
      first_auction: The number of the first auction; chunks of one study differ in it.
      observe: Called as ``observe(bids, log_probs, log_q, token)`` for one auction and
        token; what it returns is kept in `Rollout.observations`. A callable pytree
        (`jax.tree_util.Partial`) may carry numbers as leaves.
      accumulate: Called like `observe`, but summed over each text as it grows, in
        `Rollout.totals`: of many observations no array `(A, T, ...)` is ever made.
      observe_args: Further arguments of both, pytrees of arrays `(A, ...)`: each
        auction is given its row, for example its agents' true values.
      block_size: How many auctions are computed side by side once their agents have
        answered; None for as many as fit into the cache of a CPU, and for all on other
        devices, or where the bids lie on several devices and no mesh is set.

    Returns:
      A `Rollout`.

    Raises:
      ValueError: If the shapes disagree, or concrete bids are negative, not finite or
        all zero in an auction; or if a policy bid a negative or infinite number or NaN.
        (Under a transformation such an auction is undefined from that token on.) If the
        devices of the mesh that is set do not divide the auctions.
      MemoryError: If a device has too little memory, with what to change.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> rule = ta.linear()
    >>> mechanism = ta.Mechanism(rule, ta.second_price(rule))
    >>> rollout = ta.simulate(jax.random.key(0), mechanism, pool, [1.0, 2.0],
    ...                       num_tokens=8, num_auctions=4)
    >>> rollout.tokens.shape, rollout.payments.shape
    ((4, 8), (4, 8, 2))
    """
    records.check_key(key)
    if not isinstance(mechanism, Mechanism):
        raise ValueError(f"mechanism must be a Mechanism, got {mechanism!r}")
    num_tokens = records.check_integer("num_tokens", num_tokens, 1)
    if num_auctions is not None:
        num_auctions = records.check_integer("num_auctions", num_auctions, 1)
    if isinstance(bids, Bidders):
        bids = check_bidders(bids, pool.num_agents, num_auctions)
    else:
        bids = check_bids(bids, pool.num_agents, num_auctions)
    size = _num_auctions(bids)
    observers = tuple(map(as_pytree, (observe, accumulate)))
    number = records.check_first_auction(first_auction, size)
    check_rows("observe_args", observe_args, size)
    if block_size is not None:
        block_size = records.check_integer("block_size", block_size, 1)
    elif is_spread(bids, observe_args):
        block_size = size
    most = most_texts(pool, num_tokens)
    with explained(size):
        rollout = _rollout(
            *(key, mechanism, pool, bids, number, observers, observe_args),
            num_tokens=num_tokens,
            block_size=block_size,
            most_texts=None if most is None or most >= size else most,
        )
    if isinstance(bids, Bidders):
        check_answers(bids, rollout.bids)
    return rollout


@functools.partial(jax.jit, static_argnames=("num_tokens", "block_size", "most_texts"))
def _rollout(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: jax.Array | Bidders,
    first_auction: jax.Array,
    observers: tuple[Observer | None, Observer | None],
    observe_args: tuple[Any, ...],
    num_tokens: int,
    block_size: int | None,
    most_texts: int | None,
) -> Rollout:
    numbers = records.auction_numbers(first_auction, _num_auctions(bids))
    # Whole texts of a block if possible: what does not change from token to token is
    # then computed once, and what the pool answers stays in the cache as well.
    divisible = isinstance(pool, SupportsBlocks) and pool.divisible

    def texts(rows: Any, *shared: Any) -> Rollout:
        total = rows[0].size
        size = block_size or cache_size(total, pool.num_agents, pool.vocab_size)
        block = functools.partial(_texts, shared, num_tokens, size)
        whole = even_size(total, most_texts or total)
        return in_blocks(block, rows, min(size, whole) if divisible else whole)

    shared = tuple(keys.split(key)), mechanism, pool, bids, observers
    return over_mesh(texts, (numbers, rows_of(bids), observe_args), *shared)


def _texts(shared: Any, num_tokens: int, block_size: int, rows: Any) -> Rollout:
    """Texts of the auctions of these rows; their mechanism works in blocks."""
    (key_auctions, key_pool), mechanism, pool, any_bids, observers = shared
    numbers, own_bids, all_args = rows
    all_bids = with_rows(any_bids, own_bids)
    num_auctions = numbers.size
    state = pool.init(
        num_auctions, key=key_pool, first_auction=numbers[0], num_tokens=num_tokens
    )
    kind = jax.random.key_impl(key_auctions)
    by_position = auction_keys(key_auctions, numbers)
    most_tokens = support.most_tokens(pool)
    watch = [jax.vmap(functools.partial(observed, observer)) for observer in observers]

    def advance(position: jax.Array, rows: Any) -> Any:
        """One token of some auctions, of which `rows` are all that they have."""
        carry, key_data, own_bids, log_probs, observe_args = rows
        tokens, active, valid, ledger = carry
        bids = with_rows(all_bids, own_bids)
        keys_token = jax.random.wrap_key_data(key_data, impl=kind)
        asked = active
        if isinstance(bids, Bidders):
            seen = position, num_tokens, tokens, log_probs
            offered, ledger = policy_bids(bids, ledger, *seen)
        else:
            offered = bids
        log_q, outcome, defined = support.auctions(
            mechanism, keys_token, offered, log_probs, most_tokens
        )
        if isinstance(bids, Bidders):
            # Where nobody bids, a rule may answer anything.
            defined = defined & (offered > 0).any(axis=1)
        valid = valid & (defined | ~active)
        active = active & defined
        token = outcome["tokens"]
        kept = {name: keep(active, value) for name, value in outcome.items()}
        due = kept["payments"]
        if isinstance(bids, Bidders):
            kept, ledger = settle(bids, ledger, asked, num_tokens, log_probs, kept)
        seen = (offered, log_probs, log_q, token, due, kept["payments"], observe_args)
        observed, added = (look(*seen) for look in watch)
        added = jax.tree.map(lambda x: keep(active, x), added)
        out = kept | {"mask": active, "observations": observed}
        if pool.end_token is not None:
            active = active & (token != pool.end_token)
        return (kept["tokens"], active, valid, ledger), out, added

    if isinstance(all_bids, Bidders):
        # For derivatives all is computed again, or they would keep several times what
        # the pool answers.
        advance = jax.checkpoint(advance, prevent_cse=False)

    # Traced once, although the shapes of the sums are asked for before it runs.
    @functools.partial(jax.jit, inline=True)
    def step(carry: Any, position: jax.Array) -> tuple[Any, Any, Any]:
        state, carry = carry
        state, log_probs = pool.step(state, carry[0])
        records.check_shape(
            "log_probs", log_probs, (num_auctions, pool.num_agents, pool.vocab_size)
        )
        data = by_position(position)
        rows = (carry, data, rows_of(all_bids), log_probs, all_args)
        advanced = in_blocks(functools.partial(advance, position), rows, block_size)
        carry, out, added = advanced
        return (state, carry), out, added

    def add(carry: Any, position: jax.Array) -> tuple[Any, Any]:
        carry, totals = carry
        carry, out, added = step(carry, position)
        return (carry, jax.tree.map(jnp.add, totals, added)), out

    running = jnp.ones(num_auctions, bool)
    tokens = jnp.full(num_auctions, -1, jnp.int32)
    ledger = new_ledger(all_bids) if isinstance(all_bids, Bidders) else None
    carry = state, (tokens, running, running, ledger)
    *_, added = jax.eval_shape(step, carry, jnp.uint32(0))
    totals = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), added)
    positions = jnp.arange(num_tokens, dtype=jnp.uint32)
    ((_, carry), totals), stacked = scan(add, (carry, totals), positions)
    by_auction = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), stacked)
    *_, valid, ledger = carry
    if ledger is not None:
        by_auction["exhausted"] = ledger.exhausted
        by_auction["policy_states"] = ledger.states
    return Rollout(**by_auction, valid=valid, totals=totals)


def _num_auctions(bids: jax.Array | Bidders) -> int:
    """``A``, of bids or budgets `(A, n)`."""
    return jnp.shape(bids.budgets if isinstance(bids, Bidders) else bids)[0]
