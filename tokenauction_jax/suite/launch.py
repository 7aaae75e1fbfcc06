"""Runs mechanisms by the yardsticks, and adds their rows to the scorecard."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

from tokenauction_jax import studies
from tokenauction_jax.outside import OutsideError, one_line
from tokenauction_jax.studies.config import Study
from tokenauction_jax.suite import mechanisms, optimum, scorecard, yardsticks
from tokenauction_jax.suite.mechanisms import SuiteError
from tokenauction_jax.suite.scorecard import Row, Scorecard

# Money per text: of less, a share would be of rounding and chance.
_LEAST_GAIN = 0.1
# Given the mechanism, the yardstick and the seconds that it took.
Listener = Callable[[str, str, float], None]


def run(
    names: Sequence[str] = mechanisms.BUILT_IN,
    out: str | pathlib.Path | None = None,
    *,
    quick: bool = False,
    only: Sequence[str] | None = None,
    listen: Listener | None = None,
) -> Scorecard:
    """Runs mechanisms by all yardsticks.

    Args:
      names: Of the mechanisms, see `mechanisms.section`.
      out: The folder of the scorecard. Rows that it has of the same studies are not run
        again, so that an interrupted run goes on, and new mechanisms are added. None
        keeps nothing.
      quick: Whether to run few auctions, in minutes, and not the yardsticks of large
        models.
      only: The yardsticks to run; all if None.
      listen: Called after each study.

    Returns:
      The scorecard, with the rows that the folder had.

    Raises:
      SuiteError: If a mechanism is none, or cannot go through a yardstick; if the
        folder has another scorecard, or cannot be written.
    """
    wanted = yardsticks.YARDSTICKS if only is None else only
    for name in wanted:
        if name not in yardsticks.YARDSTICKS:
            known = ", ".join(yardsticks.YARDSTICKS)
            raise SuiteError(f"no yardstick {name!r}: there are {known}")
    if quick:
        wanted = [x for x in wanted if x not in yardsticks.FULL_ONLY]
    folder = None if out is None else pathlib.Path(out)
    card = Scorecard() if folder is None else scorecard.read(folder / "scorecard.json")
    # All are looked at before anything runs.
    todo = [
        (name, yardstick, _study(name, yardstick, quick))
        for yardstick in wanted
        for name in dict.fromkeys(names)
    ]
    todo = [x for x in todo if _is_new(card.find(*x[:2]), x[2])]

    # One after another: compiling, which takes most of it, uses all cores by itself.
    for case in todo:
        start = time.perf_counter()
        row = _row(*case, quick)
        card = card.with_row(row)
        if folder is not None:
            scorecard.write(card, folder)
        if listen is not None:
            listen(row.mechanism, row.yardstick, time.perf_counter() - start)
    if folder is not None:
        scorecard.write(card, folder)
    return card.ordered()


def _study(name: str, yardstick: str, quick: bool) -> Study:
    try:
        return yardsticks.study(yardstick, mechanisms.section(name), quick)
    except OutsideError as error:
        raise SuiteError(f"{name}: {error}") from None


def _is_new(row: Row | None, study: Study) -> bool:
    """Whether a study has to run: a row of the same one needs no other."""
    return row is None or row.digest != study.digest()


def _row(name: str, yardstick: str, study: Study, quick: bool) -> Row:
    try:
        results = studies.run(study)
    except OutsideError:
        raise
    except Exception as error:  # Whatever a user's mechanism raises.
        told = one_line(f"{type(error).__name__}: {error}")
        raise SuiteError(f"{name} by {yardstick}: {told}") from error
    row = scorecard.row(name, yardstick, quick, study.digest(), results)
    cell = study.populations[0]
    known = optimum.regularized_range(cell, study.num_auctions, study.tau)
    if known is None or known.best - known.reference < _LEAST_GAIN:
        return row
    return dataclasses.replace(row, share=scorecard.share(results, known))
