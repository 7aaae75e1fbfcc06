"""What is checked: a rule, its methods on many auctions, and how it fails."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.auditing.calls import mismatch
from tokenauction_jax.auditing.properties.claims import Claim, symmetric_auctions
from tokenauction_jax.auditing.properties.path import aggregates, probabilities
from tokenauction_jax.auditing.report import USES
from tokenauction_jax.mechanism import base
from tokenauction_jax.testing.auctions import AGENTS, ZEROS, Arrays, take

Rule = TypeVar("Rule")
Methods = Mapping[str, Callable[[Rule, Arrays], jax.Array]]

# Functions of one auction, with probabilities instead of their logarithms.
OUTCOME: Methods[base.Aggregation] = {
    "weights": lambda rule, x: rule.weights(x["bids"]),
    "log_prob": lambda rule, x: probabilities(rule.log_prob(x["bids"], x["log_probs"])),
}


class Subject(Generic[Rule]):
    """A rule, and its methods as one compiled function of stacked auctions."""

    def __init__(
        self,
        rule: Rule,
        kind: type,
        methods: Methods[Rule],
        auctions: Arrays,
        shapes: tuple[tuple[int, ...], ...],
        dtype: type = np.float32,
    ):
        """Checks that `rule` is a `kind` whose answers have these shapes."""
        self.rule, self.methods, self.auctions = rule, methods, auctions
        self.name = check_record(rule, kind)
        self._traces, self._batch = 0, jax.jit(self._together)
        first = take(auctions, 0)
        for (method, function), shape in zip(methods.items(), shapes, strict=True):
            with running(f"{self.name}: {method}", first):
                wrong = mismatch(jax.eval_shape(function, rule, first), shape, dtype)
            if wrong:
                self.fail(f"{method} {wrong}", first)

    def _call(self, rule: Rule, auction: Arrays) -> list[jax.Array]:
        return [function(rule, auction) for function in self.methods.values()]

    def _together(self, rule: Rule, auctions: Arrays) -> list[jax.Array]:
        self._traces += 1
        return jax.vmap(self._call, (None, 0))(rule, auctions)

    def answers(self, auctions: Arrays) -> list[np.ndarray]:
        """What the methods answer, stacked."""
        with running(f"{self.name} compiled and vmapped"):
            answers = jax.device_get(self._batch(self.rule, auctions))
        for method, answer in zip(self.methods, answers, strict=True):
            self.forbid(f"{method} is NaN", np.isnan(answer), auctions)
        return answers

    def symmetric_answers(self, changes: Arrays) -> list[list[np.ndarray]]:
        """Answers to the auctions, with agents in another order, with scaled bids."""
        bids, log_probs = self.auctions["bids"], self.auctions["log_probs"]
        variants = jax.vmap(symmetric_auctions)(bids, log_probs, **changes)
        return [
            self.answers(self.auctions | {"bids": bids, "log_probs": log_probs})
            for bids, log_probs in jax.device_get(variants)
        ]

    def hold(
        self, claims_of: Callable[..., list[Claim]], *answers: Any, shown: Arrays
    ) -> None:
        """Fails where claims about stacked answers miss by more than rounding."""
        self.agree_all(jax.jit(jax.vmap(claims_of))(*answers), shown)

    def agree_all(self, claims: Iterable[Claim], shown: Arrays) -> None:
        """Fails where stacked claims miss by more than rounding."""
        for claim in claims:
            unused = {"order", "scale"}.difference(USES.get(claim.property, ()))
            used = {name: x for name, x in shown.items() if name not in unused}
            found = np.asarray(claim.found)
            if claim.relation == ">=":
                found = np.minimum(found, _aligned(claim.wanted, found.ndim))
            self.agree(claim.what, found, claim.wanted, used, claim.unit)

    def check_transformations(self, undefined: np.ndarray, unit: Any = 1.0) -> None:
        """A rule with other numbers is not traced again, and answers alike eagerly."""
        self.answers(self.auctions)
        traces, other = self._traces, jax.tree.map(_nudged, self.rule)
        auction, case = take(self.auctions, ZEROS), take(self.auctions, [ZEROS])
        with running(f"{self.name} with other numbers", auction):
            compiled = jax.device_get(self._batch(other, self.auctions))
            try:
                eager = self._call(other, auction)
            except ValueError:
                if not undefined[ZEROS]:
                    raise
                eager = [x[ZEROS] for x in compiled]
        if self._traces > traces:
            self.fail("other numbers trace it again: not all are leaves of its pytree")
        size = unit[[ZEROS]] if np.ndim(unit) else unit
        for method, x, y in zip(self.methods, compiled, eager, strict=True):
            what = f"{method} compiled under vmap, not as it is,"
            self.agree(what, x[[ZEROS]], np.asarray(y)[None], case, size)

    def check_gradients(self, *names: str, where: Any = True) -> None:
        """Gradients of answers, where finite, in all real numbers are finite.

        Of the auctions `where` `(A,)`, or all.
        """
        auctions = self.auctions
        real = {name: x for name, x in auctions.items() if x.dtype == np.float32}
        for name in names:

            def loss(
                real: Arrays, rule: Rule, x: Arrays, name: str = name
            ) -> jax.Array:
                answer = self.methods[name](rule, x | real)
                return jnp.where(jnp.isfinite(answer), answer, 0).sum()

            with running(f"{self.name}: the gradient of {name}"):
                slopes = jax.jit(jax.vmap(jax.grad(loss), (0, None, 0)))
                slopes = jax.device_get(slopes(real, self.rule, auctions))
            for argument, slope in slopes.items():
                what = f"the gradient of {name} in {argument} is infinite or NaN"
                self.forbid(what, (~np.isfinite(slope).T & where).T, auctions)

    def agree(
        self,
        what: str,
        found: np.ndarray,
        wanted: Any,
        auctions: Arrays,
        unit: Any = 1.0,
        chance: Any = 0.0,
    ) -> None:
        """Fails where numbers `(A, ...)` differ by more than rounding and chance.

        What they should be, and the unit, may be one number or one an auction.
        """
        found = np.asarray(found, float)
        wanted, unit = _aligned(wanted, found.ndim), _aligned(unit, found.ndim)
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


def _aligned(x: Any, ndim: int) -> np.ndarray:
    """Numbers `(A,)`, or any, with so many axes."""
    x = np.asarray(x, float)
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def _nudged(leaf: Any) -> Any:
    real = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    return leaf * 1.01 + 0.01 if real else leaf


def check_record(rule: Any, kind: type) -> str:
    """The name of a rule, if it has all members and is a pytree of its numbers."""
    name = repr(getattr(rule, "name", type(rule).__name__))
    for member in records.missing_members(rule, kind):
        reject(f"{name} does not implement {kind.__name__}: it has no {member!r}")
    leaves = jax.tree.leaves(rule)
    try:
        records.check_record(name, rule)
    except ValueError as error:
        reject(str(error))
    for field, value in getattr(rule, "__dict__", {}).items():
        number = isinstance(value, float | np.ndarray | np.floating | jax.Array)
        if number and not any(leaf is value for leaf in leaves):
            reject(
                f"{name}: its number {field!r} is not a leaf of its pytree, so that "
                "another value is traced and compiled again"
            )
    return name


def aggregate_paths(
    aggregation: base.Aggregation, auctions: Arrays, own_bids: np.ndarray
) -> np.ndarray:
    """Aggregates `(A, n, k, V)` at own bids `(A, n, k)`, 0 where there is none."""

    def path(aggregation: base.Aggregation, x: Arrays) -> jax.Array:
        def q(agent: jax.Array, own_bids: jax.Array) -> jax.Array:
            auction = x["bids"], x["log_probs"]
            return jnp.exp(aggregates(aggregation, agent, own_bids, *auction))

        return jax.vmap(q)(jnp.arange(AGENTS), x["own_bids"])

    # If nobody bids, a rule may answer anything.
    found = batched(path, aggregation, auctions | {"own_bids": own_bids})
    return np.nan_to_num(found)


def batched(
    function: Callable[[Rule, Arrays], Any], rule: Rule, auctions: Arrays
) -> Any:
    """A function of a rule and one auction, of all of them."""
    # Compiled for each check: of two users' classes whose tree structures compare equal
    # a shared function may run one's program for the other.
    name = getattr(rule, "name", type(rule).__name__)
    with running(f"{name!r} compiled and vmapped"):
        return jax.device_get(jax.jit(jax.vmap(function, (None, 0)))(rule, auctions))


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
