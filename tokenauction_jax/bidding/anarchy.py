"""What welfare is lost where agents bid for themselves."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding.gradients import check_policies, mean_and_error
from tokenauction_jax.bidding.objectives import welfare
from tokenauction_jax.bidding.problem import Problem, check_problem
from tokenauction_jax.measures.columns import VALUATIONS
from tokenauction_jax.measures.divergences import divergence_measures
from tokenauction_jax.mechanism.base import Mechanism, Valuation
from tokenauction_jax.mechanism.optimum import optimal_welfare
from tokenauction_jax.simulation import Bidders, simulate


@records.record
class PriceOfAnarchy:
    """Welfare at some bids beside the largest that there is.

    Attributes:
      ratio: Mean cost over the mean of the least cost, at least 1, where cost is minus
        welfare; 1 where nothing is lost.
      ratio_error: Its standard error, by the delta method.
      loss: Mean of the largest welfare less that at the bids, money per text, at least
        0.
      loss_error: Its standard error.
      welfare: Mean at the bids, money per text, at most 0.
      optimum: Mean of the largest, money per text.
      undefined: How many auctions became undefined; they count with what came before.
      infinite: How many texts cost something infinite, which the loss and the ratio
        then are, too, or NaN where even the least cost is.
    """

    ratio: jax.Array
    ratio_error: jax.Array
    loss: jax.Array
    loss_error: jax.Array
    welfare: jax.Array
    optimum: jax.Array
    undefined: jax.Array
    infinite: jax.Array


def price_of_anarchy(
    key: jax.Array,
    mechanism: Mechanism,
    pool: AgentPool,
    bids: ArrayLike | Bidders,
    *,
    values: ArrayLike,
    valuation: Valuation,
    num_tokens: int,
    num_auctions: int | None = None,
    first_auction: ArrayLike = 0,
) -> PriceOfAnarchy:
    """How many times its least the agents' cost is at these bids.

    Valuations are losses, so that agents share a cost, ``-sum_t sum_i w_i v_i(q_t)``.
    Its mean at the bids of an equilibrium over the mean of the least that any outcome
    has is the price of anarchy (Koutsoupias and Papadimitriou, "Worst-case equilibria",
    1999), if there is no worse equilibrium.

    Each token is compared with the best outcome for it, in the context that the
    auction itself has reached: `optimum_shortfall` of studies. What another outcome
    would do to later contexts is not counted.

    Args:
      key: A typed PRNG key.
      mechanism: The rules.
      pool: What supplies the agents' distributions.
      bids: Money per unit of value, `(n,)` or `(A, n)`, such as `equilibrium` finds;
        or `Bidders`.
      values: True values, `(n,)` or `(A, n)`.
      valuation: `total_variation`, `forward_kl` or `reverse_kl`.
      num_tokens: The cap on tokens, ``T``.
      num_auctions: How many texts, ``A``; as in `expected`.
      first_auction: The number of the first auction.

    Raises:
      ValueError: If a shape or a number is wrong, or for another valuation.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> found = ta.bidding.price_of_anarchy(
    ...     jax.random.key(0), ta.Mechanism(ta.linear(), ta.pay_your_bid()), pool,
    ...     [1.5, 0.5], values=[3.0, 1.0], valuation=ta.total_variation(),
    ...     num_tokens=1)
    >>> print(found.ratio, found.loss, found.welfare, found.optimum)
    1.5 0.5 -1.5 -1.0
    """
    problem = check_problem(
        *(key, mechanism, pool, bids, welfare(valuation), values),
        *(num_tokens, num_auctions, first_auction),
    )
    check_policies(problem)
    return _measure(problem, valuation)


@jax.jit
def _measure(problem: Problem, valuation: Valuation) -> PriceOfAnarchy:
    numbers = problem.numbers
    rollout = simulate(
        *(problem.key, numbers.mechanism, problem.pool, numbers.bids),
        num_tokens=problem.num_tokens,
        first_auction=problem.first_auction,
        accumulate=_Losses(valuation),
        observe_args=(numbers.values,),
    )
    lost, had, most = (rollout.totals[name] for name in ("loss", "welfare", "optimum"))
    certain = problem.certain
    loss, loss_error = mean_and_error(lost, certain)
    optimum, _ = mean_and_error(most, certain)
    least = jnp.maximum(-optimum, 0)
    # Of nothing and of rounding.
    excess = jnp.where(loss == 0, 0, loss / least)
    scale = jnp.where(least > 0, least, 1)
    # No residual where nothing is lost.
    _, ratio_error = mean_and_error((lost + excess * most) / scale, certain)
    return PriceOfAnarchy(
        ratio=1 + excess,
        ratio_error=ratio_error,
        loss=loss,
        loss_error=loss_error,
        welfare=mean_and_error(had, certain)[0],
        optimum=optimum,
        undefined=(~rollout.valid).sum(),
        infinite=jnp.isinf(had).sum(),
    )


@records.record
class _Losses:
    """Observes the welfare of one token, the largest, and what is lost."""

    valuation: Valuation

    def __call__(
        self,
        _bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        _token: jax.Array,
        values: jax.Array,
    ) -> dict[str, jax.Array]:
        optimum = optimal_welfare(self.valuation, values, log_probs)
        own = VALUATIONS.index(self.valuation.name)
        seen = {
            name: x[own]
            for name, x in divergence_measures(values, log_probs, log_q).items()
            if name in ("optimum_shortfall", "finite_welfare", "infinite_tokens")
        }
        infinite = seen["infinite_tokens"] > 0
        return {
            "loss": jnp.where(optimum == -jnp.inf, jnp.nan, seen["optimum_shortfall"]),
            "welfare": jnp.where(infinite, -jnp.inf, seen["finite_welfare"]),
            "optimum": optimum,
        }
