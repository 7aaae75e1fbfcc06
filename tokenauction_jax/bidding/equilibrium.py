"""Bids at which no agent gains by another one: Nash equilibria in scalar bids."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding import gradients, responses
from tokenauction_jax.bidding.dynamics import Dynamics, make_dynamics, with_bids
from tokenauction_jax.bidding.position import Position
from tokenauction_jax.bidding.problem import Problem
from tokenauction_jax.bidding.responses import Aims
from tokenauction_jax.bidding.training import Trainable, Training
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Bidders

# Of a measured gap, the two-sided 95 % quantile of its error.
SURE = 1.96


@records.record
class Equilibrium:
    """Where bids came to rest, and how far from an equilibrium that is.

    Attributes:
      bids: `(n,)`, money per unit of value; 0 for agents that stay out. Or the
        `Bidders` that were found.
      gap: The sum of what agents would gain by deviating, money per text, as
        `equilibrium_gap` measures it, on auctions that had no part in the search.
      gap_error: Its standard error.
      gains: `(n,)`, the gain of each agent.
      converged: Whether the gap and 1.96 standard errors more are within the tolerance.
      num_steps: How many steps were taken.
      history: `(num_steps, n)`, bids after each step; those of the last one are
        repeated. Or policies, each of whose numbers has one row a step.
      undefined: How many auctions become undefined at these bids.
    """

    bids: Any
    gap: jax.Array
    gap_error: jax.Array
    gains: jax.Array
    converged: jax.Array
    num_steps: jax.Array
    history: Any
    undefined: jax.Array


def equilibrium(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    *,
    values: ArrayLike,
    valuation: Aims,
    num_tokens: int,
    num_auctions: int | None = None,
    start: ArrayLike | Bidders | None = None,
    dynamics: str = "mixed",
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 200,
    tolerance: ArrayLike = 1e-4,
    first_auction: ArrayLike = 0,
    unit: ArrayLike = 1.0,
    trainable: Trainable | None = None,
) -> Equilibrium:
    """Bids that are best responses to each other, if these dynamics find some.

    Every step goes towards best responses, found as in `best_response` on the same
    auctions throughout, and only part of the way once an agent turns round:
    ``"alternating"``, one agent after the other; ``"simultaneous"``, all at once, which
    keeps alike agents alike; ``"mixed"``, the second for 40 steps, and then the first,
    which comes to rest more often; ``"averaged"``, all at once, ``1 / k`` of the way in
    step k (fictitious play). With an `optimizer` every step instead follows the
    derivatives of each agent's payoff in its own bid, all at once; bids that would fall
    below 0 are 0. Payoffs need not be concave: a fixed point of an optimizer may be a
    local maximum, which the gap then tells.

    From a start of `Bidders` an `optimizer` trains policies: the numbers of each follow
    the derivative of its own agent's payoff, as `expected` has it, all at once. The gap
    is then that of the best deviations to *constant* bids. What is trained are the
    floats of all policies but those in fields called ``value``, which say what an agent
    values, not what it does; `trainable` says otherwise. Those in fields called
    ``amount`` or ``amounts`` that would fall below 0 are 0; nothing keeps others in
    range. Numbers of one row an auction move by the same in all rows.

    It can be `vmap`ped over values and starts. With one token and deterministic agents
    nothing is sampled.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      values: True values, `(n,)` or `(A, n)`.
      valuation: As in `best_response`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      start: Bids to start from, `(n,)`; half of the (mean) values if None. Or
        `Bidders`.
      dynamics: One of the above.
      optimizer: From optax; None for best responses.
      num_steps: The most steps; fewer if bids come to rest.
      tolerance: The gap, money per text, up to which this is called an equilibrium.
      first_auction: The number of the first auction.
      unit: As in `best_response`. Bids found in units of drawn `values` are an
        equilibrium of agents that know their own value and shade it by a factor.
      trainable: Called as ``trainable(agent, name)``, whether to train what the agent's
        policy has in its field of that name.

    Returns:
      An `Equilibrium`; look at `converged`.

    Raises:
      ValueError: If a shape or a number is wrong.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> found = ta.bidding.equilibrium(
    ...     jax.random.key(0), ta.Mechanism(ta.linear(), ta.pay_your_bid()), pool,
    ...     values=[2.0, 1.0], valuation=ta.total_variation(), num_tokens=1)
    >>> print(*(f"{bid:.4f}" for bid in found.bids), found.converged)
    0.4444 0.2222 True
    """
    num_steps = records.check_integer("num_steps", num_steps, 1)
    chosen, fresh = make_dynamics(
        *(key, mechanism, pool, values, valuation, num_tokens, num_auctions, start),
        *(dynamics, optimizer, first_auction, unit, trainable),
    )
    found, unfit = _equilibrium(chosen, fresh, tolerance, num_steps)
    gradients.check_rewards(unfit)
    if isinstance(found.bids, Bidders):
        gradients.check_policies(with_bids(fresh, found.bids.policies))
    return found


@functools.partial(jax.jit, static_argnames="num_steps")
def _equilibrium(
    dynamics: Dynamics | Training, fresh: Problem, tolerance: ArrayLike, num_steps: int
) -> tuple[Equilibrium, jax.Array]:
    """The equilibrium, and how many texts had a reward that is not finite."""

    def advance(carry: tuple[Position, Any]) -> tuple[Position, Any]:
        position, history = carry
        after = dynamics.step(position)
        history = jax.tree.map(
            lambda x, bids: x.at[position.step].set(bids), history, after.bids
        )
        return after, history

    def unfinished(carry: tuple[Position, Any]) -> jax.Array:
        position, _ = carry
        return (position.step < num_steps) & ~position.at_rest

    start = dynamics.start()
    history = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_steps, *x.shape)), start.bids
    )
    end, history = jax.lax.while_loop(unfinished, advance, (start, history))
    measured = with_bids(fresh, end.bids)
    gap, worst = responses.measure_gap(measured, dynamics.aims)
    policies = isinstance(measured.numbers.bids, Bidders)

    def fill(history: jax.Array, last: jax.Array) -> jax.Array:
        past = jnp.arange(num_steps) >= end.step
        past = past.reshape(-1, *[1] * last.ndim)
        return jnp.where(past, last[None], history)

    found = Equilibrium(
        bids=measured.numbers.bids if policies else end.bids,
        gap=gap.gap,
        gap_error=gap.gap_error,
        gains=gap.gains,
        converged=gap.gap + SURE * gap.gap_error <= tolerance,
        num_steps=end.step,
        history=jax.tree.map(fill, history, end.bids),
        undefined=gap.undefined,
    )
    return found, jnp.maximum(end.unfit, worst.unfit.max())
