"""Truthful payments for any aggregation and valuation, by Myerson's identity.

With ``x(s)`` the value to agent i of the aggregate at its own bid ``s``, the payment is
``b x(b) - integral_0^b x(s) ds``, which is ``integral_0^b s x'(s) ds`` without the
cancellation. Source: Myerson, "Optimal Auction Design" (1981), section 3.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.mechanism import base, distributions
from tokenauction_jax.mechanism.invariances import is_neutral

# Gauss-Lobatto panels in a variable that resolves the log-odds t of the own bid evenly
# near 0 and ever coarser further away, where all aggregates are exponential in t. Their
# nodes include both ends: a kink before the first inner node would go unnoticed.
_LAST = np.polynomial.legendre.Legendre.basis(6)
# All roots are real, which NumPy 2.5 does not say.
_NODES = np.array([-1.0, *np.sort(_LAST.deriv().roots().real), 1.0])
_WEIGHTS = 2 / (42 * _LAST(_NODES) ** 2)
_KNEE = 8.0
# exp(-14) of the integral lies further down, even for values that grow like log s.
_REACH = 14.0
# In each round the `_WORST` panels are split: near kinks to 1/256 of the first panels.
_WORST, _PARTS, _ROUNDS = 4, 4, 5
# Of ``x``, in units of the last digit of 1 + its size; and of a rise: what slopes that
# were looked at closely enough may miss.
_NOISE, _MISSED = 64, 1e-3
# The two highest Legendre coefficients that the nodes can see: small where f is smooth,
# and never both 0 at a jump of f.
_ROUGHNESS = np.stack(
    [_WEIGHTS * np.polynomial.legendre.Legendre.basis(k)(_NODES) for k in (5, 6)]
)


@records.record
class Myerson:
    """See `myerson`."""

    aggregation: base.Aggregation
    valuation: base.Valuation
    name: ClassVar[str] = "myerson"
    deterministic: ClassVar[bool] = True

    @property
    def neutral(self) -> bool:
        """Whether the aggregation and the valuation are."""
        return is_neutral(self.aggregation, self.valuation)

    def expected(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """``integral_0^b_i s x_i'(s) ds`` `(n,)`, in money per token."""
        bids, log_probs = base.check_auction(bids, log_probs)
        infinite = self._infinite(bids, log_probs)
        if records.is_concrete(infinite) and bool(infinite.any()):
            raise ValueError(
                f"undefined auction: agents {np.flatnonzero(infinite).tolist()} value "
                f"the aggregate at -inf under {self.valuation.name!r}, whatever they "
                "bid; widen the sampling (a larger top_k, no top_p) or price "
                "another valuation"
            )
        pays = jax.vmap(self._payment, (0, None, None))(
            jnp.arange(bids.shape[0]), bids, log_probs
        )
        return jnp.where(infinite.any(), 0, pays)

    def conditional(
        self, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """`expected`: the payment does not depend on the token."""
        base.check_token(token, log_probs)
        return self.expected(bids, log_probs)

    def realized(
        self, key: jax.Array, bids: ArrayLike, log_probs: ArrayLike, token: ArrayLike
    ) -> jax.Array:
        """`expected`: the payment does not depend on the token."""
        del key
        return self.conditional(bids, log_probs, token)

    def defined(self, bids: ArrayLike, log_probs: ArrayLike) -> jax.Array:
        """Whether every agent's value is finite at its bid, a boolean scalar."""
        return ~self._infinite(*base.check_auction(bids, log_probs)).any()

    def _infinite(self, bids: jax.Array, log_probs: jax.Array) -> jax.Array:
        """Agents `(n,)` that pay for influence on what they value at ``-inf``."""
        log_q = self.aggregation.log_prob(bids, log_probs)
        values = jax.vmap(self.valuation.value, (None, 0))(log_q, log_probs)
        rivals = distributions.sum_of_others(bids) > 0
        exists = jnp.isfinite(jnp.max(log_q))
        return jnp.isneginf(values) & (bids > 0) & rivals & exists

    def _payment(
        self, agent: jax.Array, bids: jax.Array, log_probs: jax.Array
    ) -> jax.Array:
        own, others = bids[agent], bids.at[agent].set(0)
        paid = base.bids_define_auction(bids) & (own > 0) & (others.sum() > 0)
        rule = self.aggregation
        influence = rule.influence if isinstance(rule, base.SupportsInfluence) else 1
        influence = jnp.asarray(influence, bids.dtype)
        safe = jnp.where(paid, own, 1)
        rival = others > 0
        # Masked after the product: -inf times influence has the slope 0 * -inf.
        scores = influence * jnp.log(jnp.where(rival, others, 1))
        log_others = distributions.log_sum_exp(jnp.where(rival, scores, -jnp.inf))
        top = influence * jnp.log(safe) - jnp.where(paid, log_others, 0)
        bottom = jnp.minimum(top, 0) - jnp.maximum(_REACH * influence, 10)
        start, stop = (_KNEE * jnp.arcsinh(t / _KNEE) for t in (bottom, top))

        def path(offset: jax.Array) -> tuple[jax.Array, jax.Array]:
            """``s / b_i`` and ``x`` at ``u = stop + offset``; t = K sinh(u / K)."""
            # t(u) - t(stop) without the cancellation.
            gap = jnp.sinh(offset / (2 * _KNEE))
            gap *= 2 * _KNEE * jnp.cosh((stop + offset / 2) / _KNEE)
            share = jnp.exp(gap / influence)
            log_q = self.aggregation.log_prob(
                bids.at[agent].set(safe * share), log_probs
            )
            return share, self.valuation.value(log_q, log_probs[agent])

        return jnp.where(paid, own * _integrate(path, start - stop), 0)


def myerson(aggregation: base.Aggregation, valuation: base.Valuation) -> Myerson:
    """Myerson's payment ``b_i x_i(b_i) - integral_0^b_i x_i(s) ds``.

    Here ``x_i(s)`` is agent i's value of the aggregate at an own bid of ``s``. Where it
    does not fall in ``s``, as under every built-in rule, the payment is not negative
    and bidding one's true value is optimal for an agent with this valuation. It equals
    `second_price` for `linear` with `total_variation`, and `clarke` for `linear` with
    `forward_kl` and, but for the price of a veto, `log_linear` with `reverse_kl`;
    those closed forms cost several hundred times less.

    The error is at most 1e-5 of ``integral_0^b_i s |x_i'(s)| ds`` for ``b_i`` from 1e-3
    to 1e3 times the others' bids where ``x_i`` is smooth, and 1e-3 where it has a few
    kinks (`total_variation` unless the rule is monotone). In float32 it is relative to
    the terms of ``x_i'``, which cancel where ``p_i`` nearly is the aggregate: far above
    1e3 with `total_variation` no digit is left. Between sharp distributions, where
    ``x_i`` is all but a step, it is 5e-5 for logits with a spread of 300, and 2e-3 for
    one of 3,000 (`docs/numbers.md`).

    Where an agent that pays values the aggregate at ``-inf`` whatever it bids, the
    auction is undefined: on concrete values the methods raise `ValueError`, under a
    transformation all pay 0, and `defined` tells.

    Args:
      aggregation: Any rule; quadrature is spaced by its `influence`, if it has one.
      valuation: What the agents maximise.

    Raises:
      ValueError: If one of the two is not such a rule.
    """
    records.check_rule("aggregation", aggregation, base.Aggregation)
    records.check_rule("valuation", valuation, base.Valuation)
    return Myerson(aggregation, valuation)


# ``s / b`` and ``x`` at an offset.
_Path = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def _integrate(path: _Path, start: jax.Array) -> jax.Array:
    """``integral s / b dx`` from `start` to 0, by a fixed budget of adaptive panels."""
    dtype = start.dtype
    slots = _WORST + _ROUNDS * _WORST * (_PARTS - 1)

    def refine(panels: tuple[jax.Array, ...], number: jax.Array) -> tuple[Any, None]:
        left, width, _, error = panels
        worst = lax.top_k(error, _WORST)[1]
        part = width[worst] / _PARTS
        parts = jnp.arange(_PARTS, dtype=dtype)
        lefts = (left[worst][:, None] + jnp.multiply.outer(part, parts)).ravel()
        widths = jnp.repeat(part, _PARTS)
        fresh = _WORST + number * _WORST * (_PARTS - 1)
        fresh += jnp.arange(_WORST * (_PARTS - 1)).reshape(_WORST, -1)
        where = jnp.concatenate([worst[:, None], fresh], axis=1).ravel()
        measured = lax.map(lambda panel: _measure(path, *panel), (lefts, widths))
        split = (lefts, widths, *measured)
        return tuple(
            old.at[where].set(new) for old, new in zip(panels, split, strict=True)
        ), None

    # The first panels were never looked at: an infinite error has them split.
    first = jnp.arange(slots) < _WORST
    width = jnp.where(first, -start / _WORST, 0)
    left = start + jnp.arange(slots, dtype=dtype) * width
    panels = (left, width, jnp.zeros(slots, dtype), jnp.where(first, jnp.inf, -1.0))
    panels, _ = lax.scan(refine, panels, jnp.arange(_ROUNDS))
    return panels[2].sum()


def _measure(
    path: _Path, left: jax.Array, width: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``integral s / b dx`` over a panel, and what may be wrong with it.

    By the slopes of ``x``, which do not cancel; or, where these miss some of its rise,
    as over a step, or are no numbers, as beside a rival's bid of 0 whose power has no
    derivative, by parts: that is never more than all of ``x`` rising at one end.
    """
    nodes, weights, roughness = (
        jnp.asarray(x, left.dtype) for x in (_NODES, _WEIGHTS, _ROUGHNESS)
    )

    def at(offset: jax.Array) -> tuple[Any, Any]:
        return jax.jvp(path, (offset,), (jnp.ones_like(offset),))

    (share, x), (density, slope) = jax.vmap(at)(left + width * (nodes + 1) / 2)
    weights *= width / 2
    # Of infinite values slopes are all there is; where they matter it is undefined.
    finite = jnp.isfinite(x).all()
    x = jnp.where(finite, x, 0)
    smooth = jnp.isfinite(slope).all()
    slope = jnp.where(finite & ~smooth, 0, slope)
    terms, rise = share * slope, x[-1] - x[0]
    missed = jnp.abs(rise - (weights * slope).sum())
    noise = _NOISE * jnp.finfo(x.dtype).eps * (1 + jnp.abs(x).max())
    missed_some = missed > jnp.maximum(noise, _MISSED * jnp.abs(rise))
    step = finite & (missed_some | ~smooth)
    by_parts = share[-1] * rise - (weights * density * (x - x[0])).sum()
    error = jnp.abs((roughness * terms[None]).sum(axis=-1)).sum() * width
    error += jnp.where(step, missed * (share[-1] - share[0]), 0)
    integral = jnp.where(step, by_parts, (weights * terms).sum())
    return integral, lax.stop_gradient(error)
