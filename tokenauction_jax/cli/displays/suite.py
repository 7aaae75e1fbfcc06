"""What `tokenauction suite` shows."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.displays.numbers import duration
from tokenauction_jax.cli.displays.progress import Activity
from tokenauction_jax.reports import labels
from tokenauction_jax.suite import Scorecard, yardsticks


class SuiteProgress:
    """What ran last, and how long all took."""

    def __init__(self, console: Console):
        self._console, self._activity = console, Activity(console)

    def __enter__(self) -> "SuiteProgress":
        self._activity.__enter__()
        self._activity.show("loading")
        return self

    def __exit__(self, *_: object) -> None:
        self._activity.__exit__()

    def show(self, mechanism: str, yardstick: str, seconds: float) -> None:
        """A study is done."""
        told = f"{mechanism} by {yardstick}: {duration(seconds)}"
        if self._console.is_terminal:
            self._activity.show(told)
        else:
            self._console.print(told, markup=False, soft_wrap=True)


def show_yardsticks(console: Console) -> None:
    """Prints the yardsticks, what they are and how large."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("yardstick")
    table.add_column("auctions", justify="right")
    table.add_column("quick", justify="right")
    table.add_column("")
    for name in yardsticks.YARDSTICKS:
        full, quick = (yardsticks.content(name, x) for x in (False, True))
        few = "-" if name in yardsticks.FULL_ONLY else f"{quick['num_auctions']:,}"
        told = f"{full['num_auctions']:,}", few, full["description"]
        table.add_row(*map(Text, (name, *told)))
    console.print(table)


def show_scorecard(console: Console, card: Scorecard, names: Sequence[str]) -> None:
    """Prints the share of the best welfare by yardstick, and what lies gain."""
    known = [
        name
        for name in yardsticks.YARDSTICKS
        if any(row.yardstick == name and row.share for row in card.rows)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("mechanism")
    for name in known:
        table.add_column(Text(name.replace("_", "\n")), justify="right")
    table.add_column("gain\nby lying", justify="right")
    for mechanism in card.mechanisms:
        shown = []
        for name in known:
            row = card.find(mechanism, name)
            share = row and row.share
            shown.append(f"{100 * share.mean:.0f} %" if share else labels.DASH)
        lies = card.find(mechanism, yardsticks.MISREPORTS)
        gain = lies and lies.lying_gain
        shown.append(gain.shown() if gain else labels.DASH)
        style = "bold" if mechanism in names else ""
        table.add_row(Text(mechanism, style), *map(Text, shown))
    console.print(table)
    console.print(
        "\nShare of what the best law of texts gains in regularised welfare over the "
        "reference; what the first agent gains by its better lie, in money.",
        style="dim",
    )
