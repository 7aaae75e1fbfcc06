"""The numbers of a receipt as a page and a terminal show them."""

import math

from tokenauction_jax.receipts.receipt import Receipt, Token
from tokenauction_jax.reports import labels

# Of a token, what is shown of each agent, and whether a terminal has room for it: the
# weight is the same for all tokens, and among the totals.
COLUMNS = {
    "p": True,
    "weight": False,
    "owed": True,
    "charged": True,
    "expected": True,
    "charged so far": True,
    "expected so far": False,
}
TOTALS = ("bid", "weight", "tokens owed", "charged", "expected")


def label(receipt: Receipt, token: Token) -> str:
    """What a token adds to the text, in one line."""
    if token.piece == "" and token.position == len(receipt.tokens) - 1:
        return "(end)"
    return repr(token.piece or "")[1:-1]


def numbers(token: Token, agent: int) -> list[str]:
    """What an agent has of a token, in the order of `COLUMNS`."""
    shown = (
        math.exp(token.log_p[agent]),
        token.weights[agent],
        token.attribution[agent],
        token.payments[agent],
        token.expected_payments[agent],
        token.total_payments[agent],
        token.total_expected_payments[agent],
    )
    return [labels.number(number) for number in shown]


def totals(receipt: Receipt, agent: int) -> list[str]:
    """What an agent has of the whole text, in the order of `TOTALS`."""
    owed = sum(token.attribution[agent] for token in receipt.tokens)
    weight, paid, expected = math.nan, 0.0, 0.0
    for last in receipt.tokens[-1:]:
        weight = last.weights[agent]
        paid = last.total_payments[agent]
        expected = last.total_expected_payments[agent]
    shown = (receipt.bids[agent], weight, owed, paid, expected)
    return [labels.number(number) for number in shown]


def favoured(token: Token) -> int:
    """The agent that a token is owed to most."""
    known = [x if math.isfinite(x) else 0.0 for x in token.attribution]
    return max(range(len(known)), key=known.__getitem__)
