"""What `tokenauction train` shows."""

import pathlib
from collections.abc import Sequence

import rich.progress

from tokenauction_jax.agents.finetune import Progress, Training
from tokenauction_jax.cli.displays.console import Console


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
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Some releases of rich end even a bar that was not shown with an empty line.
        if self._console.is_terminal:
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

    def on_damaged(self, checkpoint: pathlib.Path) -> None:
        """Says that a checkpoint is left out."""
        self._console.print(
            f"{checkpoint} is damaged: its checksums are not those of what was written",
            markup=False,
            soft_wrap=True,
        )

    def on_step(self, progress: Progress) -> None:
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
