"""What an optimisation found, as tables."""

import functools
import math
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from tokenauction_jax import files, outside
from tokenauction_jax.bidding.equilibrium import SURE
from tokenauction_jax.files import StoreError
from tokenauction_jax.optimisation.config import (
    BestResponse,
    Outline,
    Pacing,
)
from tokenauction_jax.optimisation.folder import Folder
from tokenauction_jax.optimisation.history import History
from tokenauction_jax.optimisation.phases import Row

_TABLES = ("answers", "estimates")


class Results:
    """What an optimisation found, finished or not.

    Args:
      outline: What it is of.
      history: What happened.
      environment: Where it ran, if that is known.
    """

    def __init__(
        self,
        outline: Outline,
        history: History,
        environment: dict[str, Any] | None = None,
    ):
        self.outline, self.environment = outline, environment or {}
        self._history = history

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """The whole history, a row an estimate.

        Columns: `stage`, `step`, `agent` (-1 for all), `position` (-1 for the text),
        `bid` (NaN if at none), `quantity`, `mean` and its standard `error`. Money per
        text but for shares of auctions (`undefined`) and bids.
        """
        return self._history.frame()

    @property
    def finished(self) -> bool:
        """Whether all was done."""
        last = self.outline.goal.policy if isinstance(self.outline.goal, Pacing) else ""
        if last:
            return f"spent {last}" in self._history.found
        return "gap" in self._history.found

    @property
    def gap(self) -> tuple[float, float]:
        """The gap and its standard error, NaN before it is measured.

        Money that agents would gain by deviating (that one agent, for a best response);
        for pacing the largest share of a budget that is missed.
        """
        found = self._history.found
        if "gap" not in found:
            return math.nan, math.nan
        return float(found["gap"]), float(found["gap_error"])

    @property
    def converged(self) -> bool | None:
        """Whether the measured gap, and 1.96 errors more, is within the tolerance.

        None for a best response, which has none, and before the gap is measured.
        """
        goal, (gap, error) = self.outline.goal, self.gap
        if isinstance(goal, BestResponse) or math.isnan(gap):
            return None
        return gap + SURE * error <= goal.tolerance

    @functools.cached_property
    def bids(self) -> np.ndarray:
        """The bids that were found, `(n,)`, in units of the values if they are drawn.

        Those of the last step before the end; of a best response NaN for the others.
        """
        found, names = self._history.found, self.outline.agents
        if isinstance(self.outline.goal, BestResponse):
            agent = self.outline.goal.agent
            best = found.get(f"best {agent}", math.nan)
            return np.where(np.arange(len(names)) == agent, best, math.nan)
        if "bids" in found:
            return np.asarray(found["bids"], float)
        last = [self.rows(stage="dynamics", agent=i)[-1:] for i in range(len(names))]
        return np.array([row[0].bid if row else math.nan for row in last])

    @functools.cached_property
    def answers(self) -> pd.DataFrame:
        """What was found, a row an agent.

        Columns: `agent`; `bid`, what was found; and each with its standard error
        `payoff`, the best response `best_bid` and what it would `gain`. For a best
        response the payoff is that of the `present_bid`; for pacing there are `spend`
        and `budget` in place of best responses. `known` and `off_by` are there where
        the answer is known.
        """
        goal, names = self.outline.goal, self.outline.agents
        rows = []
        for agent, name in enumerate(names):
            if isinstance(goal, BestResponse) and agent != goal.agent:
                continue
            row: dict[str, Any] = {"agent": name, "bid": self.bids[agent]}
            if isinstance(goal, BestResponse):
                rows_there = self.rows(stage="gap", quantity="payoff", agent=agent)
                row["present_bid"] = rows_there[-1].bid if rows_there else math.nan
            row["payoff"], row["payoff_error"] = self._last("payoff", agent)
            if isinstance(goal, Pacing):
                row["spend"], row["spend_error"] = self._last("spend", agent)
                row["budget"] = self.budgets[agent]
            else:
                best = self._history.found.get(f"best {agent}", math.nan)
                row["best_bid"] = float(best)
                row["gain"], row["gain_error"] = self._last("gain", agent)
            rows.append(row)
        table = pd.DataFrame(rows)
        if (known := self.outline.known) is not None:
            table["known"] = known.bids
            table["off_by"] = table["bid"] - table["known"]
        return table

    @property
    def budgets(self) -> np.ndarray:
        """Budgets `(n,)`, infinity where there is none."""
        from tokenauction_jax.optimisation.pacing import budgets_of

        goal, n = self.outline.goal, len(self.outline.agents)
        return budgets_of(goal, n) if isinstance(goal, Pacing) else np.full(n, np.inf)

    @property
    def as_known(self) -> bool | None:
        """Whether bids are those that are known; None if they are not, or not found."""
        known = self.outline.known
        if known is None or not self.finished:
            return None
        off = np.abs(self.answers["off_by"]).max()
        return bool(off <= known.within * max(known.bids))

    def rows(self, **wanted: Any) -> list[Row]:
        """The estimates whose fields are as wanted, in their order."""
        return [
            row
            for row in self._history.rows
            if all(getattr(row, name) == value for name, value in wanted.items())
        ]

    def _last(self, quantity: str, agent: int) -> tuple[float, float]:
        """The estimate made last, of bids that were found if there is one."""
        for stage in ("gap", "dynamics"):
            found = self.rows(stage=stage, quantity=quantity, agent=agent)
            if found:
                return found[-1].mean, found[-1].error
        return math.nan, math.nan

    def write_tables(self, folder: pathlib.Path) -> None:
        """Writes `answers.csv` and `estimates.csv` into `tables`, in place of earlier.

        Raises:
          StoreError: If they cannot be written.
        """
        place = folder / "tables"
        try:
            place.mkdir(exist_ok=True)
            for name in _TABLES:
                files.write(place / f"{name}.csv", outside.csv(getattr(self, name)))
        except OSError as error:
            raise StoreError(f"cannot write {place}: {files.reason(error)}") from None


def load(path: str | pathlib.Path) -> Results:
    """The results in a folder, finished or not.

    Raises:
      StoreError: If it is not an optimisation's, or damaged.
    """
    folder = Folder(pathlib.Path(path))
    manifest = folder.manifest
    content = manifest.content()
    return Results(manifest.outline, folder.read_history(), content)
