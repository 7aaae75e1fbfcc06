"""Figures of the bids that `ta.bidding` finds."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tokenauction_jax.bidding import BestResponse, Equilibrium
from tokenauction_jax.plots.arguments import check_kind
from tokenauction_jax.plots.sweeps import curves
from tokenauction_jax.reports.optimisations import (
    Payoffs,
    ends,
    payoff_curves,
    with_error,
)
from tokenauction_jax.simulation import Bidders

_BID = "bid (money per unit of value)"


def best_response(
    found: BestResponse, *, present: float = math.nan, x_label: str = _BID
) -> Figure:
    """What each bid that was tried is worth to the agent, with 95 % intervals.

    The dashed line is the best bid, a dotted one the present. Bids far beyond both are
    left out.

    Args:
      found: By `ta.bidding.best_response`.
      present: The bid that the agent has, to be marked.
      x_label: The x axis; with `unit` of values a bid is a share of the value.

    Raises:
      ValueError: If `found` is of several searches at once.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> found = ta.bidding.best_response(
    ...     jax.random.key(0), ta.Mechanism(ta.linear(), ta.pay_your_bid()), pool,
    ...     [0.5, 1.0], 0, values=[4.0, 1.0], valuation=ta.total_variation(),
    ...     num_tokens=1)
    >>> figure = ta.plots.best_response(found, present=0.5)
    >>> figure.axes[0].get_ylabel()
    'payoff (money per text)'
    """
    check_kind(found, "what ta.bidding.best_response found", BestResponse)
    if np.ndim(found.grid) != 1:
        raise ValueError(
            f"found.grid has shape {np.shape(found.grid)}, expected (k,): draw the "
            "responses of a `vmap` one by one"
        )
    tried = (found.grid, found.payoffs, found.payoff_errors)
    points = [
        (float(bid), ends(float(mean), float(error)))
        for bid, mean, error in zip(*map(np.asarray, tried), strict=True)
    ]
    own = Payoffs("", points, best=float(found.bid), present=present)
    return payoff_curves([own], x_label)


def equilibrium(
    found: Equilibrium, *, names: Sequence[str] = (), y_label: str = _BID
) -> Figure:
    """The bids of all agents after each step, on the way to an equilibrium.

    The title says what all agents together would gain by leaving the last ones.

    Args:
      found: By `ta.bidding.equilibrium`, in bids.
      names: Of the agents, by default their numbers.
      y_label: The y axis; with `unit` of values a bid is a share of the value.

    Raises:
      ValueError: If policies were trained, if `found` is of several searches at once,
        or if there is not a name an agent.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    >>> found = ta.bidding.equilibrium(
    ...     jax.random.key(0), ta.Mechanism(ta.linear(), ta.pay_your_bid()), pool,
    ...     values=[2.0, 1.0], valuation=ta.total_variation(), num_tokens=1)
    >>> ta.plots.equilibrium(found).axes[0].get_xlabel()
    'step'
    """
    check_kind(found, "what ta.bidding.equilibrium found", Equilibrium)
    if isinstance(found.bids, Bidders):
        raise ValueError("found has policies, not bids: draw the numbers of each")
    if np.ndim(found.history) != 2:
        raise ValueError(
            f"found.history has shape {np.shape(found.history)}, expected (steps, n): "
            "draw the equilibria of a `vmap` one by one"
        )
    taken = int(found.num_steps)
    told = with_error(float(found.gap), float(found.gap_error))
    return curves(
        np.arange(1, taken + 1),
        np.asarray(found.history)[:taken].T,
        names=list(names) or [f"agent {i}" for i in range(len(found.bids))],
        title=f"gap {told} (money per text)",
        x_label="step",
        y_label=y_label,
    )
