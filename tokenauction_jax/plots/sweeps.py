"""Arrays over a swept number."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from tokenauction_jax.reports import drawing
from tokenauction_jax.reports.drawing import Panel
from tokenauction_jax.reports.labels import Row, number

# Fewer numbers than these are all marked on a logarithmic axis.
_MOST_TICKS = 10


def curves(
    x: ArrayLike,
    mean: ArrayLike,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    *,
    x_label: str,
    y_label: str,
    names: Sequence[str] = (),
    title: str = "",
    zero: bool = False,
    log_x: bool = False,
) -> Figure:
    """Curves over a swept number, with intervals where they are given.

    Args:
      x: `(k,)`, the number.
      mean: `(k,)`, or `(c, k)` for `c` curves; what is not finite is left out.
      low: Lower ends of intervals, of the shape of `mean`; none without.
      high: Upper ends; given if `low` is.
      x_label: The x axis, with its unit.
      y_label: The y axis, with its unit.
      names: Of the curves, for a legend; one curve needs none.
      title: Above the axes.
      zero: Whether to mark 0 on the y axis.
      log_x: Whether the x axis is logarithmic.

    Raises:
      ValueError: If the shapes disagree.

    >>> import jax, jax.numpy as jnp, tokenauction_jax as ta
    >>> bids = jnp.linspace(0.0, 3.0, 7)
    >>> log_probs = jnp.log(jnp.array([[0.8, 0.2], [0.3, 0.7]]))
    >>> rule = ta.linear()
    >>> paid = jax.vmap(lambda b: ta.second_price(rule).expected(
    ...     jnp.array([0.0, 2.0]).at[0].set(b), log_probs))(bids)
    >>> figure = ta.plots.curves(bids, paid.T, names=["airline", "resort"],
    ...     x_label="bid of the airline (money)", y_label="pays (money per token)")
    >>> figure.axes[0].get_xlabel()
    'bid of the airline (money)'
    """
    xs, ys = np.asarray(x, float), np.atleast_2d(np.asarray(mean, float))
    if xs.ndim != 1 or ys.ndim != 2 or ys.shape[1] != xs.size:
        raise ValueError(
            f"mean has shape {np.shape(mean)}, expected (k,) or (c, k) with x of shape "
            f"(k,), which is {xs.shape}"
        )
    if (low is None) != (high is None):
        raise ValueError("an interval has two ends: give low and high, or neither")
    ends = [ys if end is None else np.asarray(end, float) for end in (low, high)]
    for name, end in zip(("low", "high"), ends, strict=True):
        if end.shape not in (ys.shape, np.shape(mean)):
            raise ValueError(f"{name} has shape {end.shape}, mean {np.shape(mean)}")
    names = list(names) or [""] * (len(ys) == 1)
    if len(names) != len(ys):
        raise ValueError(f"names must be {len(ys)}, a curve each, got {names}")
    lows, highs = (end.reshape(ys.shape) for end in ends)
    lines = []
    for style in range(len(ys)):
        rows: list[Row] = [
            {"mean": float(y), "low": float(a), "high": float(b)}
            for y, a, b in zip(ys[style], lows[style], highs[style], strict=True)
        ]
        lines.append((style, list(zip(map(float, xs), rows, strict=True))))
    panel = Panel(title, y_label, lines)
    figure = drawing.curves([[panel]], names, x_label, zero=zero)
    if log_x:
        drawing.widen(figure)
        if xs.size <= _MOST_TICKS:
            figure.axes[0].set_xticks(xs, list(map(number, xs)))
    return figure
