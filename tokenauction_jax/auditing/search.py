"""The search for violations: random instances, then an adversary, then shrinking."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax.auditing.instances import (
    Instance,
    free_parts,
    with_parts,
    within_bounds,
)
from tokenauction_jax.auditing.rules import Rules

# Instances per call of the compiled margins, in every stage.
CHUNK = 64
# Of rules without loops compiling takes nearly all of the time: a third less this way.
_UNOPTIMISED = {"xla_backend_optimization_level": 0}
# Whether rules have loops, by their tree structure.
_LOOPS: dict[Any, bool] = {}
# From how many of the worst instances of each property the adversary starts.
_STARTS = 4
_STEPS = 30
_LEARNING_RATE = 0.1
# Rounding goes as far as a counterexample bears it.
_DIGITS = (3, 2, 1)

T = TypeVar("T")
# From rules and one instance to margins by property.
MarginFunction = Callable[[Rules, Instance], dict[str, jax.Array]]


def evaluate(
    margins: MarginFunction, rules: Rules, instances: Instance
) -> dict[str, np.ndarray]:
    """Margins `(K,)` by property of any number K of stacked instances."""
    size = instances.agent.shape[0]
    chunks = []
    for start in range(0, size, CHUNK):
        # The last one is filled up: one shape, one compilation.
        rows = np.minimum(np.arange(start, start + CHUNK), size - 1)
        chunk = jax.tree.map(lambda x, rows=rows: x[rows], instances)
        chunks.append(
            _margins[has_loops(rules, instances.bids, instances.log_probs)](
                margins, rules, chunk
            )
        )
    return jax.tree.map(lambda *x: np.concatenate(x)[:size], *jax.device_get(chunks))


def by_loops(function: Callable[..., T], *static: int) -> dict[bool, Callable[..., T]]:
    """A function compiled for rules without and with loops."""
    jitted = functools.partial(jax.jit, function, static_argnums=static)
    return {False: jitted(compiler_options=_UNOPTIMISED), True: jitted()}


def has_loops(rules: Rules, bids: ArrayLike, log_probs: ArrayLike) -> bool:
    """Whether the payment runs for long, such as one by quadrature.

    Args:
      rules: With or without a payment.
      bids: `(A, n)`, of any auctions.
      log_probs: `(A, n, V)`.
    """
    structure, payment = jax.tree.structure(rules), rules.payment
    if structure not in _LOOPS:
        auction = np.asarray(bids)[0], np.asarray(log_probs)[0]
        programs = (
            []
            if payment is None
            else [
                jax.make_jaxpr(payment.expected)(*auction),
                jax.make_jaxpr(payment.conditional)(*auction, 0),
            ]
        )
        _LOOPS[structure] = any(
            loop in str(program) for program in programs for loop in ("scan[", "while[")
        )
    return _LOOPS[structure]


def _stacked_margins(
    margins: MarginFunction, rules: Rules, instances: Instance
) -> dict[str, jax.Array]:
    return jax.vmap(margins, (None, 0))(rules, instances)


_margins = by_loops(_stacked_margins, 0)


def climb(
    margins: MarginFunction,
    names: tuple[str, ...],
    rules: Rules,
    instances: Instance,
    targets: np.ndarray,
    largest_log_bid: jax.Array | float,
) -> Instance:
    """Gradient ascent on the margin `names[target]` of each of stacked instances.

    Adam on logarithms of bids, up to `largest_log_bid` either way, and on logits.
    Returns the best instance met on each path.
    """
    ascend = _paths[has_loops(rules, instances.bids, instances.log_probs)]
    return ascend(margins, names, rules, instances, targets, largest_log_bid)


def _ascend(
    margins: MarginFunction,
    names: tuple[str, ...],
    rules: Rules,
    instances: Instance,
    targets: np.ndarray,
    largest_log_bid: jax.Array | float,
) -> Instance:
    """See `climb`."""

    def margin(
        parts: dict[str, jax.Array], instance: Instance, target: jax.Array
    ) -> jax.Array:
        found = margins(rules, with_parts(instance, parts))
        stacked = jnp.stack([found[name] for name in names])
        return stacked[target]

    optimizer = optax.adam(_LEARNING_RATE)

    def path(instance: Instance, target: jax.Array) -> Instance:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            parts, state, best, best_margin = carry
            value, slopes = jax.value_and_grad(margin)(parts, instance, target)
            better = value > best_margin
            best = jax.tree.map(lambda x, y: jnp.where(better, x, y), parts, best)
            best_margin = jnp.where(better, value, best_margin)
            # Ascent; where a rule has no slope, stay.
            slopes = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), -x, 0), slopes)
            updates, state = optimizer.update(slopes, state)
            moved = within_bounds(
                jax.tree.map(jnp.add, parts, updates), largest_log_bid
            )
            return (moved, state, best, best_margin), None

        parts = within_bounds(free_parts(instance), largest_log_bid)
        carry = (parts, optimizer.init(parts), parts, jnp.asarray(-jnp.inf))
        (_, _, best, _), _ = lax.scan(step, carry, length=_STEPS)
        return with_parts(instance, best)

    return jax.vmap(path)(instances, jnp.asarray(targets))


_paths = by_loops(_ascend, 0, 1)


def starts(margins: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where the adversary starts: the worst `_STARTS` instances for each target.

    Args:
      margins: Of all random instances, `(N,)` for each target.

    Returns:
      Numbers of instances and indices of targets, both `(len(margins) * _STARTS,)`.
    """
    numbers = [
        np.resize(np.argsort(np.where(np.isnan(x), -np.inf, x))[-_STARTS:], _STARTS)
        for x in margins
    ]
    return np.concatenate(numbers), np.repeat(np.arange(len(margins)), _STARTS)


def shrink(
    margins: MarginFunction,
    rules: Rules,
    found: Mapping[str, Instance],
    thresholds: Mapping[str, float],
) -> dict[str, Instance]:
    """Smaller instances that still violate their property by the threshold.

    Agents, tokens and misreports are taken out one by one, as long as the violation
    stays, and then all numbers rounded to as few digits as it allows.
    """
    found = dict(found)

    def improve(propose: Callable[[Instance], list[Instance]]) -> bool:
        candidates = [(name, x) for name in found for x in propose(found[name])]
        if not candidates:
            return False
        stacked = jax.tree.map(lambda *x: np.stack(x), *(x for _, x in candidates))
        values = evaluate(margins, rules, stacked)
        best: dict[str, tuple[float, Instance]] = {}
        for row, (name, instance) in enumerate(candidates):
            value = float(values[name][row])
            # NaN, where the property does not apply, is not a violation either.
            if value >= max(thresholds[name], best.get(name, (-np.inf,))[0]):
                best[name] = value, instance
        found.update({name: instance for name, (_, instance) in best.items()})
        return bool(best)

    while improve(_removals):
        pass
    for digits in _DIGITS:
        improve(functools.partial(_with_short_bids, digits=digits))
        improve(functools.partial(_with_short_chances, digits=digits))
    return found


def _removals(instance: Instance) -> list[Instance]:
    """The instance without one agent, token or misreport: bids and chances of 0."""
    smaller = []
    for agent in np.flatnonzero(instance.bids):
        if agent != instance.agent and np.count_nonzero(instance.bids) > 2:
            bids, rival_bids = instance.bids.copy(), instance.rival_bids.copy()
            bids[agent] = rival_bids[agent] = 0
            log_probs = instance.log_probs.copy()
            log_probs[agent] = log_probs[instance.agent]
            smaller.append(
                dataclasses.replace(
                    instance, bids=bids, rival_bids=rival_bids, log_probs=log_probs
                )
            )
    possible = np.isfinite(instance.log_probs)
    for token in np.flatnonzero(possible.any(axis=0)):
        kept = possible.copy()
        kept[:, token] = False
        if kept.any(axis=1).all() and kept.any(axis=0).sum() > 1:
            smaller.append(
                dataclasses.replace(
                    instance, log_probs=_without(instance.log_probs, kept)
                )
            )
    own_bid = instance.bids[instance.agent]
    for place in np.flatnonzero(instance.own_bids != own_bid):
        own_bids = instance.own_bids.copy()
        own_bids[place] = own_bid
        smaller.append(dataclasses.replace(instance, own_bids=own_bids))
    if (instance.rival_bids != instance.bids).any():
        smaller.append(dataclasses.replace(instance, rival_bids=instance.bids))
    return smaller


def _with_short_bids(instance: Instance, digits: int) -> list[Instance]:
    """The instance with so many significant digits of all bids."""

    def short(x: Any) -> np.ndarray:
        x = np.asarray(x)
        rounded = [float(f"{value:.{digits}g}") for value in x.ravel()]
        return np.asarray(rounded, x.dtype).reshape(x.shape)

    return [
        dataclasses.replace(
            instance,
            bids=short(instance.bids),
            own_bids=short(instance.own_bids),
            rival_bids=short(instance.rival_bids),
            scale=short(instance.scale),
        )
    ]


def _with_short_chances(instance: Instance, digits: int) -> list[Instance]:
    """The instance with so many decimals of all probabilities: small ones 0 or not."""
    exact = np.exp(np.asarray(instance.log_probs, float))
    shorter = []
    for least in (0.0, 10.0**-digits):
        p = np.round(exact, digits)
        p = np.where((exact > 0) & (p < least), least, p)
        # The likeliest token makes up for what rounding took or gave.
        rows, likeliest = np.arange(p.shape[0]), p.argmax(axis=-1)
        p[rows, likeliest] = 0
        p[rows, likeliest] = np.round(1 - p.sum(axis=-1), digits)
        if (p[rows, likeliest] > 0).all():
            shorter.append(dataclasses.replace(instance, log_probs=_log(p)))
    return shorter


def _without(log_probs: Any, kept: np.ndarray) -> np.ndarray:
    p = np.where(kept, np.exp(np.asarray(log_probs, float)), 0)
    return _log(p / p.sum(axis=-1, keepdims=True))


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)
