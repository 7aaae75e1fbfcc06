"""One token of many auctions: what `simulate` repeats, and all of it from logits."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions, keys, sampling
from tokenauction_jax.mechanism.aggregation import draw
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.mechanism.invariances import takes_logits
from tokenauction_jax.simulation.bidders import check_bids, check_rows
from tokenauction_jax.simulation.blocks import cache_size, in_blocks
from tokenauction_jax.simulation.memory import explained
from tokenauction_jax.simulation.meshes import is_spread, over_mesh

# Called for one auction and token: (bids (n,), log_probs (n, V), log_q (V,), token) and
# that auction's rows of `observe_args`. A record with a class attribute ``sees_payments
# = True`` is given before those what the payment rule drew and what was charged, (n,).
Observer = Callable[..., Any]


@records.record
class Step:
    """One token of `A` auctions and what was paid for it.

    Attributes:
      tokens: `(A,)` int32.
      payments: `(A, n)`, charged for the token (realised), in money.
      expected_payments: `(A, n)`, their expectation given the drawn token.
      log_prob: `(A,)`, log-probability of the drawn token under the aggregate.
      valid: `(A,)`, False if an auction is undefined, or its logits make no
        distribution; its numbers are then 0.
      observations: What `observe` returned, each array `(A, ...)`; else None. Not
        masked.
    """

    tokens: jax.Array
    payments: jax.Array
    expected_payments: jax.Array
    log_prob: jax.Array
    valid: jax.Array
    observations: Any = None


def step(
    key: jax.Array,
    mechanism: Mechanism,
    bids: ArrayLike,
    logits: ArrayLike,
    *,
    position: ArrayLike = 0,
    first_auction: ArrayLike = 0,
    observe: Observer | None = None,
    observe_args: tuple[Any, ...] = (),
    block_size: int | None = None,
) -> Step:
    """Runs auctions of one token, from the agents' logits to what is paid.

    For texts that are written elsewhere: by a program of your own that has the models'
    logits. Called for each position in turn with the same key, it draws what `simulate`
    would, with agents whose distributions are the softmax of these logits.

    A logit takes one exponential, and no logarithm, if the aggregation is
    `linear` or `log_linear`, or another that `SupportsLogits`.

    Args:
      key: A typed PRNG key, that of the whole texts.
      mechanism: The aggregation and payment rules.
      bids: Money per unit of value, `(n,)` or one row an auction, `(A, n)`.
      logits: Log-probabilities of the agents but for a number added to all of an agent,
        `(A, n, V)`; ``-inf`` for tokens that an agent cannot produce.
      position: How many tokens the texts have already.
      first_auction: The number of the first auction.
      observe: Called as ``observe(bids, log_probs, log_q, token)`` for one auction.
      observe_args: Further arguments of it, pytrees of arrays `(A, ...)`.
      block_size: How many auctions are computed side by side; None for as many as fit
        into the cache of a CPU, and for all on other devices.

    Returns:
      A `Step`.

    Raises:
      ValueError: If the shapes disagree, or concrete bids are negative, not finite or
        all zero in an auction; if the devices of the mesh that is set do not divide the
        auctions.
      MemoryError: If a device has too little memory, with what to change.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> rule = ta.linear()
    >>> mechanism = ta.Mechanism(rule, ta.second_price(rule))
    >>> logits = jnp.array([[[2.0, 0.0], [0.0, 1.0]]] * 5)
    >>> found = ta.step(jax.random.key(0), mechanism, [1.0, 2.0], logits)
    >>> found.tokens.shape, found.payments.shape
    ((5,), (5, 2))
    """
    records.check_key(key)
    if not isinstance(mechanism, Mechanism):
        raise ValueError(f"mechanism must be a Mechanism, got {mechanism!r}")
    logits = base.as_float(logits)
    records.check_shape("logits", logits, (None, None, None))
    size, num_agents, _ = logits.shape
    bids = check_bids(bids, num_agents, size)
    number = records.check_first_auction(first_auction, size)
    if records.is_concrete(position):
        last = 2**32 - 1
        position = np.uint32(records.check_integer("position", position, 0, last))
    check_rows("observe_args", observe_args, size)
    if block_size is not None:
        block_size = records.check_integer("block_size", block_size, 1)
    elif is_spread(bids, logits, observe_args):
        block_size = size
    with explained(size):
        return _step(
            *(key, mechanism, bids, logits, position, number),
            *(as_pytree(observe), observe_args),
            block_size=block_size,
        )


@functools.partial(jax.jit, static_argnames="block_size")
def _step(
    key: jax.Array,
    mechanism: Mechanism,
    bids: jax.Array,
    logits: jax.Array,
    position: jax.Array,
    first_auction: jax.Array,
    observer: Observer | None,
    observe_args: tuple[Any, ...],
    block_size: int | None,
) -> Step:
    numbers = records.auction_numbers(first_auction, len(bids))

    def steps(rows: Any, *shared: Any) -> Step:
        key, mechanism, position, observer = shared
        numbers, *others = rows
        data = auction_keys(keys.split(key)[0], numbers)(position)
        size = block_size or cache_size(numbers.size, *others[1].shape[1:])
        kind = jax.random.key_impl(key)
        function = functools.partial(_block, mechanism, observer, kind)
        return in_blocks(function, (data, *others), size)

    shared = key, mechanism, position, observer
    return over_mesh(steps, (numbers, bids, logits, observe_args), *shared)


def _block(
    mechanism: Mechanism, observer: Observer | None, kind: Any, rows: Any
) -> Step:
    """Auctions side by side."""
    data, bids, logits, observe_args = rows
    auction = jax.vmap(functools.partial(_from_logits, mechanism))
    auction_key = jax.random.wrap_key_data(data, impl=kind)
    (log_probs, log_q), outcome, valid = auction(auction_key, bids, logits)
    outcome = {name: keep(valid, x) for name, x in outcome.items()}
    payments = outcome["payments"]
    seen = (bids, log_probs, log_q, outcome["tokens"], payments, payments, observe_args)
    observations = jax.vmap(functools.partial(observed, observer))(*seen)
    return Step(**outcome, valid=valid, observations=observations)


def _from_logits(
    mechanism: Mechanism, key: jax.Array, bids: jax.Array, logits: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array], jax.Array]:
    """As `one_auction`, of logits; `log_probs` beside `log_q`."""
    aggregation = mechanism.aggregation
    logits, _ = distributions.below_zero(logits)
    log_probs = logits - sampling.log_totals(logits)[:, None]
    key_token, key_payment = keys.split(key)
    if isinstance(aggregation, base.SupportsLogits):
        drawn = aggregation.sample_from_logits(key_token, bids, logits)
    else:
        drawn = draw(key_token, aggregation, bids, log_probs)
    payment = _payment(mechanism)
    given = logits if takes_logits(payment) else log_probs
    outcome, defined = _settled(payment, key_payment, bids, given, *drawn)
    # For observers; if nobody looks neither is computed.
    return (log_probs, aggregation.log_prob(bids, log_probs)), outcome, defined


def one_auction(
    mechanism: Mechanism,
    key: jax.Array,
    bids: jax.Array,
    log_probs: jax.Array,
    support: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One auction of one token: `log_q`, what is recorded, whether it is defined.

    A neutral payment may be found from `support` `(U,)`, the numbers of all tokens that
    some agent can produce, and ``V`` where there are fewer.
    """
    key_token, key_payment = keys.split(key)
    drawn = draw(key_token, mechanism.aggregation, bids, log_probs)
    payment = _payment(mechanism)
    outcome, defined = _settled(payment, key_payment, bids, log_probs, *drawn, support)
    # For observers; if nobody looks it is not computed.
    return mechanism.aggregation.log_prob(bids, log_probs), outcome, defined


def _payment(mechanism: Mechanism) -> base.Payment:
    """The payment, with the aggregation itself for the equal one that it was built for.

    XLA cannot know that their numbers are equal, and would do twice what both need.
    Derivatives in these numbers are therefore all at the mechanism's aggregation.
    """
    payment = mechanism.payment
    if "aggregation" in getattr(payment, "__dataclass_fields__", ()):
        # Not `replace`, whose constructor may look at numbers, which are traced here.
        payment = copy.copy(payment)
        object.__setattr__(payment, "aggregation", mechanism.aggregation)
    return payment


def _settled(
    payment: base.Payment,
    key: jax.Array,
    bids: jax.Array,
    log_probs: jax.Array,
    token: jax.Array,
    log_prob: jax.Array,
    support: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The auction of a token that is drawn: what is recorded, whether it is defined."""
    shown, number = log_probs, token
    if support is not None:
        shown = log_probs.at[:, support].get(mode="fill", fill_value=-jnp.inf)
        number = jnp.argmax(support == token)
    expected = paid = payment.conditional(bids, shown, number)
    if not (isinstance(payment, base.SupportsCertainty) and payment.deterministic):
        paid = payment.realized(key, bids, shown, number)
    outcome = {
        "tokens": token,
        "payments": paid,
        "expected_payments": expected,
        "log_prob": log_prob,
    }
    defined = jnp.isfinite(log_prob)
    if isinstance(payment, base.SupportsDefined):
        defined &= payment.defined(bids, shown)
    return outcome, defined


def auction_keys(
    key: jax.Array, numbers: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """The data of the keys `(A, ...)` of auctions of these numbers, by position."""
    by_number = jax.vmap(keys.fold_in, (None, 0))(key, numbers)

    def at(position: jax.Array) -> jax.Array:
        # As numbers: JAX's check for keys that are used twice does not know slices.
        return jax.random.key_data(
            jax.vmap(keys.fold_in, (0, None))(by_number, position)
        )

    return at


def observed(
    observer: Observer | None,
    bids: jax.Array,
    log_probs: jax.Array,
    log_q: jax.Array,
    token: jax.Array,
    due: jax.Array,
    paid: jax.Array,
    observe_args: tuple[Any, ...],
) -> Any:
    """What an observer makes of one auction of one token."""
    if observer is None:
        return None
    payments = (due, paid) if getattr(observer, "sees_payments", False) else ()
    return observer(bids, log_probs, log_q, token, *payments, *observe_args)


def as_pytree(observer: Observer | None) -> Observer | None:
    """A function as a pytree, whose name is static."""
    if observer is None or not jax.tree_util.all_leaves([observer]):
        return observer
    return jax.tree_util.Partial(observer)


def keep(active: jax.Array, x: jax.Array) -> jax.Array:
    """`x` `(A, ...)` where its auction is active, else 0."""
    return jnp.where(active.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
