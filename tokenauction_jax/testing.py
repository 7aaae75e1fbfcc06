"""Checks that rules and pools of your own keep the package's contract, and fake agents.

Call the checks from your tests. Each runs its object on random auctions of 3 agents and
8 tokens and on edge cases, and raises `AssertionError` with the check that fails, by
how much, and the bids and distributions that show it. Numbers agree if they differ by
at most 1e-4 of their size plus 1e-6 (of the sum of bids, if they are money). Draws are
fixed by `seed`: over all seeds, a right rule fails fewer than one call in 1e8.

>>> import tokenauction_jax as ta
>>> from tokenauction_jax import testing
>>> testing.check_valuation(ta.total_variation())
>>> testing.check_valuation(ta.linear())
Traceback (most recent call last):
AssertionError: 'linear' is no Valuation: it has no 'value'
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.agents.tabular import TabularPool, tabular
from tokenauction_jax.auditing import Counterexample, properties, search
from tokenauction_jax.auditing.instances import random_instances
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.myerson import myerson
from tokenauction_jax.mechanism.valuations import total_variation

# Arrays by name, of one auction or of `A` stacked ones.
Arrays = dict[str, Any]
Methods = Mapping[str, Callable[[Any, Arrays], jax.Array]]

# At two tokens even shared noise is stable.
_AGENTS, _TOKENS = 3, 8
_AUCTIONS, _SEARCHED = 64, 512
# Auctions, and draws in each: of payments given each token, and of stable samples.
_PAID, _PAYMENTS = 12, 2048
_SAMPLED, _SAMPLES = 16, 8192
# Of each statistical test, all of its comparisons together.
_FALSE_ALARM = 1e-9
# Own bids as multiples of the others', and as shares of the own.
_LADDER = np.array([0, 0.1, 0.3, 1, 3, 10], np.float32)
_SHARES = np.linspace(0, 1, 16, endpoint=False, dtype=np.float32)
# Of the auctions, one with zero bids and probabilities. A permutation of the agents.
_ZEROS = 2
_ORDER = np.array([2, 0, 1])

# The methods of a rule as functions of one auction; distributions as probabilities.
_OUTCOME: Methods = {
    "weights": lambda rule, x: rule.weights(x["bids"]),
    "log_prob": lambda rule, x: jnp.exp(rule.log_prob(x["bids"], x["log_probs"])),
}
_VALUE: Methods = {"value": lambda rule, x: rule.value(x["log_q"], x["log_p"])}
_PAYMENT: Methods = {
    "expected": lambda rule, x: rule.expected(x["bids"], x["log_probs"]),
    "conditional": lambda rule, x: rule.conditional(
        x["bids"], x["log_probs"], x["token"]
    ),
    "realized": lambda rule, x: rule.realized(
        _key(x["seed"]), x["bids"], x["log_probs"], x["token"]
    ),
}


def check_aggregation(aggregation: base.Aggregation, *, seed: int = 0) -> None:
    """Checks an aggregation: its weights, its distribution, and what it claims.

    Weights `(n,)` and probabilities `(V,)` are numbers that sum to one, whatever is
    zero or equal. An undefined auction is all ``-inf`` when compiled and may raise
    `ValueError` on concrete values; one where every agent has every token is defined. A
    lone bidder gets its own distribution, a zero bidder has no say, and neither the
    agents' order nor the unit of bids matters. The rule is a pytree of its numbers,
    answers alike compiled, `vmap`ped or neither, and has finite gradients. One that
    claims to be `monotone` is, on random instances and on what an adversary makes of
    the worst of them.

    Args:
      aggregation: The rule.
      seed: Of all random auctions.

    Raises:
      AssertionError: If a check fails.

    >>> import tokenauction_jax as ta
    >>> check_aggregation(ta.log_linear())
    """
    auctions = _auctions(seed)
    shapes = (_AGENTS,), (_TOKENS,)
    subject = _Subject(aggregation, base.Aggregation, _OUTCOME, auctions, shapes)
    monotone = getattr(type(aggregation), "monotone", None)
    if not isinstance(monotone, bool):
        subject.fail(f"monotone is {monotone!r} in its class, neither True nor False")
    bids, log_probs = auctions["bids"], auctions["log_probs"]
    weights, q = subject.answers(auctions)
    undefined = np.asarray(~q.any(axis=-1))
    subject.agree("the negative part of weights", np.minimum(weights, 0), 0, auctions)
    subject.agree("the sum of weights", weights.sum(axis=-1), 1, auctions)
    subject.agree("the sum of probabilities", q.sum(axis=-1), 1.0 - undefined, auctions)
    wrong = undefined & np.isfinite(log_probs).all(axis=(1, 2))
    subject.forbid("undefined, though every agent has every token", wrong, auctions)

    own = np.arange(len(bids))[:, None] % _AGENTS == np.arange(_AGENTS)
    p = np.exp(log_probs[own])
    lone = auctions | {"bids": np.float32(2) * own}
    single = {"bids": 1 + bids[:, :1], "log_probs": log_probs[own][:, None]}
    silent = auctions | {"bids": np.where(own, 0, 1 + bids)}
    turned = np.where(own[..., None], log_probs[..., ::-1], log_probs)
    turned = silent | {"log_probs": turned}
    weights_silent, q_silent = subject.answers(silent)
    subject.agree("the weight of a zero bidder", weights_silent[own], 0, silent)
    permuted = {name: x[:, _ORDER] for name, x in auctions.items()}
    for what, case, wanted, wanted_q in (
        ("with a lone bidder", lone, 1.0 * own, p),
        ("with one agent", single, np.ones((len(bids), 1)), p),
        ("once a zero bidder wants something else", turned, weights_silent, q_silent),
        ("in another order", permuted, weights[:, _ORDER], q),
        ("with scaled bids", auctions | {"bids": 1000 * bids}, weights, q),
    ):
        found, found_q = subject.answers(case)
        subject.agree(f"weights {what}", found, wanted, case)
        subject.agree(f"probabilities {what}", found_q, wanted_q, case)
    subject.check_transformations(undefined)
    subject.check_gradients("weights", "log_prob")
    if monotone:
        _check_monotone(subject, seed)


def check_valuation(valuation: base.Valuation, *, seed: int = 0) -> None:
    """Checks a valuation: a scalar, at most 0, and 0 for the preferred distribution.

    It may be ``-inf`` but not NaN. It is a pytree, answers alike compiled, `vmap`ped or
    neither, and has finite gradients.

    Args:
      valuation: The valuation.
      seed: Of all random distributions.

    Raises:
      AssertionError: If a check fails.
    """
    log_probs = _auctions(seed)["log_probs"]
    pairs = {"log_q": log_probs[:, 0], "log_p": log_probs[:, 1]}
    subject = _Subject(valuation, base.Valuation, _VALUE, pairs, ((),))
    (values,) = subject.answers(pairs)
    subject.agree("the positive part of value", np.maximum(values, 0), 0, pairs)
    same = pairs | {"log_q": pairs["log_p"]}
    subject.agree("value of what is preferred", subject.answers(same)[0], 0, same)
    subject.check_transformations(np.zeros(len(values), bool))
    subject.check_gradients("value")


def check_payment(
    payment: base.Payment, aggregation: base.Aggregation, *, seed: int = 0
) -> None:
    """Checks that a payment is finite, not negative, and agrees with itself.

    `expected` is the mean of `conditional` over tokens, and `conditional` that of
    `realized` over keys. The agents' order does not matter and payments scale with
    bids. The rule is a pytree, answers alike compiled, `vmap`ped or neither, and
    `expected` has finite gradients. Undefined auctions may raise `ValueError` on
    concrete values.

    Draws are held against empirical Bernstein bounds, for each token and over all of
    them, where a small bias shows. These take a payment to lie between 0 and the bid;
    the largest one seen stands in for a bid that it exceeds, and then the rate of false
    alarms is not exact (without any bound no test has one).

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
    shapes = (_AGENTS,), (_TOKENS,)
    auctions = _auctions(seed)
    rule = _Subject(aggregation, base.Aggregation, _OUTCOME, auctions, shapes)
    _check_monotone(rule, seed)
    subject, expected, rows, pays = _examine_payment(payment, aggregation, seed)
    critical = myerson(aggregation, total_variation())
    wanted = _batched(_PAYMENT["expected"], critical, auctions)
    unit = 10 * auctions["bids"].sum(axis=-1, keepdims=True)
    what = "expected, against the mean critical bid,"
    subject.agree(what, expected, wanted, auctions, unit)

    q = rule.answers(auctions)[1][rows][:, None, None]
    auctions = _rows(auctions, rows)
    # Axes: auctions, agents, own bids, tokens.
    own_bids = auctions["bids"][..., None] * _SHARES
    path = _paths(aggregation, auctions, own_bids)
    r = np.where(path[:, :, :1].any(axis=-1, keepdims=True), path[:, :, :1], q)
    law = np.minimum(np.maximum(path, r) / np.where(q > 0, q, 1), 1)
    limits = own_bids + 1e-6 * auctions["bids"].sum(axis=-1)[:, None, None]
    below = np.moveaxis(pays, -1, 1)[:, :, None] <= limits[..., None, None]
    chance = math.sqrt(math.log(2 * law.size / _FALSE_ALARM) / (2 * _PAYMENTS))
    what = "how often the critical bid is within own bids, for agent, own bid, token,"
    paid = np.where(q > 0, below.mean(axis=-1), law)
    subject.agree(what, paid, law, auctions, chance=chance)


def check_stable_sampler(
    sampler: properties.Sampler, aggregation: base.Aggregation, *, seed: int = 0
) -> None:
    """Checks a sampler that is called as `tokenauction_jax.stable_sample` is.

    With one key and rising own bids, the token changes at most once, from outside
    ``T+ = {t: p_i(t) > r(t)}`` into it, where ``r`` is the aggregate without the agent.
    At each own bid, in whatever order they come, it has the law of the aggregate, by
    Bernstein's bound. Noise that all own bids share, of Gumbel or as one uniform, gives
    the right law but is not stable.

    Args:
      sampler: Called with ``(key, aggregation, agent, own_bids, bids, log_probs)``, of
        which `own_bids` are `(k,)`; returns tokens `(k,)`, integers.
      aggregation: A monotone rule, itself checked before.
      seed: Of all random auctions and draws.

    Raises:
      AssertionError: If a check fails.
    """

    def draw(aggregation: base.Aggregation, x: Arrays) -> jax.Array:
        keys = jax.random.split(_key(x["seed"]), _SAMPLES)
        path = x["agent"], x["own_bids"], x["bids"], x["log_probs"]
        return jax.vmap(lambda key: sampler(key, aggregation, *path))(keys)

    auctions, rows = _rows(_auctions(seed), slice(_SAMPLED)), np.arange(_SAMPLED)
    agents, bids = rows % _AGENTS, auctions["bids"]
    others = bids.sum(axis=-1, keepdims=True) - bids
    own_bids = np.where(others > 0, others, 1)[..., None] * _LADDER
    path = _paths(aggregation, auctions, own_bids)[rows, agents]
    auctions |= {"agent": agents.astype(np.int32), "own_bids": own_bids[rows, agents]}
    auctions |= {"seed": (rows + _SAMPLED * seed).astype(np.uint32)}
    name = getattr(sampler, "__name__", type(sampler).__name__)
    methods, shapes = {name: draw}, ((_SAMPLES, _LADDER.size),)
    subject = _Subject(
        aggregation, base.Aggregation, methods, auctions, shapes, np.integer
    )
    (tokens,) = subject.answers(auctions)
    foreign = (tokens < 0) | (tokens >= _TOKENS)
    subject.forbid(f"{name} draws a token that does not exist", foreign, auctions)
    turned = auctions | {"own_bids": auctions["own_bids"][:, ::-1]}
    moved = subject.answers(turned)[0][..., ::-1] != tokens
    subject.forbid(f"{name} depends on the order of own bids", moved, auctions)

    defined = np.asarray(path.any(axis=-1))
    gain = np.exp(auctions["log_probs"][rows, agents]) - path[:, 0]
    gains = gain[rows[:, None, None], tokens]
    # A tie up to rounding may count as in T+ or not.
    allowed = (gains[..., :-1] < 1e-6) & (gains[..., 1:] > -1e-6)
    changed = tokens[..., 1:] != tokens[..., :-1]
    changed &= (defined[:, 1:] & defined[:, :-1])[:, None]
    wrong = (changed & ~allowed).any(axis=-1) | (changed.sum(axis=-1) > 1)
    if wrong.any():
        row, number = np.argwhere(wrong)[0]
        subject.fail(
            f"{name} is not stable: in {wrong.mean():.2%} of draws a rising bid "
            "changes the token twice, or not from outside T+ into it; with T+ = "
            f"{np.flatnonzero(gain[row] > 0)} it draws {tokens[row, number]}",
            _rows(auctions, row),
        )
    drawn = (tokens[..., None] == np.arange(_TOKENS)).mean(axis=1)
    drawn = np.where(defined[..., None], drawn, path)
    log_term = math.log(2 * drawn.size / _FALSE_ALARM)
    chance = np.sqrt(2 * path * (1 - path) * log_term / _SAMPLES)
    chance += 2 * log_term / (3 * _SAMPLES)
    what = f"the frequency of tokens by {name}, for own bid and token,"
    subject.agree(what, drawn, path, auctions, chance=chance)


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
    name, (size, steps) = _check_record(pool, AgentPool), (4, 4)
    for member in ("num_agents", "vocab_size"):
        number = getattr(pool, member)
        if not isinstance(number, int | np.integer) or number < 1:
            _fail(f"{name}: {member} is {number!r}, not a positive integer")
    if pool.end_token is not None and pool.end_token not in range(pool.vocab_size):
        _fail(f"{name}: end_token is {pool.end_token!r}, neither None nor a token")

    def start(pool: AgentPool, first: Any, num_auctions: int) -> Any:
        numbers = {"first_auction": jnp.uint32(first), "num_tokens": steps}
        return pool.init(num_auctions, key=_key(seed), **numbers)

    @jax.jit
    def scan(pool: AgentPool, first: Any, tokens: jax.Array) -> jax.Array:
        state = start(pool, first, tokens.shape[1])
        return jnp.exp(lax.scan(pool.step, state, tokens)[1])

    def probs(first: int, tokens: np.ndarray) -> np.ndarray:
        with _running(f"{name} compiled"):
            return np.asarray(scan(pool, first, jnp.asarray(tokens)))

    rng = np.random.default_rng(seed)
    tokens = rng.integers(pool.vocab_size, size=(steps, size), dtype=np.int32)
    tokens[0] = -1
    with _running(f"{name} step by step"):
        state, by_step, layouts = start(pool, 0, size), [], set()
        layouts.add(_layout(state))
        for token in tokens:
            state, log_probs = pool.step(state, jnp.asarray(token))
            layouts.add(_layout(state))
            by_step.append(log_probs)
    wanted, found = [size, pool.num_agents, pool.vocab_size], by_step[0]
    if list(found.shape) != wanted or not jnp.issubdtype(found.dtype, jnp.floating):
        _fail(f"{name}: step returns {_layout(found)}, not float{wanted}")
    if len(layouts) > 1:
        _fail(f"{name}: the state changes its layout: {' or '.join(layouts)}")
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
            _fail(f"{name}: answers differ {what}, by {differ.max():.3g}", rows)


def random_log_probs(key: jax.Array, num_agents: int, vocab_size: int) -> jax.Array:
    """Log-probabilities `(n, V)` of agents that disagree, all of them finite.

    >>> import jax
    >>> random_log_probs(jax.random.key(0), 2, 5).shape
    (2, 5)
    """
    return distributions.normalize(2 * jax.random.normal(key, (num_agents, vocab_size)))


def random_pool(key: jax.Array, num_agents: int, vocab_size: int) -> TabularPool:
    """Fake agents: random Markov chains, whose texts only end at their cap."""
    rows = random_log_probs(key, num_agents * vocab_size, vocab_size)
    return tabular(rows.reshape(num_agents, vocab_size, vocab_size))


class _Subject:
    """A rule, and its methods as one compiled function of stacked auctions."""

    def __init__(
        self,
        rule: Any,
        kind: type,
        methods: Methods,
        auctions: Arrays,
        shapes: tuple[tuple[int, ...], ...],
        dtype: Any = np.float32,
    ):
        """Checks that `rule` is a `kind` whose answers have these shapes."""
        self.rule, self.methods, self.auctions = rule, methods, auctions
        self.name = _check_record(rule, kind)
        self._traces, self._batch = 0, jax.jit(self._together)
        first = _rows(auctions, 0)
        for (method, function), shape in zip(methods.items(), shapes, strict=True):
            with _running(f"{self.name}: {method}", first):
                found = jax.eval_shape(function, rule, first)
            array = isinstance(found, jax.ShapeDtypeStruct) and found.shape == shape
            if not array or not jnp.issubdtype(found.dtype, dtype):
                wanted = f"{dtype.__name__}{list(shape)}"
                self.fail(f"{method} returns {_layout(found)}, not {wanted}", first)

    def _call(self, rule: Any, auction: Arrays) -> list[jax.Array]:
        return [function(rule, auction) for function in self.methods.values()]

    def _together(self, rule: Any, auctions: Arrays) -> list[jax.Array]:
        self._traces += 1
        return jax.vmap(self._call, (None, 0))(rule, auctions)

    def answers(self, auctions: Arrays) -> list[np.ndarray]:
        """What the methods answer, stacked."""
        with _running(f"{self.name} compiled and vmapped"):
            answers = jax.device_get(self._batch(self.rule, auctions))
        for method, answer in zip(self.methods, answers, strict=True):
            self.forbid(f"{method} is NaN", np.isnan(answer), auctions)
        return answers

    def check_transformations(self, undefined: np.ndarray, unit: Any = 1.0) -> None:
        """Other numbers are not traced again, and give the same one by one, eagerly."""
        self.answers(self.auctions)
        traces, other = self._traces, jax.tree.map(_nudged, self.rule)
        auction, case = _rows(self.auctions, _ZEROS), _rows(self.auctions, [_ZEROS])
        with _running(f"{self.name} with other numbers", auction):
            compiled = jax.device_get(self._batch(other, self.auctions))
            try:
                eager = self._call(other, auction)
            except ValueError:
                if not undefined[_ZEROS]:
                    raise
                eager = [x[_ZEROS] for x in compiled]
        if self._traces > traces:
            self.fail("other numbers trace it again: not all are leaves of its pytree")
        size = unit[[_ZEROS]] if np.ndim(unit) else unit
        for method, x, y in zip(self.methods, compiled, eager, strict=True):
            what = f"{method} compiled under vmap, not as it is,"
            self.agree(what, x[[_ZEROS]], np.asarray(y)[None], case, size)

    def check_gradients(self, *names: str) -> None:
        """Of the finite part of the answers, in all real numbers of an auction."""
        auctions = self.auctions
        real = {name: x for name, x in auctions.items() if x.dtype == np.float32}
        for name in names:

            def loss(real: Arrays, rule: Any, x: Arrays, name: str = name) -> jax.Array:
                answer = self.methods[name](rule, x | real)
                return jnp.where(jnp.isfinite(answer), answer, 0).sum()

            with _running(f"{self.name}: the gradient of {name}"):
                slopes = jax.jit(jax.vmap(jax.grad(loss), (0, None, 0)))
                slopes = jax.device_get(slopes(real, self.rule, auctions))
            for argument, slope in slopes.items():
                what = f"the gradient of {name} in {argument} is infinite or NaN"
                self.forbid(what, ~np.isfinite(slope), auctions)

    def agree(
        self,
        what: str,
        found: np.ndarray,
        wanted: Any,
        auctions: Arrays,
        unit: Any = 1.0,
        chance: Any = 0.0,
    ) -> None:
        """Fails where numbers `(A, ...)` differ by more than rounding and chance."""
        found, wanted = np.asarray(found, float), np.asarray(wanted, float)
        with np.errstate(invalid="ignore"):
            differ = np.where(found == wanted, 0, np.abs(found - wanted))
            allowed = chance + 1e-4 * np.abs(wanted) + 1e-6 * unit
            excess = np.nan_to_num(differ / allowed, nan=np.inf)
        wanted, allowed = (np.broadcast_to(x, found.shape) for x in (wanted, allowed))
        if (excess > 1).any():
            place = np.unravel_index(excess.argmax(), excess.shape)
            index = list(map(int, place[1:])) or ""
            self.fail(
                f"{what} is {found[place]:.6g}{f' at {index}' if index else ''}, "
                f"expected {wanted[place]:.6g} (off by {differ[place]:.3g}, allowed "
                f"{allowed[place]:.3g})",
                _rows(auctions, place[0]),
            )

    def forbid(self, what: str, wrong: np.ndarray, auctions: Arrays) -> None:
        """Fails at the first auction with anything wrong, `(A, ...)`."""
        wrong = np.asarray(wrong.reshape(len(wrong), -1).any(axis=-1))
        if wrong.any():
            where = f" in {wrong.sum()} of {wrong.size} auctions"
            self.fail(what + where, _rows(auctions, wrong.argmax()))

    def fail(self, what: str, auction: Arrays | None = None) -> NoReturn:
        """Raises `AssertionError` about the rule, showing an auction."""
        _fail(f"{self.name}: {what}", auction)


def _check_record(rule: Any, kind: type) -> str:
    """The name of a rule, if it has all members and is a pytree of its numbers."""
    name = repr(getattr(rule, "name", type(rule).__name__))
    for member in sorted(set(dir(kind)) | set(kind.__annotations__)):
        if not member.startswith("_") and not hasattr(rule, member):
            _fail(f"{name} is no {kind.__name__}: it has no {member!r}")
    leaves = jax.tree.leaves(rule)
    if any(leaf is rule for leaf in leaves):
        _fail(f"{name} is no pytree: decorate its class with tokenauction_jax.record")
    for field, value in getattr(rule, "__dict__", {}).items():
        number = isinstance(value, float | np.ndarray | np.floating | jax.Array)
        if number and not any(leaf is value for leaf in leaves):
            _fail(
                f"{name}: its number {field!r} is not a leaf of its pytree, so that "
                "another value is traced and compiled again"
            )
    return name


def _monotone_margin(rules: properties.Rules, instance: Any) -> Arrays:
    """The only margin of the audit that is searched here: all take longer."""
    name = properties.MONOTONE
    return {name: properties.aggregation_margins(rules, instance)[name]}


def _check_monotone(subject: _Subject, seed: int) -> None:
    """Searches random instances, and climbs from the worst, as an audit does."""
    name = properties.MONOTONE
    # Samplers are known by identity: without this every search would be compiled.
    rules = dataclasses.replace(properties.bundle(subject.rule), sampler=None)
    with _running(f"{subject.name} in the search for violations"):
        instances = random_instances(seed, _SEARCHED, _AGENTS, _TOKENS)
        margins = search.evaluate(_monotone_margin, rules, instances)[name]
        worst, targets = search.starts([margins])
        worst = jax.tree.map(lambda x: x[worst], instances)
        climbed = search.climb(_monotone_margin, (name,), rules, worst, targets)
        tried = jax.tree.map(lambda *x: np.concatenate(x), worst, climbed)
        margins = np.nan_to_num(search.evaluate(_monotone_margin, rules, tried)[name])
        if margins.max() <= 1e-5:
            return
        found = {name: jax.tree.map(lambda x: x[margins.argmax()], tried)}
        kept = {name: max(margins.max() / 10, 1e-5)}
        small = search.shrink(_monotone_margin, rules, found, kept)[name]
    subject.fail(
        "not monotone: a rising bid moves a token's probability away from the bidder's "
        f"or past it, by {margins.max():.3g} at worst and {kept[name]:.3g} or more in\n"
        f"  {Counterexample.from_instance(name, small)}"
    )


def _examine_payment(
    payment: base.Payment, aggregation: base.Aggregation, seed: int
) -> tuple[_Subject, np.ndarray, np.ndarray, np.ndarray]:
    """The work of `check_payment`.

    Returns:
      The payment, what it expects `(A, n)`, which auctions were drawn from `(a,)`, and
      payments `(a, V, K, n)` drawn given each token.
    """
    auctions, rng = _auctions(seed), np.random.default_rng(seed)
    _check_record(aggregation, base.Aggregation)
    q = _batched(_OUTCOME["log_prob"], aggregation, auctions)
    auctions |= {
        "token": (q / rng.exponential(size=q.shape)).argmax(axis=-1).astype(np.int32),
        "seed": np.arange(len(q), dtype=np.uint32),
    }
    shapes = ((_AGENTS,),) * 3
    subject = _Subject(payment, base.Payment, _PAYMENT, auctions, shapes)
    with _running(f"{subject.name} in a Mechanism"):
        base.Mechanism(aggregation, payment)
    defined = q.any(axis=-1)
    if hasattr(payment, "defined"):
        defined = defined & _batched(
            lambda rule, x: rule.defined(x["bids"], x["log_probs"]), payment, auctions
        )
    unit = auctions["bids"].sum(axis=-1, keepdims=True)
    answers = subject.answers(auctions)
    for name, pays in zip(_PAYMENT, answers, strict=True):
        subject.forbid(f"{name} is infinite", np.isinf(pays), auctions)
        what = f"the negative part of {name}"
        subject.agree(what, np.minimum(pays, 0), 0, auctions, unit)
    permuted = {name: x[:, _ORDER] for name, x in auctions.items() if x.ndim > 1}
    for what, moved, places, factor in (
        ("in another order", permuted, _ORDER, 1),
        ("with scaled bids", {"bids": 1000 * auctions["bids"]}, [0, 1, 2], 1000),
    ):
        found = subject.answers(auctions | moved)
        # Of draws only the law is the same.
        for name, x, y in list(zip(_PAYMENT, found, answers, strict=True))[:2]:
            y = factor * y[:, places]
            subject.agree(f"{name} {what}", x, y, auctions | moved, factor * unit)
    subject.check_transformations(np.asarray(~defined), unit)
    subject.check_gradients("expected")

    rows = np.flatnonzero(defined)[:_PAID]
    q, drawn = q[rows][..., None], _rows(auctions, rows)
    given, pays = _draw(payment, drawn, seed)
    given, pays = np.where(q > 0, given, 0), np.where(q[..., None] > 0, pays, 0)
    what, mean = "the mean of conditional, against expected,", (q * given).sum(axis=1)
    subject.agree(what, mean, answers[0][rows], drawn, unit[rows])
    wrong = ~np.isfinite(pays) | (pays < 0)
    subject.forbid("realized is infinite, NaN or negative", wrong, drawn)
    _check_means(subject, drawn, q[..., 0] > 0, given, pays)
    return subject, answers[0], rows, pays


def _draw(payment: Any, auctions: Arrays, seed: int) -> list[np.ndarray]:
    """Conditional payments `(A, V, n)` and drawn ones `(A, V, K, n)` given tokens."""

    def draw(payment: Any, x: Arrays) -> tuple[jax.Array, jax.Array]:
        auction, tokens = (x["bids"], x["log_probs"]), jnp.arange(_TOKENS)
        given = jax.vmap(lambda token: payment.conditional(*auction, token))(tokens)
        by_key = jax.vmap(payment.realized, (0, None, None, None))
        by_token = jax.vmap(by_key, (0, None, None, 0))
        return given, by_token(x["keys"], *auction, tokens)

    shape = len(auctions["bids"]), _TOKENS, _PAYMENTS
    keys = {"keys": jax.random.split(_key(seed), shape)}
    return [x.astype(float) for x in _batched(draw, payment, auctions | keys)]


def _check_means(
    subject: _Subject,
    auctions: Arrays,
    possible: np.ndarray,
    given: np.ndarray,
    pays: np.ndarray,
) -> None:
    """Holds drawn payments against what they should be on average, given tokens."""
    bound = np.maximum(auctions["bids"][:, None], np.maximum(pays.max(axis=2), given))
    shares = (pays - given[:, :, None]) / np.where(bound > 0, bound, 1)[:, :, None]
    log_term = math.log(4 * (given.size + _AGENTS) / _FALSE_ALARM)

    def means(draws: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        size, spread = draws.shape[-2], draws.var(axis=-2, ddof=1)
        chance = np.sqrt(2 * spread * log_term / size)
        return draws.mean(axis=-2), chance + 7 * length * log_term / (3 * (size - 1))

    found, chance = means(shares, 1)
    what = "the mean of realized less conditional, in bids,"
    subject.agree(f"{what} for token and agent", found, 0, auctions, chance=chance)
    # Over all tokens the draws lie in intervals of length 1, but not in the same one.
    worst = _rows(auctions, [np.abs(found).max(axis=(1, 2)).argmax()])
    found, chance = means(shares[possible].reshape(1, -1, _AGENTS), 2)
    subject.agree(f"{what} over all tokens, for agent", found, 0, worst, chance=chance)


def _paths(aggregation: Any, auctions: Arrays, own_bids: np.ndarray) -> np.ndarray:
    """Aggregates `(A, n, k, V)` at own bids `(A, n, k)`, 0 where there is none."""

    def path(aggregation: Any, x: Arrays) -> jax.Array:
        def q(agent: jax.Array, own_bid: jax.Array) -> jax.Array:
            bids = x["bids"].at[agent].set(own_bid)
            return jnp.exp(aggregation.log_prob(bids, x["log_probs"]))

        return jax.vmap(jax.vmap(q, (None, 0)))(jnp.arange(_AGENTS), x["own_bids"])

    # If nobody bids, a rule may answer anything.
    found = _batched(path, aggregation, auctions | {"own_bids": own_bids})
    return np.nan_to_num(found)


def _auctions(seed: int) -> Arrays:
    """Bids `(A, n)` and log-probabilities `(A, n, V)`: edge cases, then random ones."""
    instances = random_instances(seed, _AUCTIONS, _AGENTS, _TOKENS)
    bids, log_probs = instances.bids, instances.log_probs
    p = random_log_probs(_key(seed), _AGENTS, _TOKENS)
    some = np.arange(_TOKENS) % _AGENTS == np.arange(_AGENTS)[:, None]
    for row, (edge_bids, edge_log_probs) in enumerate(
        (
            ([1, 2, 3], p),
            ([1, 1, 1], jnp.tile(p[:1], (_AGENTS, 1))),
            ([1, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([0, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([1, 2, 3], jnp.where(some, p, -jnp.inf)),
            ([1, 2, 3], jnp.where(jnp.arange(_TOKENS)[None] == 1, p, -jnp.inf)),
        )
    ):
        bids[row], log_probs[row] = edge_bids, distributions.normalize(edge_log_probs)
    return {"bids": bids, "log_probs": log_probs}


def _batched(function: Callable[..., Any], rule: Any, auctions: Arrays) -> Any:
    # Compiled for each check: of two users' classes whose tree structures compare equal
    # a shared function may run one's program for the other.
    with _running(f"{getattr(rule, 'name', rule)!r} compiled and vmapped"):
        return jax.device_get(jax.jit(jax.vmap(function, (None, 0)))(rule, auctions))


def _rows(auctions: Arrays, index: Any) -> Arrays:
    return {name: x[index] for name, x in auctions.items()}


def _key(seed: Any) -> jax.Array:
    # Of this kind of key, vmap draws the same numbers as a loop.
    return jax.random.key(seed, impl="threefry2x32")


def _nudged(leaf: Any) -> Any:
    real = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    return leaf * 1.01 + 0.01 if real else leaf


def _layout(tree: Any) -> str:
    """The structure, shapes and dtypes of a tree."""
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", shapes))


@contextlib.contextmanager
def _running(what: str, auction: Arrays | None = None) -> Iterator[None]:
    """Turns whatever a user's code raises into an `AssertionError` about it."""
    try:
        yield
    except Exception as error:
        _fail(f"{what} raises {type(error).__name__}: {error}", auction, error)


def _fail(
    what: str, arrays: Arrays | None = None, cause: Exception | None = None
) -> NoReturn:
    """Raises `AssertionError`, showing arrays, with probabilities for their logs."""
    for name, x in (arrays or {}).items():
        if name.startswith("log_"):
            name = "probabilities" if name == "log_probs" else name[4:]
            x = np.exp(x)
        text = np.array2string(
            np.asarray(x),
            separator=", ",
            prefix=" " * (len(name) + 5),
            formatter={"float_kind": lambda value: f"{value:.6g}"},
        )
        what += f"\n  {name} = {text}"
    raise AssertionError(what) from cause
