"""What `tokenauction simulate` shows: sample texts, coloured, and tables."""

from collections.abc import Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenauction_jax import records
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.scenarios.scenario import Scenario
from tokenauction_jax.statistics import Estimate
from tokenauction_jax.studies.sweep import Run

# Readable on dark and light backgrounds, and told apart by the colour-blind.
_COLOURS = ("dark_orange", "dodger_blue2", "medium_orchid", "green4", "gold3")
_LABELS = {
    "mention_rate": "mentions",
    "payment": "pays per token",
    "welfare": "welfare per token",
    "infinite_welfare": "infinite welfare",
    "revenue": "revenue per token",
    "entropy": "entropy of q, nats",
    "undefined": "undefined",
}
_RATES = ("mention_rate", "infinite_welfare", "undefined")
_SHOWN_IF_ANY = ("infinite_welfare", "undefined")


def show_results(console: Console, scenario: Scenario, runs: Sequence[Run]) -> None:
    """Prints, rule by rule, a sample text per weight and the table of measures."""
    if scenario.description:
        console.print(scenario.description, style="bold")
    console.print(f"Query: {scenario.query}")
    names = [Text(a.name, colour(i)) for i, a in enumerate(scenario.agents)]
    console.print(
        "Tokens are coloured by who favoured them most:", Text(", ").join(names)
    )
    for rule in scenario.rules:
        chosen = [run for run in runs if run.rule == rule]
        payment = records.describe(chosen[0].mechanism.payment)
        title = f"\n{rule.name}, payment {payment}"
        console.print(title, style="bold")
        for run in chosen:
            share = f"weight of {scenario.agents[0].name} {run.share:.2f}"
            console.print(share, style="dim")
            console.print(Padding(_coloured_text(run), (0, 0, 0, 2)))
        console.print()
        console.print(_table(scenario, chosen))
    console.print(
        f"\n95 % intervals over {scenario.num_auctions} auctions of at most "
        f"{scenario.num_tokens} tokens; valuation {scenario.valuation}.",
        style="dim",
    )


def colour(agent: int) -> str:
    """What an agent's tokens and name are shown in."""
    return _COLOURS[agent % len(_COLOURS)]


def _coloured_text(run: Run) -> Text:
    """The first valid auction's text."""
    valid = run.auctions[run.auctions["valid"]]
    if valid.empty:
        return Text("every auction became undefined", style="red")
    text, first = Text(), valid.iloc[0]
    for piece, agent in zip(first["pieces"], first["favoured_by"], strict=True):
        text.append(" ".join(piece.split("\n")), style=colour(int(agent)))
    return text


def _table(scenario: Scenario, runs: Sequence[Run]) -> Table:
    """Measures down, weights across; below each number its interval."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(Text(f"weight\n{scenario.agents[0].name}"))
    for run in runs:
        table.add_column(f"\n{run.share:.2f}", justify="right")
    for row in zip(*(run.measures for run in runs), strict=True):
        name, agent, _ = row[0]
        if name in _SHOWN_IF_ANY and not any(m.estimate.mean > 0 for m in row):
            continue
        show = _rate if name in _RATES else _mean
        label = Text(f"{_LABELS[name]}\n").append(agent, style="dim")
        table.add_row(label, *(show(measure.estimate) for measure in row))
    return table


def _rate(estimate: Estimate) -> Text:
    mean, low, high = (f"{100 * x:.0f}" for x in estimate[:3])
    return Text(f"{mean} %\n").append(f"[{low}, {high}]", style="dim")


def _mean(estimate: Estimate) -> Text:
    half = estimate.high - estimate.mean
    interval = f"±{half:.3f}" if half == half else "-"
    return Text(f"{estimate.mean:.3f}\n").append(interval, style="dim")
