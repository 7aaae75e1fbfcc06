"""Checks of bidding policies."""

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.aggregation import linear
from tokenauction_jax.mechanism.payments import pay_your_bid
from tokenauction_jax.simulation import Bidders, Info, Policy, simulate
from tokenauction_jax.testing.auctions import (
    AGENTS,
    TOKENS,
    Arrays,
    random_auctions,
    seeded_key,
)
from tokenauction_jax.testing.fakes import random_pool
from tokenauction_jax.testing.subject import Methods, Subject, running

# Tokens of a text, and the agent whose policy is asked.
_STEPS, _AGENT = 4, 1


def check_policy(policy: Policy, *, seed: int = 0) -> None:
    """Checks a policy: what it bids and remembers, in auctions of all kinds.

    Bids are scalars, not negative, at most 1e30 and numbers whatever the agent sees:
    budgets that are infinite, spent or 0, large and small payments, tokens that nobody
    wants. The state keeps its structure, shapes and dtypes. The policy is a pytree of
    its numbers, and bids alike compiled, `vmap`ped or neither; it runs in `simulate`.

    Args:
      policy: The policy.
      seed: Of all that it sees.

    Raises:
      AssertionError: If a check fails.

    >>> import tokenauction_jax as ta
    >>> check_policy(ta.bidding.adaptive_pacing(2.0, rate=0.1))
    """
    seen = _random_sights(seed)
    subject = Subject(policy, Policy, _BIDS, seen, ((_STEPS,),))
    pays = getattr(policy, "pays", True)
    if not isinstance(pays, bool):
        subject.fail(f"pays is {pays!r}, neither True nor False")
    (bids,) = subject.answers(seen)
    subject.forbid("bids are negative", bids < 0, seen)
    subject.forbid("bids are above 1e30", bids > base.LARGEST_BID, seen)
    _run(policy, subject.name, seed)
    subject.check_transformations(np.zeros(len(bids), bool))


def _bids(policy: Policy, x: Arrays) -> jax.Array:
    """The bids for one text, `(T,)`."""
    seen = {name: value for name, value in x.items() if name != "budget"}
    state, bids = policy.init(), []
    for position in range(_STEPS):
        now = {name: value[position] for name, value in seen.items()}
        info = Info(agent=_AGENT, num_tokens=_STEPS, budget=x["budget"], **now)
        bid, state = policy.bid(state, info)
        bids.append(jnp.asarray(bid))
    return jnp.stack(bids)


_BIDS: Methods[Policy] = {"bid": _bids}


def _run(policy: Policy, name: str, seed: int) -> None:
    """Runs it as every agent of a few auctions, whose budgets bind."""
    mechanism = base.Mechanism(linear(), pay_your_bid())
    pool = random_pool(seeded_key(seed), AGENTS, TOKENS)
    bidders = Bidders([policy] * AGENTS, [np.inf, 1.0, 0.01])
    run = seeded_key(seed), mechanism, pool, bidders
    with running(f"{name} in simulate"):
        simulate(*run, num_tokens=_STEPS, num_auctions=2)


def _random_sights(seed: int) -> Arrays:
    """What is seen of texts, `(A, T, ...)`, of edge cases first."""
    rng = np.random.default_rng(seed)
    log_probs = random_auctions(seed)["log_probs"].reshape(-1, _STEPS, AGENTS, TOKENS)
    shape = log_probs.shape[:2]
    # Of the token before, which somebody wants.
    before = np.roll(log_probs, 1, axis=1)
    with np.errstate(divide="ignore"):
        log_q = np.log(np.exp(before).mean(axis=2))
    token = (log_q + rng.gumbel(size=log_q.shape)).argmax(axis=-1)

    def of_token(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, token[..., None], axis=-1)[..., 0]

    first = np.arange(_STEPS) == 0
    paid = 10 ** rng.uniform(-4, 4, (shape[0], 1)) * rng.exponential(size=shape)
    paid = np.where(first | (rng.random(shape) < 0.3), 0, paid)
    spent = paid.cumsum(axis=1)
    # Never bind, bind after the text, bind on the way, nothing to spend.
    budget = np.stack([np.full(shape[0], np.inf), 2 * spent[:, -1], spent[:, -2]], 1)
    budget = np.concatenate([budget, np.zeros((shape[0], 1))], axis=1)
    budget = budget[np.arange(shape[0]), np.arange(shape[0]) % 4][:, None]
    paid, spent = np.minimum(paid, budget), np.minimum(spent, budget)
    money = {"spent": spent, "remaining": budget - spent, "last_payment": paid}
    logs = {
        "last_log_prob": of_token(before[:, :, _AGENT]),
        "last_log_q": of_token(log_q),
    }
    logs = {name: np.where(first, 0, x) for name, x in logs.items()}
    reals = {"budget": budget[:, 0], "log_probs": log_probs, **money, **logs}
    return {
        "position": np.tile(np.arange(_STEPS, dtype=np.int32), (shape[0], 1)),
        "last_token": np.where(first, -1, token).astype(np.int32),
        **{name: x.astype(np.float32) for name, x in reals.items()},
    }
