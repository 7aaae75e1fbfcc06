"""Figures of the results of studies and optimisations, as their reports have them."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from tokenauction_jax import optimisation as optimisations
from tokenauction_jax.outside import listed, quoted
from tokenauction_jax.plots.arguments import check_kind
from tokenauction_jax.reports import figures
from tokenauction_jax.reports.drawing import Chart
from tokenauction_jax.reports.optimisations import charts
from tokenauction_jax.studies.results import Results


def study(results: Results, name: str = "welfare") -> Figure:
    """A figure of the report of a study.

    ``"welfare"`` and ``"shortfalls"`` have a line a cell, ``"effects"`` one a level of
    a factor, ``"revenue-welfare"`` a point a cell. A factor of at least three numbers
    has ``"response-FACTOR"`` (such as ``"response-values-share"``); who shades its bid
    ``"regret"``; a weight that moves ``"weight"``; replies ``"compute"``. All have 95 %
    intervals.

    Args:
      results: Of a study, finished or not.
      name: Of the figure.

    Raises:
      ValueError: If the study has no figure of that name, with those that it has.

    >>> import tokenauction_jax as ta
    >>> found = ta.studies.run(ta.studies.Study(
    ...     agents=ta.agents.dirichlet(2, 4, 1.0), values=[2.0, 1.0],
    ...     factors={"rule": ["linear", "log_linear"]},
    ...     num_tokens=2, num_auctions=64))
    >>> ta.plots.study(found, "welfare").axes[0].get_xlabel()
    'welfare (money per text)'
    """
    check_kind(results, "results of ta.studies.run or ta.studies.load", Results)
    return _chosen(figures.charts(results), name)


def optimisation(
    results: optimisations.Results, name: str = "best-responses"
) -> Figure:
    """A figure of the report of an optimisation of bids.

    ``"best-responses"`` has the payoff of every bid that was tried, ``"trajectories"``
    bids and payoffs step by step, ``"gap"`` how far they were from an equilibrium; of
    pacing there are ``"spent-over-text"`` and ``"bid-over-text"``.

    Args:
      results: Of `ta.optimisation.run`, finished or not.
      name: Of the figure.

    Raises:
      ValueError: If the optimisation has no figure of that name, with those it has.
    """
    check_kind(results, "results of ta.optimisation.run", optimisations.Results)
    return _chosen(charts(results), name)


def _chosen(found: Sequence[Chart], name: str) -> Figure:
    for chart in found:
        if chart.name == name:
            return chart.figure
    known = listed([chart.name for chart in found])
    raise ValueError(f"name is {quoted(name)}, and there are the figures {known}")
