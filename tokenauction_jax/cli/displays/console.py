"""The console that commands print on: all that is printed is data, never markup."""

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from tokenauction_jax.outside import visible


class Console(rich.console.Console):
    """Shows the control characters of what is printed; only its own ones act.

    Whatever a display is made of, tables, texts or progress, is rendered here.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """The segments of something to print."""
        for text, style, control in super().render(*arguments, **options):
            yield Segment(text if control else visible(text, keep="\n"), style, control)
