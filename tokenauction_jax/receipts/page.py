"""A receipt as a page that needs no other file."""

import math
from collections.abc import Sequence
from typing import Any

from tokenauction_jax.receipts import lines
from tokenauction_jax.receipts.receipt import INPUTS, Receipt, Token, leaves
from tokenauction_jax.reports import labels, writer
from tokenauction_jax.reports.drawing import COLOURS

_DETAILS = (*INPUTS, "sampler", "digests", "commits", "environment")


def render(receipt: Receipt) -> str:
    """The page."""
    names = [labels.agent_label(name) for name in receipt.agents]
    versions = receipt.environment.get("versions", {})
    software = {"tokenauction_jax": receipt.environment.get("tokenauction_jax")}
    software |= {"jax": versions.get("jax")}
    rule = f"{receipt.aggregation}, payment {receipt.payment_rule}"
    facts = {
        "rule": rule,
        "auction": receipt.auction,
        "seed": receipt.seed,
        "tokens": f"{len(receipt.tokens)} of at most {receipt.num_tokens}",
        "numbers": f"{receipt.dtype} on {receipt.environment.get('backend')}",
        "versions": ", ".join(f"{k} {v}" for k, v in software.items()),
    }
    content = receipt.to_dict()
    details = leaves({name: content[name] for name in _DETAILS})
    query = (receipt.scenario or {}).get("query")
    return writer.render(
        "receipt.html.jinja",
        receipt=receipt,
        title=query or rule,
        lead=query or "Every token of one text, and what it cost each agent.",
        facts=[(name, str(fact)) for name, fact in facts.items()],
        agents=[
            (name, i % len(COLOURS), lines.totals(receipt, i))
            for i, name in enumerate(names)
        ],
        separator="" if receipt.text is not None else " ",
        columns=lines.COLUMNS,
        heads=lines.TOTALS,
        tokens=[_token(receipt, token, names) for token in receipt.tokens],
        details=[(name, str(value)) for name, value in details if value is not None],
    )


def _token(receipt: Receipt, token: Token, names: Sequence[str]) -> dict[str, Any]:
    most, shares = lines.favoured(token), token.attribution
    told = (f"{name} {100 * x:.0f} %" for name, x in zip(names, shares, strict=True))
    return {
        "position": token.position,
        "piece": str(token.token) if token.piece is None else token.piece,
        "label": lines.label(receipt, token),
        "number": token.token,
        "q": labels.number(math.exp(token.log_prob)),
        "log_q": labels.number(token.log_prob),
        "colour": most % len(COLOURS),
        "opacity": f"{min(max(shares[most], 0.0), 1.0):.2f}",
        "title": ", ".join(told),
        "rows": [(name, lines.numbers(token, i)) for i, name in enumerate(names)],
    }
