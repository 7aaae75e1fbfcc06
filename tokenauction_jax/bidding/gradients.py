"""Expected worth of texts, and its derivatives, from sampled texts.

A bid changes what is paid and drawn now, and through the token that is drawn all later
contexts. With ``R_t`` the worth of token t before it is drawn and ``q_t`` the
distribution it is drawn from, the derivative of ``E sum_t R_t`` is

    E[ sum_t dR_t + sum_t d log q_t(x_t) (sum_{s > t} R_s - c_t) ]

for any ``c_t`` that does not depend on ``x_t``: the policy gradient of Williams,
"Simple statistical gradient-following algorithms" (1992), with the exact derivative of
all that happens before the draw, and the mean of the other auctions as the baseline.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool, SupportsCertainty
from tokenauction_jax.bidding import differences
from tokenauction_jax.bidding.objectives import Objective, check_objective, has_reward
from tokenauction_jax.bidding.submissions import TemperedPool
from tokenauction_jax.bidding.texts import Numbers, Texts, sample_texts
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation.rollout import check_bids

# For each leaf of the numbers, whether it varies.
Varies = tuple[bool, ...]
ESTIMATORS = ("score_function", "myopic", "differences")


@records.record
class ValueAndGradient:
    """What texts are worth, and how that changes with the bids.

    Attributes:
      value: Mean worth of a text, in money.
      value_error: Its standard error over auctions.
      gradient: `(n,)`, the derivative of the mean in each bid (in bids of one row an
        auction: in what is added to an agent's bids in all of them).
      gradient_error: `(n,)`, standard errors.
      undefined: How many auctions became undefined; they count with what came before.
      infinite: How many texts are worth something infinite, or NaN, which the value
        then is, too. The gradient leaves the tokens out that are.
    """

    value: jax.Array
    value_error: jax.Array
    gradient: jax.Array
    gradient_error: jax.Array
    undefined: jax.Array
    infinite: jax.Array


def expected(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    objective: Objective,
    *,
    values: ArrayLike,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    gradient: str = "score_function",
) -> jax.Array:
    """The mean worth of sampled texts, with a derivative of your choice.

    The value is the plain mean over auctions, of which only the path is sampled: tokens
    count with their expectation before they are drawn. `jax.grad` of it, in the bids,
    the values and every number of the mechanism, the objective and the pool (such as a
    temperature), is an estimate of the derivative of ``E sum_t R_t``:

    - ``"score_function"``: unbiased. What a number does now is exact; what it does to
      later contexts is the sum of ``d log q_t(x_t)`` times the worth of later tokens,
      less their mean over the other auctions. Its variance grows with the length of
      the text. Needs one forward pass; of each token only the derivatives in the
      numbers that vary are kept, `(A, T)` of each.
    - ``"myopic"``: biased. Leaves later contexts out: exact for texts of one token and
      for agents that do not read the text. Next to no variance, the same cost.
    - ``"differences"``: for checks. Central differences of 5 % with common random
      numbers: a bias of the third derivative, a variance of the order of one over the
      step from tokens that flip. Two forward passes for each number.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: Money per unit of value, `(n,)` or one row an auction, `(A, n)`.
      objective: What texts are worth.
      values: True values ``w``, money per unit of valuation, `(n,)` or `(A, n)`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; needed unless bids or values have rows, or
        one token of deterministic agents decides.
      first_auction: The number of the first auction, as in `simulate`.
      gradient: One of the above.

    Returns:
      A scalar, money per text. It is infinite if any text is worth something infinite.

    Raises:
      ValueError: If a shape or a number is wrong, or a concrete result shows that a
        reward is not finite.

    Source: `docs/bidding.md`.
    """
    _check_estimator(gradient)
    problem = check_problem(
        *(key, mechanism, pool, bids, objective, values),
        *(num_tokens, num_auctions, first_auction),
    )
    worth, reward = _expected(problem, gradient)
    check_rewards((~jnp.isfinite(reward)).sum())
    return worth


def value_and_grad(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    objective: Objective,
    *,
    values: ArrayLike,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
    gradient: str = "score_function",
) -> ValueAndGradient:
    """What texts are worth and the derivative in the bids, with standard errors.

    Arguments, estimators and errors are those of `expected`, which see. With one token
    and deterministic agents nothing is sampled, and both errors are 0.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
    >>> rule = ta.linear()
    >>> found = ta.bidding.value_and_grad(
    ...     jax.random.key(0), ta.Mechanism(rule, ta.pay_your_bid()), pool,
    ...     [1.0, 1.0], ta.bidding.utility(0, ta.total_variation()),
    ...     values=[4.0, 1.0], num_tokens=1)
    >>> print(found.value, *(f"{x:.2f}" for x in found.gradient))
    -2.4 -0.30 -0.70
    """
    _check_estimator(gradient)
    problem = check_problem(
        *(key, mechanism, pool, bids, objective, values),
        *(num_tokens, num_auctions, first_auction),
    )
    texts, (found,) = slopes(problem, gradient, of_bids(problem))
    check_rewards((~jnp.isfinite(texts.reward)).sum())
    totals = texts.totals()
    value, value_error = mean_and_error(totals, problem.certain)
    mean, error = mean_and_error(found, problem.certain)
    return ValueAndGradient(
        value=value,
        value_error=value_error,
        gradient=mean,
        gradient_error=error,
        undefined=(~texts.valid).sum(),
        infinite=(~jnp.isfinite(totals)).sum(),
    )


@records.record
class Problem:
    """Arguments that were checked, with one row of bids and values an auction."""

    key: jax.Array
    pool: AgentPool
    numbers: Numbers
    first_auction: ArrayLike
    # What searches take a bid as a multiple of, `(A, n)` in money.
    unit: jax.Array
    num_tokens: int = records.static_field()

    def texts(self, varies: Varies | None = None) -> Texts:
        """Samples the texts, with slopes in the numbers that vary."""
        return sample_texts(
            *(jax.random.clone(self.key), self.pool, self.numbers),
            *(self.num_tokens, self.first_auction, varies),
        )

    def with_numbers(self, **changes: Any) -> "Problem":
        """The same with some numbers changed."""
        changed = dataclasses.replace(self.numbers, **changes)
        return dataclasses.replace(self, numbers=changed)

    def totals(self) -> jax.Array:
        """Worth `(A,)` of the texts."""
        return self.texts().totals()

    @property
    def certain(self) -> bool:
        """Whether all auctions with the same bids are worth the same."""
        return is_certain(self.pool, self.numbers.objective, self.num_tokens)


@functools.partial(jax.jit, static_argnames=("gradient", "varies"))
def slopes(
    problem: Problem, gradient: str, varies: Varies
) -> tuple[Texts, list[jax.Array]]:
    """Texts, and the derivative of each of them `(A, ...)` in the leaves that vary."""
    if gradient == "differences":
        found = differences.by_auction(
            lambda numbers: dataclasses.replace(problem, numbers=numbers).totals(),
            *(problem.numbers, varies),
        )
        return problem.texts(), found
    texts = problem.texts(varies)
    found = [slope.sum(axis=1) for slope in texts.worth_slopes]
    found = [
        slope if of_reward is None else slope + of_reward
        for slope, of_reward in zip(found, texts.reward_slopes, strict=True)
    ]
    if gradient == "score_function":
        weights = _later_worth(texts)
        weigh = jax.vmap(lambda weight, score: jnp.tensordot(weight, score, 1))
        later = [weigh(weights, score) for score in texts.score]
        found = jax.tree.map(jnp.add, found, later)
    return texts, found


def of_bids(problem: Problem) -> Varies:
    """Only the bids vary."""
    nothing = jax.tree.map(lambda _: False, problem.numbers)
    return tuple(jax.tree.leaves(dataclasses.replace(nothing, bids=True)))


def _later_worth(texts: Texts) -> jax.Array:
    """What comes after each token `(A, T)`, less its mean over the other auctions."""
    worth, reward = (
        jnp.where(jnp.isfinite(x), x, 0) for x in (texts.worth, texts.reward)
    )
    later = jnp.flip(jnp.cumsum(jnp.flip(worth, 1), 1), 1) - worth + reward[:, None]
    later = jnp.where(texts.mask, later, 0)
    count = texts.mask.sum(axis=0, keepdims=True) - texts.mask
    others = (later.sum(axis=0, keepdims=True) - later) / jnp.maximum(count, 1)
    return jnp.where(texts.mask, later - others, 0)


def _expected(problem: Problem, gradient: str) -> tuple[jax.Array, jax.Array]:
    """The mean, and the rewards `(A,)` of the texts."""

    @jax.custom_vjp
    def mean(problem: Problem) -> tuple[jax.Array, jax.Array]:
        return _summarize(_sample(problem))

    def forward(problem: Problem) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(problem)
        varies = jax.tree.unflatten(tree, [leaf.perturbed for leaf in leaves])
        plain = jax.tree.unflatten(tree, [leaf.value for leaf in leaves])
        if any(jax.tree.leaves(varies.pool)):
            raise ValueError(
                "expected has no derivative in the numbers of a pool; that in a "
                "temperature is had from bidding.tempered(pool, temperature), and "
                "exact differentiates tables"
            )
        flags = tuple(jax.tree.leaves(varies.numbers))
        texts, found = slopes(plain, gradient, flags)
        return _summarize(texts), _mean_slopes(plain.numbers, flags, found)

    def backward(slopes: Numbers, cotangents: Any) -> tuple[Any]:
        cotangent, _ = cotangents
        numbers = None
        if not isinstance(cotangent, SymbolicZero):
            numbers = jax.tree.map(lambda slope: cotangent * slope, slopes)
        return (dataclasses.replace(empty, numbers=numbers),)

    empty = dataclasses.replace(
        problem, key=None, pool=None, first_auction=None, unit=None
    )
    mean.defvjp(forward, backward, symbolic_zeros=True)
    return mean(problem)


@jax.jit
def _sample(problem: Problem) -> Texts:
    return problem.texts()


def _summarize(texts: Texts) -> tuple[jax.Array, jax.Array]:
    mean, _ = mean_and_error(texts.totals(), certain=True)
    return mean, texts.reward


def _mean_slopes(numbers: Numbers, varies: Varies, slopes: list[jax.Array]) -> Numbers:
    """Slopes of the mean in all leaves, None for those that do not vary."""
    leaves, tree = jax.tree.flatten(numbers)
    left = iter(slopes)
    found = [next(left) if v else None for v in varies]
    # A row matters to its own auction, and other numbers to all of them.
    shared = len(leaves) - 2
    means = [
        slope
        if slope is None
        else (slope.mean(0) if k < shared else slope / len(slope))
        for k, slope in enumerate(found)
    ]
    return jax.tree.unflatten(tree, means)


def mean_and_error(x: jax.Array, certain: bool) -> tuple[jax.Array, jax.Array]:
    """Mean over auctions of `x` `(A, ...)` and its standard error.

    The error of what is the same in all auctions is exactly 0; that of one auction is
    0 if it is `certain`, and else unknown, NaN.
    """
    first = jnp.where(jnp.isfinite(x[:1]), x[:1], 0)
    offset = x - first
    off = offset.mean(axis=0, keepdims=True)
    mean = (first + off)[0]
    size = x.shape[0]
    if size == 1:
        return mean, jnp.full_like(mean, 0 if certain else jnp.nan)
    variance = jnp.square(offset - off).sum(axis=0) / (size - 1)
    return mean, jnp.sqrt(variance / size)


def is_certain(pool: AgentPool, objective: Objective, num_tokens: int) -> bool:
    """Whether all auctions with the same bids are worth the same, whatever is drawn."""
    certain = isinstance(pool, SupportsCertainty) and pool.deterministic
    return num_tokens == 1 and certain and not has_reward(objective)


def check_rewards(unfit: jax.Array) -> None:
    """Raises `ValueError` if it is known that so many rewards are not finite."""
    if records.is_concrete(unfit) and unfit > 0:
        raise ValueError(
            f"reward is infinite or NaN for {unfit} texts: it must answer finite "
            "money for every text, also for one that ends at once"
        )


def check_problem(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike,
    objective: Objective,
    values: ArrayLike,
    num_tokens: int,
    num_auctions: int | None,
    first_auction: ArrayLike,
) -> Problem:
    """The arguments of `expected`; raises `ValueError` if one is wrong."""
    check_objective(objective, pool.num_agents)
    num_tokens = records.check_integer("num_tokens", num_tokens, 1)
    values = base.as_float(values)
    if values.ndim == 2 and num_auctions is None:
        num_auctions = values.shape[0]
    plain = np.ndim(bids) == values.ndim == 1
    if plain and is_certain(pool, objective, num_tokens):
        num_auctions = 1
    bids = check_bids(bids, pool.num_agents, num_auctions)
    values = check_values(values, bids)
    temperature = jnp.ones(pool.num_agents, bids.dtype)
    if isinstance(pool, TemperedPool):
        temperature = pool.temperature
        pool = TemperedPool(pool.pool, jax.lax.stop_gradient(temperature))
    numbers = Numbers(mechanism, objective, temperature, bids, values)
    numbers = jax.tree.map(jnp.asarray, numbers)
    unit = jnp.ones_like(bids)
    return Problem(key, pool, numbers, first_auction, unit, num_tokens=num_tokens)


def _check_estimator(gradient: str) -> None:
    if gradient not in ESTIMATORS:
        raise ValueError(f"gradient must be one of {ESTIMATORS}, got {gradient!r}")


def check_values(values: ArrayLike, bids: jax.Array) -> jax.Array:
    """Values as `(A, n)`, like the bids."""
    values = base.as_float(values)
    if values.shape not in (bids.shape, bids.shape[1:]):
        raise ValueError(
            f"values has shape {values.shape}, expected {bids.shape[1:]} or "
            f"{bids.shape}: one true value for each agent"
        )
    if records.is_concrete(values):
        base.check_amounts("values", np.asarray(values))
    return jnp.broadcast_to(values, bids.shape)
