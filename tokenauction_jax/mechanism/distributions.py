"""Log-space arithmetic on discrete distributions.

Every function is exact where a probability is zero (``-inf``), has finite gradients
there, and keeps small differences between nearly equal distributions.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

# Columns in which a row is reduced: XLA takes the numbers of a row one by one on a CPU,
# and those of columns side by side. Sums of 3 rows of 64 took 0.045 us, and in columns
# 0.02; maxima 0.13 and 0.03 us; sums of 3 rows of 49,152 took 34 and 9 us.
_COLUMNS = 16
# Rows of them at a time. Of more than 32 XLA writes down what it reduces, and of more
# than 4 it does not unroll the sum of what takes many operations, which then is no
# vector code: with 8 a divergence took 3 times as long.
_ROWS, _ROWS_OF_SUM = 16, 4
# A maximum over so few rows is written out: XLA's reduction made a mixture of 3
# distributions with V = 131,072 take 1.1 ms on a CPU, not 0.3 ms.
_FEW_AGENTS = 8
# exp() of at most this times any weight stays finite in float32.
LARGEST_EXPONENT = 60.0
# Below this |order * log-ratio| a cumulant series beats the closed form.
_SMALL_EXPONENT = 0.02
# Powers of larger orders may overflow.
_STEEP = 1e4
# Of tokens that only agents of less weight can produce, sums of weights may underflow.
_COMMON = 1e-20
# Below this |log(p / q)| a series gives a divergence's term, which is of its square.
_SMALL_LOG_RATIO = 0.5


def log_softmax(logits: ArrayLike) -> jax.Array:
    """Log-probabilities of `logits` `(..., V)`, as `jax.nn.log_softmax` finds them.

    On CPUs in a third to a half of its time, by sums that are vector code.
    """
    if jax.default_backend() != "cpu":
        return jax.nn.log_softmax(logits)
    logits = jnp.asarray(logits)
    # Of `-inf` throughout the difference is NaN, as there is no distribution.
    pivot = max_last(logits)
    total = sum_last(jnp.exp(logits - pivot[..., None]))
    return _divided(logits, pivot, total)


def normalize(log_weights: ArrayLike) -> jax.Array:
    """Normalised log-probabilities of `log_weights` `(..., V)`.

    A row that is ``-inf`` throughout stays so.
    """
    log_weights = jnp.asarray(log_weights)
    shifted, pivot = below_zero(log_weights)
    total = sum_last(jnp.exp(shifted))
    return _divided(log_weights, pivot, jnp.where(total == 0, 1, total))


def _divided(x: jax.Array, pivot: jax.Array, total: jax.Array) -> jax.Array:
    """``x - pivot - log(total)``, rounded once."""
    log_total = jnp.log(total)
    whole = pivot + log_total
    rest = (pivot - whole) + log_total
    return (x - whole[..., None]) - rest[..., None]


def log_sum_exp(x: jax.Array) -> jax.Array:
    """``log sum exp(x)`` over the last axis, ``-inf`` for a row of ``-inf``."""
    shifted, pivot = below_zero(x)
    return safe_log(sum_last(jnp.exp(shifted))) + pivot


def below_zero(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x` `(..., V)` less its largest, and that, `(...)`; for ``-inf``, less 0."""
    pivot = max_last(x)
    pivot = jnp.where(jnp.isneginf(pivot), 0, pivot)
    return x - pivot[..., None], pivot


def sum_last(x: jax.Array) -> jax.Array:
    """Sum over the last axis, of long rows in blocks."""
    return _in_columns(jnp.sum, jnp.add, x, _ROWS_OF_SUM)


def max_last(x: jax.Array) -> jax.Array:
    """Maximum over the last axis, NaN if there is one; without a derivative."""
    return _in_columns(jnp.max, jnp.maximum, lax.stop_gradient(x), _ROWS)


def _in_columns(
    reduce: Callable[..., jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    rows: int,
) -> jax.Array:
    size = x.shape[-1]
    # Accelerators reduce rows side by side.
    if size < 2 * _COLUMNS or jax.default_backend() != "cpu":
        return reduce(x, axis=-1)
    # What is left over is taken by itself: rows that are filled up would be copied.
    block = rows * _COLUMNS
    left = size % (_COLUMNS if size < block else block)
    shape = (-1, min(size - left, block) // _COLUMNS, _COLUMNS)
    found = reduce(x[..., : size - left].reshape(*x.shape[:-1], *shape), axis=-2)
    # Not a second reduction, which XLA would make one with the first; but one of the
    # last two, or all that needs the result would take it anew for each of its numbers:
    # a step with Clarke payments and 64 tokens took 0.74 us, not 0.57.
    last = 2 if found.shape[-2] == 1 else 1
    while found.shape[-1] > last:
        half = found.shape[-1] // 2
        found = combine(found[..., :half], found[..., half:])
    found = _in_columns(reduce, combine, found.reshape(*x.shape[:-1], -1), rows)
    if not left:
        return found
    return combine(found, _in_columns(reduce, combine, x[..., size - left :], rows))


@jax.custom_jvp
def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x / y``, with derivatives of any order that never square a small `y`."""
    return x / y


@divide.defjvp
def _divide_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, y), (x_dot, y_dot) = primals, tangents
    ratio = divide(x, y)
    return ratio, divide_tangent(x_dot - ratio * y_dot, y)


def divide_tangent(x_dot: jax.Array, y: jax.Array) -> jax.Array:
    """``x_dot / y``, both scaled by a power of two that brings `y` near 1.

    By a power of two, as XLA takes nested divisions for one by a product.
    """
    scale = inverse_power(y)
    return (x_dot * scale) / (y * scale)


def inverse_power(x: jax.Array) -> jax.Array:
    """The power of two that brings positive `x` to between 1 and 2."""
    info = jnp.finfo(x.dtype)
    word = jnp.int32 if info.bits == 32 else jnp.int64
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), word)
    exponent = ((bits >> info.nmant) & (2 * info.maxexp - 1)) - (info.maxexp - 1)
    return power_of_two(-exponent.astype(x.dtype))


def power_of_two(exponent: jax.Array) -> jax.Array:
    """``2^exponent`` of whole numbers, exactly; 0 or the largest where out of range."""
    info = jnp.finfo(exponent.dtype)
    word = jnp.int32 if info.bits == 32 else jnp.int64
    lowest, highest = info.minexp - 1, info.maxexp - 1
    biased = jnp.clip(exponent, lowest, highest).astype(word) - lowest
    return lax.bitcast_convert_type(biased << info.nmant, exponent.dtype)


@jax.custom_jvp
def log(x: jax.Array) -> jax.Array:
    """Natural logarithm, with derivatives that never square a small `x`."""
    return jnp.log(x)


@log.defjvp
def _log_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return log(*primals), divide_tangent(*tangents, *primals)


def safe_log(x: jax.Array) -> jax.Array:
    """``log(x)``, with gradient 0 instead of infinity where `x` is 0."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def nonzero(x: jax.Array) -> jax.Array:
    """`x`, or 1 where it is 0: a divisor for results that are masked there."""
    return jnp.where(x > 0, x, 1)


def sum_of_others(x: jax.Array) -> jax.Array:
    """For each agent the sum of the others' rows of `x` `(n, ...)`, in O(n).

    Sums from both sides: ``x.sum(0) - x`` would lose the others where one dominates.
    """
    zero = jnp.zeros_like(x[:1])
    before = lax.associative_scan(jnp.add, jnp.concatenate([zero, x[:-1]]))
    after = lax.associative_scan(jnp.add, jnp.concatenate([x[1:], zero]), reverse=True)
    return before + after


def log_mixture(weights: jax.Array, log_probs: jax.Array) -> jax.Array:
    """``log sum_i weights_i p_i`` `(V,)`, with the right derivative at weight 0."""
    ratios, pivot = scaled_probs(weights, log_probs)
    return safe_log(weighted_sum(weights, ratios)) + pivot


def weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``sum_i weights_i x_i`` `(V,)` of the agents' `x` `(n, V)`."""
    return weighted_sums(weights[None], x)[0]


def weighted_sums(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Sums `(k, V)` of the agents' `x` `(n, V)`, one for each row of `weights`."""
    # On accelerators products of so small matrices took several times the pass over
    # them. On a CPU a mixture of 3 distributions by XLA's sum over the rows took 8.2
    # ms, not 0.3 ms, for V = 131,072.
    if jax.default_backend() == "cpu" or weights.shape[1] > _FEW_AGENTS:
        return jnp.dot(weights, x, precision=lax.Precision.HIGHEST)
    terms = (weights[:, i, None] * x[None, i] for i in range(len(x)))
    return functools.reduce(jnp.add, terms)


def scaled_probs(
    weights: jax.Array, log_probs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``p_i(t) / exp(pivot(t))`` `(n, V)`, and pivots `(V,)` that avoid underflow.

    ``exp(pivot)`` is about the largest of the weighted probabilities of a token.
    """
    log_terms = safe_log(weights)[:, None] + log_probs
    # A whole number is subtracted without rounding.
    pivot = jnp.round(_largest(lax.stop_gradient(log_terms)))
    pivot = jnp.where(jnp.isneginf(pivot), 0, pivot)
    gaps = log_probs - pivot[None]
    # Agents of weight 0 are not in the pivot and may lie far above it.
    silent = (weights == 0)[:, None]
    return jnp.exp(jnp.where(silent, jnp.minimum(gaps, LARGEST_EXPONENT), gaps)), pivot


def _largest(x: jax.Array) -> jax.Array:
    """Maximum over the agents, `(n, V)` to `(V,)`."""
    if x.shape[0] > _FEW_AGENTS:
        return jnp.max(x, axis=0)
    return functools.reduce(jnp.maximum, list(x))


def log_power_mean(
    order: ArrayLike,
    weights: jax.Array,
    scaled_weights: tuple[jax.Array, jax.Array],
    log_probs: jax.Array,
) -> jax.Array:
    """``log (sum_i w_i p_i^order)^(1/order)`` `(V,)`, up to a constant.

    Smooth through order 0, the weighted geometric mean. For orders <= 0 every agent of
    positive weight has a veto; one of weight 0 has none.

    Args:
      order: Any finite number.
      weights: `(n,)`, which sum to one.
      scaled_weights: The same as a product of numbers `(n,)` and the exponentials of
        numbers `(n, 1)`, where floats would underflow.
      log_probs: `(n, V)`.
    """
    order = jnp.asarray(order, log_probs.dtype)
    mantissa, scales = scaled_weights
    bidding, possible = (mantissa > 0)[:, None], log_probs > -jnp.inf
    vetoed = (bidding & ~possible).any(0) & (order <= 0)
    dead = vetoed | ~(bidding & possible).any(0)
    possible &= ~dead[None]
    x = jnp.where(possible, log_probs, 0)
    present = weighted_sum(weights, possible.astype(x.dtype))
    common = present > _COMMON
    present = jnp.where(common, present, 1)

    def mean(values: jax.Array) -> jax.Array:
        """Over the agents that can produce the token."""
        return weighted_sum(weights, jnp.where(possible, values, 0)) / present

    # What the agents without a token take from it is a power 1 / order of the others'
    # weight: out of range near order 0, but the same for all tokens of these agents.
    missing = weighted_sum(weights, 1 - possible.astype(x.dtype))
    few = missing < 0.5
    log_present = jnp.log1p(jnp.where(few, -missing, missing / present))
    log_present = jnp.where(few, log_present, -log_present)
    most = jnp.max(jnp.where(common & ~dead, log_present, -jnp.inf))
    most = lax.stop_gradient(jnp.where(jnp.isneginf(most), 0, most))
    divisor = jnp.where(order == 0, 1, order)
    taken = jnp.where(order > 0, (log_present - most) / divisor, 0)

    pivot = lax.stop_gradient(mean(x))
    scaled = order * (x - pivot[None])
    negligible = jnp.abs(scaled) < _small_exponent(x.dtype)
    small = common & (negligible | ~possible).all(0) & (jnp.abs(order) < _STEEP)
    gentle = jnp.clip(order, -_STEEP, _STEEP)
    series = _power_mean_series(gentle, mean, jnp.where(small[None], x, 0))
    # Near the weighted mean of x the digits of log-sum-exp would be lost: errors there
    # are relative to the largest |x|, even if that one has next to no weight.
    shifted = mean(jnp.expm1(jnp.minimum(jnp.where(small[None], 0, scaled), 20)))
    near = common & ~(bidding & possible & (scaled > 20)).any(0) & (shifted > -0.5)
    close = pivot + jnp.log1p(jnp.where(near, shifted, 0)) / divisor
    inner = bidding & possible & ~(small | near)[None]
    top = _leading_log(divisor, safe_log(mantissa)[:, None] + scales, x, inner)
    apart = divisor * jnp.where(inner.any(0)[None], x - top[None], 0)
    extremes = log_mixture(mantissa, jnp.where(possible, apart, -jnp.inf) + scales)
    close = jnp.where(small, series, close)
    beyond = (jnp.where(inner.any(0), extremes, 0) - most) / divisor
    # The mean is far below all logs where a vanishing weight decides: what is taken off
    # from all tokens is taken from the logs, not from sums that are rounded already.
    level = jnp.where(small | near, close + taken, top + beyond)
    level = jnp.max(jnp.where(dead, -jnp.inf, lax.stop_gradient(level)))
    level = jnp.round(jnp.where(jnp.isfinite(level), level, 0))
    close, far = (close - level) + taken, (top - level) + beyond
    return jnp.where(dead, -jnp.inf, jnp.where(small | near, close, far))


def _leading_log(
    order: jax.Array, log_weights: jax.Array, x: jax.Array, inner: jax.Array
) -> jax.Array:
    """Where the largest term of ``sum_i w_i exp(order x_i)`` is, `(V,)`; else 0.

    A whole number near its `x`, to be subtracted without rounding: for orders of 1e38
    this term is all there is.
    """
    order, log_weights, x = map(lax.stop_gradient, (order, log_weights, x))
    sizes = jnp.sign(order) * x + log_weights / jnp.abs(order)
    sizes = jnp.where(inner, sizes, -jnp.inf)
    leads = inner & (sizes > _largest(sizes)[None] - 1)
    top = jnp.round(_largest(jnp.where(leads, x, -jnp.inf)))
    return jnp.where(jnp.isneginf(top), 0, top)


def _small_exponent(dtype: jnp.dtype) -> float:
    return _SMALL_EXPONENT if dtype == jnp.float32 else _SMALL_EXPONENT / 20


def _power_mean_series(
    order: jax.Array, mean: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """``log(mean(exp(order x))) / order`` by cumulants, at order 0 too.

    The closed form's derivative in the order cancels there.
    """
    first = mean(x)
    deviation = x - first[None]
    second, third, fourth = (mean(deviation**k) for k in (2, 3, 4))
    fourth -= 3 * second**2
    return first + order * (second / 2 + order * (third / 6 + order * fourth / 24))


def entropy(log_q: ArrayLike) -> jax.Array:
    """Shannon entropy in nats of `log_q` `(..., V)`."""
    log_q = jnp.asarray(log_q)
    finite = jnp.where(jnp.isneginf(log_q), 0, log_q)
    return -sum_last(jnp.exp(log_q) * finite)


def total_variation_distance(log_p: ArrayLike, log_q: ArrayLike) -> jax.Array:
    """``sum_t |p(t) - q(t)| / 2`` of two distributions `(..., V)`."""
    return sum_last(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))) / 2


def kl_divergence(log_p: ArrayLike, log_q: ArrayLike) -> jax.Array:
    """``KL(p || q)`` in nats of two distributions `(..., V)`.

    Infinite where `p` has a token that `q` has not; the gradient there is 0.
    """
    log_p, log_q = jnp.asarray(log_p), jnp.asarray(log_q)
    both = (log_p > -jnp.inf) & (log_q > -jnp.inf)
    log_ratio = jnp.where(both, log_p, 0) - jnp.where(both, log_q, 0)
    terms = divergence_terms(jnp.exp(log_p), jnp.exp(log_q), log_ratio)
    missing = (log_p > -jnp.inf) & jnp.isneginf(log_q)
    return jnp.where(missing.any(-1), jnp.inf, sum_last(terms))


def divergence_terms(p: jax.Array, q: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """Terms ``p log(p/q) - p + q >= 0``, which sum to ``KL(p || q)``.

    They keep the divergence of nearly equal distributions, which is of second order,
    if `log_ratio` (any finite number where `p` is 0) is itself accurate.
    """
    small = jnp.abs(log_ratio) < _SMALL_LOG_RATIO
    x = jnp.where(small, log_ratio, 0)
    # x + expm1(-x) = x^2/2 - x^3/6 + ...
    bracket = jnp.zeros_like(x)
    for k in range(10 if x.dtype == jnp.float32 else 18, 1, -1):
        bracket = (-1) ** k / math.factorial(k) + x * bracket
    terms = jnp.where(small, p * x**2 * bracket, p * log_ratio + (q - p))
    return jnp.where(p > 0, terms, q)
