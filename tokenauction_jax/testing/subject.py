"""What is checked: a rule, its methods on many auctions, and how it fails."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing.instances import random_instances
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.testing.fakes import random_log_probs

# Arrays by name, of one auction or of `A` stacked ones.
Arrays = dict[str, Any]
Methods = Mapping[str, Callable[[Any, Arrays], jax.Array]]

# At two tokens even shared noise is stable.
AGENTS, TOKENS = 3, 8
_AUCTIONS = 64
# Of each statistical test, all of its comparisons together.
FALSE_ALARM = 1e-9
# Of the auctions, one with zero bids and probabilities. A permutation of the agents.
_ZEROS = 2
ORDER = np.array([2, 0, 1])

# The methods of an aggregation as functions of one auction, with probabilities.
OUTCOME: Methods = {
    "weights": lambda rule, x: rule.weights(x["bids"]),
    "log_prob": lambda rule, x: jnp.exp(rule.log_prob(x["bids"], x["log_probs"])),
}


class Subject:
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
        self.name = check_record(rule, kind)
        self._traces, self._batch = 0, jax.jit(self._together)
        first = take(auctions, 0)
        for (method, function), shape in zip(methods.items(), shapes, strict=True):
            with running(f"{self.name}: {method}", first):
                found = jax.eval_shape(function, rule, first)
            array = isinstance(found, jax.ShapeDtypeStruct) and found.shape == shape
            if not array or not jnp.issubdtype(found.dtype, dtype):
                wanted = f"{dtype.__name__}{list(shape)}"
                self.fail(f"{method} returns {layout(found)}, not {wanted}", first)

    def _call(self, rule: Any, auction: Arrays) -> list[jax.Array]:
        return [function(rule, auction) for function in self.methods.values()]

    def _together(self, rule: Any, auctions: Arrays) -> list[jax.Array]:
        self._traces += 1
        return jax.vmap(self._call, (None, 0))(rule, auctions)

    def answers(self, auctions: Arrays) -> list[np.ndarray]:
        """What the methods answer, stacked."""
        with running(f"{self.name} compiled and vmapped"):
            answers = jax.device_get(self._batch(self.rule, auctions))
        for method, answer in zip(self.methods, answers, strict=True):
            self.forbid(f"{method} is NaN", np.isnan(answer), auctions)
        return answers

    def check_transformations(self, undefined: np.ndarray, unit: Any = 1.0) -> None:
        """Other numbers are not traced again, and give the same one by one, eagerly."""
        self.answers(self.auctions)
        traces, other = self._traces, jax.tree.map(_nudged, self.rule)
        auction, case = take(self.auctions, _ZEROS), take(self.auctions, [_ZEROS])
        with running(f"{self.name} with other numbers", auction):
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

            with running(f"{self.name}: the gradient of {name}"):
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
                take(auctions, place[0]),
            )

    def forbid(self, what: str, wrong: np.ndarray, auctions: Arrays) -> None:
        """Fails at the first auction with anything wrong, `(A, ...)`."""
        wrong = np.asarray(wrong.reshape(len(wrong), -1).any(axis=-1))
        if wrong.any():
            where = f" in {wrong.sum()} of {wrong.size} auctions"
            self.fail(what + where, take(auctions, wrong.argmax()))

    def fail(self, what: str, auction: Arrays | None = None) -> NoReturn:
        """Raises `AssertionError` about the rule, showing an auction."""
        reject(f"{self.name}: {what}", auction)


def check_record(rule: Any, kind: type) -> str:
    """The name of a rule, if it has all members and is a pytree of its numbers."""
    name = repr(getattr(rule, "name", type(rule).__name__))
    for member in sorted(set(dir(kind)) | set(kind.__annotations__)):
        if not member.startswith("_") and not hasattr(rule, member):
            reject(f"{name} is no {kind.__name__}: it has no {member!r}")
    leaves = jax.tree.leaves(rule)
    if any(leaf is rule for leaf in leaves):
        reject(f"{name} is no pytree: decorate its class with tokenauction_jax.record")
    for field, value in getattr(rule, "__dict__", {}).items():
        number = isinstance(value, float | np.ndarray | np.floating | jax.Array)
        if number and not any(leaf is value for leaf in leaves):
            reject(
                f"{name}: its number {field!r} is not a leaf of its pytree, so that "
                "another value is traced and compiled again"
            )
    return name


def aggregate_paths(
    aggregation: Any, auctions: Arrays, own_bids: np.ndarray
) -> np.ndarray:
    """Aggregates `(A, n, k, V)` at own bids `(A, n, k)`, 0 where there is none."""

    def path(aggregation: Any, x: Arrays) -> jax.Array:
        def q(agent: jax.Array, own_bid: jax.Array) -> jax.Array:
            bids = x["bids"].at[agent].set(own_bid)
            return jnp.exp(aggregation.log_prob(bids, x["log_probs"]))

        return jax.vmap(jax.vmap(q, (None, 0)))(jnp.arange(AGENTS), x["own_bids"])

    # If nobody bids, a rule may answer anything.
    found = batched(path, aggregation, auctions | {"own_bids": own_bids})
    return np.nan_to_num(found)


def random_auctions(seed: int) -> Arrays:
    """Bids `(A, n)` and log-probabilities `(A, n, V)`: edge cases, then random ones."""
    instances = random_instances(seed, _AUCTIONS, AGENTS, TOKENS)
    bids, log_probs = instances.bids, instances.log_probs
    p = random_log_probs(seeded_key(seed), AGENTS, TOKENS)
    some = np.arange(TOKENS) % AGENTS == np.arange(AGENTS)[:, None]
    for row, (edge_bids, edge_log_probs) in enumerate(
        (
            ([1, 2, 3], p),
            ([1, 1, 1], jnp.tile(p[:1], (AGENTS, 1))),
            ([1, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([0, 2, 0], jnp.where(some, -jnp.inf, p)),
            ([1, 2, 3], jnp.where(some, p, -jnp.inf)),
            ([1, 2, 3], jnp.where(jnp.arange(TOKENS)[None] == 1, p, -jnp.inf)),
        )
    ):
        bids[row], log_probs[row] = edge_bids, distributions.normalize(edge_log_probs)
    return {"bids": bids, "log_probs": log_probs}


def batched(function: Callable[..., Any], rule: Any, auctions: Arrays) -> Any:
    """A function of a rule and one auction, of all of them."""
    # Compiled for each check: of two users' classes whose tree structures compare equal
    # a shared function may run one's program for the other.
    with running(f"{getattr(rule, 'name', rule)!r} compiled and vmapped"):
        return jax.device_get(jax.jit(jax.vmap(function, (None, 0)))(rule, auctions))


def take(auctions: Arrays, index: Any) -> Arrays:
    """Some of the auctions, or one."""
    return {name: x[index] for name, x in auctions.items()}


def seeded_key(seed: Any) -> jax.Array:
    """A key from which `vmap` draws the same numbers as a loop."""
    return jax.random.key(seed, impl="threefry2x32")


def _nudged(leaf: Any) -> Any:
    real = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    return leaf * 1.01 + 0.01 if real else leaf


def layout(tree: Any) -> str:
    """The structure, shapes and dtypes of a tree."""
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", shapes))


@contextlib.contextmanager
def running(what: str, auction: Arrays | None = None) -> Iterator[None]:
    """Turns whatever a user's code raises into an `AssertionError` about it."""
    try:
        yield
    except Exception as error:
        reject(f"{what} raises {type(error).__name__}: {error}", auction, error)


def reject(
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
