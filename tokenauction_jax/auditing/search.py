"""The search for violations: random instances, then an adversary, then shrinking."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

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
# What an adversary varies of an instance, by name.
Parts = dict[str, jax.Array]


class Case(Protocol):
    """A pytree of one auction, or of stacked ones, and how the search may change it."""

    # What `rounded` takes, in this order.
    ROUNDED: ClassVar[tuple[str, ...]]

    def auction(self) -> tuple[Any, ...]:
        """What the methods of rules take, such as bids and distributions."""
        ...

    def free_parts(self) -> Parts:
        """What an adversary varies."""
        ...

    def with_parts(self, parts: Parts) -> Self:
        """The instance with the adversary's parts instead of its own."""
        ...

    @staticmethod
    def within_bounds(parts: Parts, largest: jax.Array | float) -> Parts:
        """The nearest parts that an adversary may use; money up to ``e^largest``."""
        ...

    def removals(self) -> list[Self]:
        """What is left without one thing that there is, on the host."""
        ...

    def rounded(self, what: str, digits: int) -> list[Self]:
        """The instance with shorter numbers, on the host."""
        ...


class Questioned(Protocol):
    """A pytree of the rules that properties look at."""

    def programs(self, *auction: Any) -> list[Any]:
        """What jax makes of the methods that may run for long."""
        ...


C = TypeVar("C", bound=Case)
# From rules and one instance to margins by property.
MarginFunction = Callable[[Any, Any], dict[str, jax.Array]]


def evaluate(
    margins: MarginFunction, rules: Questioned, instances: Case
) -> dict[str, np.ndarray]:
    """Margins `(K,)` by property of any number K of stacked instances."""
    size = instances.auction()[0].shape[0]
    chunks = []
    for start in range(0, size, CHUNK):
        # The last one is filled up: one shape, one compilation.
        rows = np.minimum(np.arange(start, start + CHUNK), size - 1)
        chunk = jax.tree.map(lambda x, rows=rows: x[rows], instances)
        chunks.append(
            _margins[has_loops(rules, *instances.auction())](margins, rules, chunk)
        )
    return jax.tree.map(lambda *x: np.concatenate(x)[:size], *jax.device_get(chunks))


def by_loops(function: Callable[..., T], *static: int) -> dict[bool, Callable[..., T]]:
    """A function compiled for rules without and with loops."""
    jitted = functools.partial(jax.jit, function, static_argnums=static)
    return {False: jitted(compiler_options=_UNOPTIMISED), True: jitted()}


def has_loops(rules: Questioned, *auctions: Any) -> bool:
    """Whether a payment runs for long, such as one by quadrature.

    Args:
      rules: What is questioned.
      *auctions: What its methods take, stacked.
    """
    structure = jax.tree.structure(rules)
    if structure not in _LOOPS:
        programs = rules.programs(*(np.asarray(x)[0] for x in auctions))
        _LOOPS[structure] = any(
            loop in str(program) for program in programs for loop in ("scan[", "while[")
        )
    return _LOOPS[structure]


def _stacked_margins(
    margins: MarginFunction, rules: Questioned, instances: Case
) -> dict[str, jax.Array]:
    return jax.vmap(margins, (None, 0))(rules, instances)


_margins = by_loops(_stacked_margins, 0)


def climb(
    margins: MarginFunction,
    names: tuple[str, ...],
    rules: Questioned,
    instances: C,
    targets: np.ndarray,
    largest: jax.Array | float,
) -> C:
    """Gradient ascent on the margin `names[target]` of each of stacked instances.

    Adam on the free parts, within the bounds that `largest` gives. Returns the best
    instance met on each path.
    """
    ascend = _paths[has_loops(rules, *instances.auction())]
    return ascend(margins, names, rules, instances, targets, largest)


def _ascend(
    margins: MarginFunction,
    names: tuple[str, ...],
    rules: Questioned,
    instances: C,
    targets: np.ndarray,
    largest: jax.Array | float,
) -> C:
    """See `climb`."""

    def margin(parts: Parts, instance: C, target: jax.Array) -> jax.Array:
        found = margins(rules, instance.with_parts(parts))
        stacked = jnp.stack([found[name] for name in names])
        return stacked[target]

    optimizer = optax.adam(_LEARNING_RATE)

    def path(instance: C, target: jax.Array) -> C:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            parts, state, best, best_margin = carry
            value, slopes = jax.value_and_grad(margin)(parts, instance, target)
            better = value > best_margin
            best = jax.tree.map(lambda x, y: jnp.where(better, x, y), parts, best)
            best_margin = jnp.where(better, value, best_margin)
            # Ascent; where a rule has no slope, stay.
            slopes = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), -x, 0), slopes)
            updates, state = optimizer.update(slopes, state)
            moved = jax.tree.map(jnp.add, parts, updates)
            moved = instance.within_bounds(moved, largest)
            return (moved, state, best, best_margin), None

        parts = instance.within_bounds(instance.free_parts(), largest)
        carry = (parts, optimizer.init(parts), parts, jnp.asarray(-jnp.inf))
        (_, _, best, _), _ = lax.scan(step, carry, length=_STEPS)
        return instance.with_parts(best)

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
    rules: Questioned,
    found: Mapping[str, C],
    thresholds: Mapping[str, float],
) -> dict[str, C]:
    """Smaller instances that still violate their property by the threshold.

    Agents, tokens or candidates, and misreports are taken out one by one, as long as
    the violation stays, and then all numbers rounded to as few digits as it allows.
    """
    found = dict(found)

    def improve(propose: Callable[[C], list[C]]) -> bool:
        candidates = [(name, x) for name in found for x in propose(found[name])]
        if not candidates:
            return False
        stacked = jax.tree.map(lambda *x: np.stack(x), *(x for _, x in candidates))
        values = evaluate(margins, rules, stacked)
        best: dict[str, tuple[float, C]] = {}
        for row, (name, instance) in enumerate(candidates):
            value = float(values[name][row])
            # NaN, where the property does not apply, is not a violation either.
            if value >= max(thresholds[name], best.get(name, (-np.inf,))[0]):
                best[name] = value, instance
        found.update({name: instance for name, (_, instance) in best.items()})
        return bool(best)

    while improve(lambda case: case.removals()):
        pass
    kinds = {what for case in found.values() for what in case.ROUNDED}
    for digits in _DIGITS:
        for what in sorted(kinds):
            improve(functools.partial(_rounded, what=what, digits=digits))
    return found


def _rounded(case: C, what: str, digits: int) -> list[C]:
    return case.rounded(what, digits)
