"""Checks of payments: against themselves, and against the critical bid."""

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing.draws import mean_fault
from tokenauction_jax.auditing.properties.chance import (
    deviation_by_chance,
    mean_by_chance,
)
from tokenauction_jax.auditing.properties.payment import (
    charge_claims,
    is_priced,
    mean_claims,
)
from tokenauction_jax.auditing.rules import Rules
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.myerson import myerson
from tokenauction_jax.mechanism.valuations import total_variation
from tokenauction_jax.testing.auctions import (
    AGENTS,
    TOKENS,
    Arrays,
    random_auctions,
    random_changes,
    seeded_key,
    take,
)
from tokenauction_jax.testing.invariances import check_neutral, check_shifts
from tokenauction_jax.testing.rules import check_monotone
from tokenauction_jax.testing.subject import (
    OUTCOME,
    Methods,
    Subject,
    aggregate_paths,
    batched,
    check_record,
    running,
)

# Auctions, and draws in each, of payments given each token.
_PAID, _PAYMENTS = 12, 2048
# Tokens given which payments are drawn many times: half of them the dearest ones.
_TOKENS = 128
# Own bids as shares of the own.
_SHARES = np.linspace(0, 1, 16, endpoint=False, dtype=np.float32)
_PAYMENT: Methods[base.Payment] = {
    "expected": lambda rule, x: rule.expected(x["bids"], x["log_probs"]),
    "conditional": lambda rule, x: rule.conditional(
        x["bids"], x["log_probs"], x["token"]
    ),
    "realized": lambda rule, x: rule.realized(
        seeded_key(x["seed"]), x["bids"], x["log_probs"], x["token"]
    ),
}


def check_payment(
    payment: base.Payment, aggregation: base.Aggregation, *, seed: int = 0
) -> None:
    """Checks that a payment is finite, not negative, and agrees with itself.

    `expected` is the mean of `conditional` over tokens, and `conditional` that of
    `realized` over keys, or is it if the class says ``deterministic = True``. The
    agents' order does not matter and payments scale with bids. The rule is a pytree,
    answers alike compiled, `vmap`ped or neither, and `expected` has finite gradients
    where the aggregation has finite first and second ones. Undefined auctions may raise
    `ValueError` on concrete values.

    The mean of `conditional` is exact, over the whole vocabulary: a fault of 0.1 % of a
    payment is found for certain. Each draw is paired with its conditional mean, and the
    differences are held against empirical Bernstein bounds: for each token, where a
    fault of a tenth of the bid is found, and over all of them, where one of 1 % of all
    payments is in 99 of 100 calls. (That needs laws no wider than a second price's. Of
    one that is all or nothing it finds 2 %.) Bounds take a payment to lie between 0 and
    the bid; the largest one seen stands in for a bid that it exceeds, and then the rate
    of false alarms is not exact (without any bound no test has one).

    Args:
      payment: The rule.
      aggregation: The rule that tokens are drawn from, itself checked before.
      seed: Of all random auctions and draws.

    Raises:
      AssertionError: If a check fails.
    """
    _examine_payment(payment, aggregation, seed)


def check_second_price(
    payment: base.Payment, aggregation: base.Aggregation, *, seed: int = 0
) -> None:
    """Checks a payment that charges the winner of a token its critical bid.

    With ``q_s`` the aggregate at an own bid of ``s``, ``r = q_0`` and
    ``T+ = {y: p_i(y) > r(y)}``: the aggregation is monotone, searched as in
    `check_aggregation` whatever it claims, since otherwise there is no critical bid;
    `check_payment` passes; `expected` is ``integral_0^b s dq_s(T+)``; and given a token
    ``y`` the payment is at most ``s`` with probability ``max(q_s(y), r(y)) / q(y)``, by
    the bound of Dvoretzky, Kiefer and Wolfowitz, so that it is 0 outside T+.

    Args:
      payment: The rule.
      aggregation: The rule that tokens are drawn from, itself checked before.
      seed: Of all random auctions and draws.

    Raises:
      AssertionError: If a check fails.
    """
    shapes = (AGENTS,), (TOKENS,)
    auctions = random_auctions(seed)
    rule = Subject(aggregation, base.Aggregation, OUTCOME, auctions, shapes)
    check_monotone(rule, seed)
    subject, expected, rows, pays = _examine_payment(payment, aggregation, seed)
    critical = myerson(aggregation, total_variation())
    wanted = batched(_PAYMENT["expected"], critical, auctions)
    unit = 10 * auctions["bids"].sum(axis=-1)
    what = "expected, against the mean critical bid,"
    subject.agree(what, expected, wanted, auctions, unit)

    q = rule.answers(auctions)[1][rows][:, None, None]
    auctions = take(auctions, rows)
    # Axes: auctions, agents, own bids, tokens.
    own_bids = auctions["bids"][..., None] * _SHARES
    path = aggregate_paths(aggregation, auctions, own_bids)
    r = np.where(path[:, :, :1].any(axis=-1, keepdims=True), path[:, :, :1], q)
    law = np.minimum(np.maximum(path, r) / np.where(q > 0, q, 1), 1)
    limits = own_bids + 1e-6 * auctions["bids"].sum(axis=-1)[:, None, None]
    below = np.moveaxis(pays, -1, 1)[:, :, None] <= limits[..., None, None]
    chance = deviation_by_chance(_PAYMENTS, law.size)
    what = "how often the critical bid is within own bids, for agent, own bid, token,"
    paid = np.where(q > 0, below.mean(axis=-1), law)
    subject.agree(what, paid, law, auctions, chance=chance)


def _examine_payment(
    payment: base.Payment, aggregation: base.Aggregation, seed: int
) -> tuple[Subject, np.ndarray, np.ndarray, np.ndarray]:
    """The work of `check_payment`.

    Returns:
      The payment, what it expects `(A, n)`, which auctions were drawn from `(a,)`, and
      payments `(a, V, K, n)` drawn given each token.
    """
    auctions, changes = random_auctions(seed), random_changes(seed)
    check_record(aggregation, base.Aggregation)
    q = batched(OUTCOME["log_prob"], aggregation, auctions)
    clocks = np.random.default_rng(seed).exponential(size=q.shape)
    auctions |= {
        "token": (q / clocks).argmax(axis=-1).astype(np.int32),
        "seed": np.arange(len(q), dtype=np.uint32),
    }
    subject = Subject(payment, base.Payment, _PAYMENT, auctions, ((AGENTS,),) * 3)
    with running(f"{subject.name} in a Mechanism"):
        base.Mechanism(aggregation, payment)
    priced = q.any(axis=-1) & batched(
        lambda rule, x: is_priced(rule, x["bids"], x["log_probs"]), payment, auctions
    )
    plain, permuted, scaled = (
        dict(zip(_PAYMENT, answers, strict=True))
        for answers in subject.symmetric_answers(changes)
    )
    # Of draws only the law is the same.
    del permuted["realized"], scaled["realized"]
    charges, bids = (plain, permuted, scaled), auctions["bids"]
    changed = changes["order"], changes["scale"]
    subject.hold(charge_claims, *charges, bids, *changed, shown=auctions | changes)
    unit = bids.sum(axis=-1)
    subject.check_transformations(~priced, unit)
    smooth = batched(_is_smooth, aggregation, auctions)
    subject.check_gradients("expected", where=smooth)
    means = {name: _PAYMENT[name] for name in ("expected", "conditional")}
    for check in (check_neutral, check_shifts):
        check(subject, means, auctions, unit)

    rows = np.flatnonzero(priced)[:_PAID]
    q, drawn = q[rows][..., None], take(auctions, rows)
    given, pays = _draw(payment, drawn, seed)
    given, pays = np.where(q > 0, given, 0), np.where(q[..., None] > 0, pays, 0)
    means = q[..., 0], given, plain["expected"][rows], drawn["bids"]
    subject.hold(mean_claims, *means, shown=drawn)
    subject.forbid("realized is infinite or NaN", ~np.isfinite(pays), drawn)
    what = "the negative part of realized given a token"
    subject.agree(what, np.minimum(pays, 0), 0, drawn, unit[rows])
    _check_means(subject, drawn, given, pays)
    draws = (pays != given[:, :, None]).any()
    if draws and getattr(payment, "deterministic", False):
        subject.fail("deterministic is True, but realized differs from conditional")
    if draws:
        _check_mean_over_tokens(subject, Rules(aggregation, payment), drawn, given)
    return subject, plain["expected"], rows, pays


def _is_smooth(aggregation: base.Aggregation, x: Arrays) -> jax.Array:
    """Whether the aggregate has finite first and second derivatives in the bids.

    One that has not, as a logarithm of 0 or a power at a bid of 0, leaves none to a
    payment that is made from it.
    """

    def log_q(bids: jax.Array, log_probs: jax.Array) -> jax.Array:
        found = aggregation.log_prob(bids, log_probs)
        return jnp.where(jnp.isfinite(found), found, 0).sum()

    def slope(bids: jax.Array, log_probs: jax.Array) -> jax.Array:
        return jax.grad(log_q)(bids, log_probs).sum()

    slopes = jax.grad(log_q, (0, 1)), jax.grad(slope, (0, 1))
    found = [of(x["bids"], x["log_probs"]) for of in slopes]
    return jnp.array([jnp.isfinite(y).all() for y in jax.tree.leaves(found)]).all()


def _draw(payment: base.Payment, auctions: Arrays, seed: int) -> list[np.ndarray]:
    """Conditional payments `(A, V, n)` and drawn ones `(A, V, K, n)` given tokens."""

    def draw(payment: base.Payment, x: Arrays) -> tuple[jax.Array, jax.Array]:
        auction, tokens = (x["bids"], x["log_probs"]), jnp.arange(TOKENS)
        given = jax.vmap(lambda token: payment.conditional(*auction, token))(tokens)
        by_key = jax.vmap(payment.realized, (0, None, None, None))
        by_token = jax.vmap(by_key, (0, None, None, 0))
        return given, by_token(x["keys"], *auction, tokens)

    shape = len(auctions["bids"]), TOKENS, _PAYMENTS
    keys = {"keys": jax.random.split(seeded_key(seed), shape)}
    return [x.astype(float) for x in batched(draw, payment, auctions | keys)]


def _check_means(
    subject: Subject, auctions: Arrays, given: np.ndarray, pays: np.ndarray
) -> None:
    """Holds drawn payments against what they should be on average, given a token."""
    bound = np.maximum(auctions["bids"][:, None], np.maximum(pays.max(axis=2), given))
    shares = (pays - given[:, :, None]) / np.where(bound > 0, bound, 1)[:, :, None]
    found, variance = shares.mean(axis=2), shares.var(axis=2, ddof=1)
    chance = mean_by_chance(variance, _PAYMENTS, 1, given.size)
    what = "the mean of realized less conditional, in bids, for token and agent"
    subject.agree(what, found, 0, auctions, chance=chance)


def _check_mean_over_tokens(
    subject: Subject, rules: Rules, auctions: Arrays, given: np.ndarray
) -> None:
    """The same over many draws, given the tokens that cost an agent most of its bid."""
    bids = auctions["bids"]
    shares = given / np.where(bids > 0, bids, 1)[:, None]
    # Axes: auctions, tokens.
    by_share = np.argsort(-shares.max(axis=-1), axis=None, kind="stable")
    half = _TOKENS // 2
    spread = np.linspace(0, by_share.size - 1, half).astype(int)
    chosen = np.append(np.resize(by_share, half), by_share[spread])
    rows, tokens = np.unravel_index(chosen, shares.shape[:2])
    case = bids[rows], auctions["log_probs"][rows], tokens.astype(np.int32)
    with running(f"{subject.name}: realized"):
        fault, tested = mean_fault(rules, *case, np.arange(_TOKENS, dtype=np.uint32))
    if fault:
        subject.fail(
            "the mean of realized less conditional, relative to the payment, over all "
            f"tokens is off by {fault:.2%} in {tested}",
            take(auctions, rows[0]),
        )
