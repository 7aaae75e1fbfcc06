"""What `tokenauction receipt` and `tokenauction replay` show."""

import itertools
import math
from collections.abc import Iterable, Iterator

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.cli.displays.simulate import colour
from tokenauction_jax.receipts import Receipt, Replay, lines
from tokenauction_jax.reports import labels


def show_receipt(console: Console, receipt: Receipt) -> None:
    """Prints the text, who is charged how much for each of its tokens, and totals."""
    names = [
        Text(labels.agent_label(name), colour(i))
        for i, name in enumerate(receipt.agents)
    ]
    title = f"{receipt.aggregation}, payment {receipt.payment_rule}"
    console.print(
        f"Auction {receipt.auction}, seed {receipt.seed}: {title}", style="bold"
    )
    text = Text()
    for token in receipt.tokens:
        piece = f"{token.token} " if token.piece is None else token.piece
        text.append(" ".join(piece.split("\n")), colour(lines.favoured(token)))
    console.print(Padding(text, (0, 0, 0, 2)))
    if not receipt.valid:
        console.print("  then the auction became undefined", style="red")
    console.print()
    table = _table("", "token", "q", "agent", *_fitting(lines.COLUMNS))
    for token in receipt.tokens:
        q = labels.number(math.exp(token.log_prob))
        word = Text(lines.label(receipt, token), colour(lines.favoured(token)))
        if token.piece is None:
            word = Text(str(token.token), colour(lines.favoured(token)))
        for i, name in enumerate(names):
            first = (str(token.position), word, q) if i == 0 else ("", "", "")
            table.add_row(*first, name, *_fitting(lines.numbers(token, i)))
    console.print(table)
    console.print()
    table = _table("agent", *lines.TOTALS)
    for i, name in enumerate(names):
        table.add_row(name, *lines.totals(receipt, i))
    console.print(table)


def show_agreement(console: Console, receipt: Receipt, found: Replay) -> None:
    """Prints that all agrees, and how closely it was looked at."""
    how = "bit for bit"
    if not found.exact:
        where = ", ".join(found.elsewhere) or "run"
        how = f"numbers to {found.tolerance:g} (computed elsewhere: {where})"
    size = len(receipt.tokens)
    console.print(
        f"Auction {receipt.auction}, seed {receipt.seed}: all of {size} tokens agree, "
        f"{how}",
        soft_wrap=True,
    )


def _fitting(cells: Iterable[str]) -> Iterator[str]:
    """Of cells in the order of `lines.COLUMNS`, those that a terminal has room for."""
    return itertools.compress(cells, lines.COLUMNS.values())


def _table(*heads: str) -> Table:
    """Words to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        if head in ("token", "agent"):
            table.add_column(head)
        else:
            table.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True)
    return table
