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
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import differences, paths
from tokenauction_jax.bidding.objectives import Objective
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.bidding.texts import Numbers, Texts, Varies
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Bidders
from tokenauction_jax.simulation.bidders import check_answers, in_rows

ESTIMATORS = ("score_function", "myopic", "differences")


@records.record
class ValueAndGradient:
    """What texts are worth, and how that changes with the bids.

    Attributes:
      value: Mean worth of a text, in money.
      value_error: Its standard error over auctions.
      gradient: `(n,)`, the derivative of the mean in each bid (in bids of one row an
        auction: in what is added to an agent's bids in all of them). Of `Bidders` that
        in every number of the policies, a tuple of policies.
      gradient_error: Standard errors, of the same form.
      undefined: How many auctions became undefined; they count with what came before.
      infinite: How many texts are worth something infinite, or NaN, which the value
        then is, too. The gradient leaves the tokens out that are.
    """

    value: jax.Array
    value_error: jax.Array
    gradient: Any
    gradient_error: Any
    undefined: jax.Array
    infinite: jax.Array


def expected(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
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

    Where policies bid, derivatives are also in their numbers and in the budgets. What a
    number does to later bids on the same path, through what was spent and what policies
    remember, is differentiated in reverse through the text; models are not, but the
    distributions `(A, T, n, V)` are kept, and all but the models runs twice. Payments
    that are drawn, as the second price, belong to the path: where later bids look at
    them, the chance of what was drawn is scored as that of a token is. (A drawn payment
    of your own has a method ``log_chance`` for it, as `SecondPrice` does.) What budgets
    cut counts as saved. Not in these derivatives, but in ``"differences"``, is what
    jumps: the moment at which a budget runs out, if contexts or draws can move it, a
    comparison in a policy, and the draws of a second price found by quadrature. Where
    sums of payments are few, as in tables that pay their bids, they jump at exceptional
    numbers only and elsewhere nothing is biased; but the worth is then a saw, whose
    slopes do not lead to its maximum.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: Money per unit of value, `(n,)` or one row an auction, `(A, n)`; or
        `Bidders`.
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
        reward is not finite or a bid of a policy out of range.

    Source: `docs/bidding.md`.
    """
    _check_estimator(gradient)
    problem = check_problem(
        *(key, mechanism, pool, bids, objective, values),
        *(num_tokens, num_auctions, first_auction),
    )
    worth, answers = _expected(problem, gradient)
    _check_answers(problem.numbers.bids, *answers)
    return worth


def value_and_grad(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
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
    and deterministic agents nothing is sampled, and both errors are 0. Of `Bidders` it
    is the derivative in the numbers of the policies: leaves that are no floats have a
    derivative of 0.

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
    if isinstance(bids, Bidders) and gradient != "differences":
        problem = problem.with_numbers(bids=in_rows(problem.numbers.bids))
    texts, found = slopes(problem, gradient, of_bids(problem))
    _check_answers(problem.numbers.bids, texts.reward, texts.bids)
    totals = texts.totals()
    value, value_error = mean_and_error(totals, problem.certain)
    both = [mean_and_error(slope, problem.certain) for slope in found]
    return ValueAndGradient(
        value=value,
        value_error=value_error,
        gradient=_as_bids(problem.numbers.bids, [mean for mean, _ in both]),
        gradient_error=_as_bids(problem.numbers.bids, [error for _, error in both]),
        undefined=(~texts.valid).sum(),
        infinite=(~jnp.isfinite(totals)).sum(),
    )


@functools.partial(jax.jit, static_argnames=("gradient", "varies"))
def slopes(
    problem: Problem, gradient: str, varies: Varies
) -> tuple[Texts, list[jax.Array]]:
    """Texts, and the derivative of each of them `(A, ...)` in the leaves that vary.

    Where policies bid, those of all together in the numbers that all share.
    """
    if gradient == "differences":
        found = differences.by_auction(
            lambda numbers: dataclasses.replace(problem, numbers=numbers).totals(),
            *(problem.numbers, varies),
        )
        return problem.texts(), found
    if isinstance(problem.numbers.bids, Bidders):
        return paths.slopes(
            *problem.paths(), varies=varies, myopic=gradient == "myopic"
        )
    texts = problem.texts(varies)
    found = [slope.sum(axis=1) for slope in texts.worth_slopes]
    found = [
        slope if of_reward is None else slope + of_reward
        for slope, of_reward in zip(found, texts.reward_slopes, strict=True)
    ]
    if gradient == "score_function":
        weights = texts.later()
        weigh = jax.vmap(lambda weight, score: jnp.tensordot(weight, score, 1))
        later = [weigh(weights, score) for score in texts.score]
        found = jax.tree.map(jnp.add, found, later)
    return texts, found


def of_bids(problem: Problem) -> Varies:
    """Only the bids vary, or the numbers of policies."""
    bids: Any = problem.numbers.bids
    policies = isinstance(bids, Bidders)
    flags = jax.tree.map(_is_real, bids.policies) if policies else True
    return problem.numbers.only_bids(flags)


def _as_bids(bids: jax.Array | Bidders, found: list[jax.Array]) -> Any:
    """Derivatives of `of_bids` in the form of the bids, or of the policies."""
    if not isinstance(bids, Bidders):
        return found[0]
    left = iter(found)

    def of(x: jax.Array) -> Any:
        if _is_real(x):
            return next(left)
        shape = x.shape[1:] if bids.by_auction else x.shape
        extended = jnp.issubdtype(x.dtype, jax.dtypes.extended)
        return np.zeros(shape, jax.dtypes.float0 if extended else x.dtype)

    return jax.tree.map(of, bids.policies)


def _is_real(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _expected(problem: Problem, gradient: str) -> tuple[jax.Array, Any]:
    """The mean, and the rewards `(A,)` of the texts and what policies bid."""

    @jax.custom_vjp
    def mean(problem: Problem) -> tuple[jax.Array, Any]:
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
        together = isinstance(problem.numbers.bids, Bidders)
        means = _mean_slopes(
            plain.numbers, flags, found, together and gradient != "differences"
        )
        return _summarize(texts), means

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


def _summarize(texts: Texts) -> tuple[jax.Array, Any]:
    mean, _ = mean_and_error(texts.totals(), certain=True)
    return mean, (texts.reward, texts.bids)


def _mean_slopes(
    numbers: Numbers, varies: Varies, slopes: list[jax.Array], together: bool
) -> Numbers:
    """Slopes of the mean in all leaves, None for those that do not vary.

    A row matters to its own auction, and other numbers to all of them, whose slopes may
    be added up already.
    """
    size, left = len(numbers.values), iter(slopes)
    flags = zip(varies, numbers.rows(), strict=True)

    def mean(slope: jax.Array, row: bool) -> jax.Array:
        return slope / size if row or together else slope.mean(0)

    means = [mean(next(left), row) if vary else None for vary, row in flags]
    return jax.tree.unflatten(jax.tree.structure(numbers), means)


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


def check_policies(problem: Problem) -> None:
    """Raises `ValueError` if policies are known to bid what is out of range."""
    if isinstance(problem.numbers.bids, Bidders):
        texts = _sample(problem)
        _check_answers(problem.numbers.bids, texts.reward, texts.bids)


def _check_answers(
    bids: jax.Array | Bidders, reward: jax.Array, answers: jax.Array | None
) -> None:
    if isinstance(bids, Bidders) and answers is not None:
        check_answers(bids, answers)
    check_rewards((~jnp.isfinite(reward)).sum())


def check_rewards(unfit: jax.Array) -> None:
    """Raises `ValueError` if it is known that so many rewards are not finite."""
    if records.is_concrete(unfit) and unfit > 0:
        raise ValueError(
            f"reward is infinite or NaN for {unfit} texts: it must answer finite "
            "money for every text, also for one that ends at once"
        )


def _check_estimator(gradient: str) -> None:
    if gradient not in ESTIMATORS:
        raise ValueError(f"gradient must be one of {ESTIMATORS}, got {gradient!r}")
