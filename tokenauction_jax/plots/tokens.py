"""One token: what agents want, what it is drawn from, and what it would cost."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.plots.arguments import agent_names, check_kind
from tokenauction_jax.reports import drawing


@matplotlib.rc_context(drawing.STYLE)
def token(
    mechanism: Mechanism,
    bids: ArrayLike,
    log_probs: ArrayLike,
    *,
    names: Sequence[str] = (),
    words: Sequence[str] = (),
    most: int = 12,
) -> Figure:
    """The auction of one token: the agents' distributions, the aggregate, payments.

    Left, a bar an agent for its probability of each token, and a black diamond for the
    aggregate's, which the token is drawn from. Right, what each agent pays on average
    if that token is drawn.

    Args:
      mechanism: The rules.
      bids: `(n,)`, money per unit of value.
      log_probs: `(n, V)`, the agents' distributions.
      names: Of the agents, by default their numbers.
      words: What tokens are called, `V` of them, by default their numbers.
      most: How many tokens, those that are likeliest to be drawn.

    Raises:
      ValueError: If a shape or a number is wrong, or the auction is undefined.

    >>> import jax.numpy as jnp, tokenauction_jax as ta
    >>> rule = ta.linear()
    >>> figure = ta.plots.token(
    ...     ta.Mechanism(rule, ta.second_price(rule)), [1.0, 2.0],
    ...     jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])),
    ...     names=["airline", "resort"], words=["flights", "beaches", "pools"])
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['probability', 'pays if drawn (money)']
    """
    check_kind(mechanism, "a Mechanism: ta.Mechanism(rule, payment)", Mechanism)
    bids, log_probs = base.check_auction(bids, log_probs)
    count, size = log_probs.shape
    if words and len(words) != size:
        raise ValueError(f"words must be {size}, a token each, got {len(words)}")
    agents = agent_names(names, count)
    q = np.exp(np.asarray(mechanism.aggregation.log_prob(bids, log_probs)))
    if not q.any():
        raise ValueError("log_probs leave no token that all bidders can produce")
    shown = np.argsort(-q, kind="stable")[:most]
    pays = jax.vmap(lambda drawn: mechanism.payment.conditional(bids, log_probs, drawn))
    height = 1.0 + 0.12 * len(shown) * (count + 1)
    figure = drawing.new_figure(7.0, height)
    wants, paid = figure.subplots(1, 2, sharey=True)
    _bars(wants, np.exp(np.asarray(log_probs))[:, shown], "probability")
    _bars(paid, np.asarray(pays(jnp.asarray(shown))).T, "pays if drawn (money)")
    places = np.arange(len(shown))
    (drawn,) = wants.plot(q[shown], places, "D", color="black", markersize=4, zorder=3)
    called = [str(words[i]) if words else str(i) for i in shown]
    wants.set_yticks(places, [drawing.short(word, 20) for word in called])
    wants.set_ylim(len(shown) - 0.5, -0.5)
    if len(shown) < size:
        wants.set_ylabel(f"the {len(shown)} likeliest of {size:,} tokens")
    entries = [(name, drawing.bar_key(i)) for i, name in enumerate(agents)]
    drawing.legend(figure, [*entries, ("aggregate", drawn)])
    return figure


def _bars(axes: Axes, lengths: np.ndarray, label: str) -> None:
    """Bars of lengths `(n, k)`, those of a token beside each other."""
    count = len(lengths)
    places = np.arange(lengths.shape[1])
    for agent, row in enumerate(lengths):
        colour, _ = drawing.look(agent)
        shift = (agent - (count - 1) / 2) * 0.8 / count
        axes.barh(places + shift, row, 0.8 / count, color=colour)
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
