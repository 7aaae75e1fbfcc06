"""What `tokenauction audit` shows."""

from rich.table import Table
from rich.text import Text

from tokenauction_jax.auditing import Audit
from tokenauction_jax.cli.displays.console import Console

_VERDICTS = {"holds": "green4", "fails": "bold red", "not checked": "dim"}


def show_audit(console: Console, audit: Audit) -> None:
    """Prints a table of verdicts, and the counterexamples as code."""
    console.print(
        f"\n{audit.aggregation}: {audit.num_instances:,} random auctions of "
        f"{audit.num_agents} agents and {audit.vocab_size} tokens, then an adversary; "
        f"{audit.seconds:.0f} s",
        style="bold",
    )
    console.print(
        f"{audit.undefined:,} auctions are undefined. Between two random profiles of "
        f"bids an agent can tell which outcome it robustly prefers in "
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
            title = "the aggregation" if subject is None else f"payment {subject}"
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
