"""One text, token by token."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tokenauction_jax.plots.arguments import agent_names, check_kind
from tokenauction_jax.receipts import Receipt
from tokenauction_jax.reports import drawing
from tokenauction_jax.simulation import Rollout

# What tokens and agents have, a column each.
_Columns = Mapping[str, np.ndarray]
_WIDTHS = (5.0, 14.0)
# More names of tokens than these cannot be read side by side.
_MOST_TICKS = 64
_AGGREGATE: dict[str, Any] = {
    "color": "black",
    "linestyle": "",
    "marker": "_",
    "markersize": 11,
    "markeredgewidth": 1.5,
}
_EXPECTED: dict[str, Any] = {
    "color": "black",
    "linestyle": "",
    "marker": "D",
    "markersize": 3.5,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
}


@matplotlib.rc_context(drawing.STYLE)
def text(
    found: Receipt | Rollout,
    auction: int = 0,
    *,
    names: Sequence[str] = (),
    tokenizer: Any = None,
) -> Figure:
    """One text, token by token: who wanted it, who brought it, who paid what.

    Panels, from the top: the probability of the drawn token, in black under the
    aggregate and in colours under each agent's distribution; the share of it that each
    agent brought, with a line at the weights, so that a bar beyond its line is a token
    that the agent wanted more than the others; what each agent was charged, under a
    second price the critical bid of one that won the token, a diamond for what that is
    on average given the token, and a line at the bid; and what was charged so far.

    A rollout does not keep what agents submitted: without a receipt the first panel
    has the aggregate only, and the second is missing.

    Args:
      found: A receipt, or what `simulate` returned.
      auction: Which text of a rollout, by its row.
      names: Of the agents of a rollout, by default their numbers.
      tokenizer: Of a rollout, for the words; without it tokens are numbers.

    Raises:
      ValueError: If a receipt, which is of one text and has its names, is given more;
        or if the rollout has no such text, or no tokens of it.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> rule = ta.linear()
    >>> rollout = ta.simulate(
    ...     jax.random.key(0), ta.Mechanism(rule, ta.second_price(rule)),
    ...     ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))),
    ...     [1.0, 2.0], num_tokens=8, num_auctions=2)
    >>> figure = ta.plots.text(rollout, 1, names=["airline", "resort"])
    >>> len(figure.axes)
    3
    """
    if isinstance(found, Receipt):
        if auction or names or tokenizer is not None:
            raise ValueError("a receipt is of one text and has its names: give no more")
        frame = found.to_pandas()
        columns: _Columns = {str(name): frame[name].to_numpy() for name in frame}
        agents = list(found.agents)
        bids = np.tile(found.bids, (len(frame), 1))
    else:
        check_kind(found, "a receipt, or what ta.simulate returned", Rollout)
        columns, agents, bids = _of_rollout(found, auction, names, tokenizer)
    size = len(columns["token"])
    if not size:
        raise ValueError("the text has no token: its auction was undefined at once")
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _probabilities(axes, columns, agents),
        lambda axes: _charges(axes, columns, agents, bids),
        lambda axes: _totals(axes, columns, agents),
    ]
    if _has(columns, "attribution"):
        panels.insert(1, lambda axes: _shares(axes, columns, agents))
    width = float(np.clip(0.9 + 0.3 * size, *_WIDTHS))
    figure = drawing.new_figure(width, 1.1 + 1.4 * len(panels))
    drawn = figure.subplots(len(panels), 1, sharex=True)
    for axes, draw in zip(drawn, panels, strict=True):
        draw(axes)
        axes.grid(visible=False, axis="x")
    ticks = range(0, size, math.ceil(size / _MOST_TICKS))
    drawn[-1].set_xticks(ticks, [_word(columns, i) for i in ticks], rotation=90)
    drawn[-1].set_xlim(-0.6, size - 0.4)
    names = agent_names(agents, len(agents))
    _explain(figure, names, _has(columns, "attribution"), bids is not None)
    return figure


def _of_rollout(
    rollout: Rollout, auction: int, names: Sequence[str], tokenizer: Any
) -> tuple[_Columns, list[str], np.ndarray | None]:
    """The rows of one text, the agents, and what policies bid, `(T, n)`."""
    if not 0 <= auction < len(rollout.valid):
        raise ValueError(
            f"auction is {auction}: give one from 0 to {len(rollout.valid) - 1}"
        )
    agents = list(names) or [str(i) for i in range(rollout.payments.shape[-1])]
    frame = rollout.to_pandas(agents, tokenizer=tokenizer)
    kept = frame["auction"].to_numpy() == auction
    columns = {str(name): frame[name].to_numpy()[kept] for name in frame}
    bids = _of_agents(columns, agents, "bid") if _has(columns, "bid") else None
    return columns, agents, bids


def _has(columns: _Columns, what: str) -> bool:
    return any(name.startswith(f"{what}/") for name in columns)


def _of_agents(columns: _Columns, agents: Sequence[str], what: str) -> np.ndarray:
    """A column of each agent, `(T, n)`."""
    return np.stack([columns[f"{what}/{name}"] for name in agents], axis=-1)


def _places(size: int, agent: int, count: int) -> np.ndarray:
    """Where an agent's marks are, beside those of the others."""
    return np.arange(size) + (agent - (count - 1) / 2) * 0.8 / count


def _steps(axes: Axes, level: np.ndarray, colour: str, line: str) -> None:
    """A line that has one height a token."""
    edges = np.arange(len(level) + 1) - 0.5
    axes.stairs(level, edges, baseline=None, color=colour, linestyle=line)


def _probabilities(axes: Axes, columns: _Columns, agents: Sequence[str]) -> None:
    q = np.exp(columns["log_prob"].astype(float))
    if _has(columns, "log_p"):
        for agent, own in enumerate(_of_agents(columns, agents, "log_p").T):
            colour, marker = drawing.look(agent)
            places = _places(len(own), agent, len(agents))
            style = {"color": colour, "marker": marker, "markersize": 4}
            axes.plot(places, np.exp(own), linestyle="", **style)
    axes.plot(q, **_AGGREGATE)
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("probability")


def _shares(axes: Axes, columns: _Columns, agents: Sequence[str]) -> None:
    """Stacked bars of what agents brought, and the weights as lines between them."""
    brought = _of_agents(columns, agents, "attribution")
    weights = _of_agents(columns, agents, "weight")
    for agent, (height, top) in enumerate(
        zip(brought.T, brought.cumsum(axis=1).T, strict=True)
    ):
        colour, _ = drawing.look(agent)
        axes.bar(np.arange(len(top)), height, 0.8, bottom=top - height, color=colour)
    for level in weights.cumsum(axis=1).T[:-1]:
        _steps(axes, level, "black", "-")
    axes.set_ylim(0, 1)
    axes.set_ylabel("share brought")


def _charges(
    axes: Axes, columns: _Columns, agents: Sequence[str], bids: np.ndarray | None
) -> None:
    paid = _of_agents(columns, agents, "payment")
    expected = _of_agents(columns, agents, "expected_payment")
    for agent, (charged, mean) in enumerate(zip(paid.T, expected.T, strict=True)):
        colour, _ = drawing.look(agent)
        places = _places(len(charged), agent, len(agents))
        axes.bar(places, charged, 0.8 / len(agents), color=colour)
        owing = mean != 0
        axes.plot(places[owing], mean[owing], **_EXPECTED)
        if bids is not None:
            _steps(axes, bids[:, agent], colour, ":")
    axes.set_ylim(bottom=min(0.0, float(paid.min())))
    axes.set_ylabel("charged\n(money)")


def _totals(axes: Axes, columns: _Columns, agents: Sequence[str]) -> None:
    for agent, paid in enumerate(_of_agents(columns, agents, "payment").T):
        colour, marker = drawing.look(agent)
        total = paid.astype(float).cumsum()
        axes.plot(total, color=colour, marker=marker, markersize=3)
    axes.set_ylabel("charged so far\n(money)")


def _word(columns: _Columns, position: int) -> str:
    """What a token adds to the text, or its number."""
    piece = columns["piece"][position] if "piece" in columns else None
    if piece is None:
        return str(columns["token"][position])
    if piece == "" and position == len(columns["piece"]) - 1:
        return "(end)"
    return drawing.short(piece, 14) or repr(piece)[1:-1]


def _explain(figure: Figure, names: Sequence[str], weights: bool, bids: bool) -> None:
    entries: list[tuple[str, Artist]] = [
        (name, drawing.bar_key(i)) for i, name in enumerate(names)
    ]
    entries.append(("aggregate", Line2D([], [], **_AGGREGATE)))
    if weights:
        entries.append(("weights", Line2D([], [], color="black")))
    entries.append(("mean given the token", Line2D([], [], **_EXPECTED)))
    if bids:
        entries.append(("bids", Line2D([], [], color="black", linestyle=":")))
    drawing.legend(figure, entries)
