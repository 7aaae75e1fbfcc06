"""What `tokenauction audit` shows."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tokenauction_jax.auditing import Audit, ReplyAudit, Submissions
from tokenauction_jax.cli.displays.console import Console

_VERDICTS = {"holds": "green4", "fails": "bold red", "not checked": "dim"}


def show_audit(console: Console, audit: Audit | ReplyAudit) -> None:
    """Prints a table of verdicts, and the counterexamples as code."""
    if isinstance(audit, ReplyAudit):
        rule, things = audit.rule, f"{audit.num_candidates} candidates"
    else:
        rule, things = audit.aggregation, f"{audit.vocab_size} tokens"
    console.print(
        f"\n{rule}: {audit.num_instances:,} random auctions of {audit.num_agents} "
        f"agents and {things}, then an adversary; {audit.seconds:.0f} s",
        style="bold",
    )
    if isinstance(audit, Audit):
        console.print(
            f"{audit.undefined:,} auctions are undefined. Between two random profiles "
            f"of bids an agent can tell which outcome it robustly prefers in "
            f"{100 * audit.comparable:.0f} %.",
            style="dim",
        )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("property")
    table.add_column("")
    table.add_column("holds on", justify="right")
    table.add_column("worst violation", justify="right")
    subject: str | None = ""
    for finding in audit.findings:
        if finding.payment != subject:
            subject = finding.payment
            whole = "the rule" if isinstance(audit, ReplyAudit) else "the aggregation"
            title = whole if subject is None else f"payment {subject}"
            table.add_row(Text(title, "bold"))
        verdict = Text(finding.verdict, _VERDICTS[finding.verdict])
        held = f"{finding.holds_on:,} of {finding.instances:,}"
        worst = f"{finding.worst:.1e}" if finding.worst else "0"
        table.add_row(Text("  " + finding.property), verdict, held, worst)
    console.print(table)
    failures = [f for f in audit.findings if f.counterexample or f.note]
    for finding in failures:
        about = finding.property + (f", {finding.payment}" if finding.payment else "")
        console.print(Text(f"\n{about}: {finding.note}".rstrip(": "), "dim"))
        if finding.counterexample:
            code = f"  {finding.counterexample!r}"
            console.print(code, soft_wrap=True)


def show_submissions(console: Console, rows: Sequence[Submissions]) -> None:
    """Prints one table of what misreported distributions gain under all rules."""
    console.print(
        "\nWhat an agent gains by submitting another distribution than its own, at a "
        "truthful bid, relative to what is at stake:",
        style="bold",
    )
    table = Table(box=None, pad_edge=False)
    for name in ("rule", "valuation"):
        table.add_column(name)
    for name in ("gains in", "mean", "largest"):
        table.add_column(name, justify="right")
    table.add_column("by")
    for row in rows:
        share = f"{row.gaining / row.instances:.0%}" if row.instances else "-"
        gains = (f"{x:.1e}" if row.gaining else "0" for x in (row.mean, row.largest))
        rule = f"{row.rule} + {row.payment}" if row.payment else row.rule
        told = rule, row.valuation or "", share, *gains
        # Brackets are no markup.
        table.add_row(*map(Text, (*told, row.misreport)))
    console.print(table)
