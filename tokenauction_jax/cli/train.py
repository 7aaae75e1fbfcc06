"""The `tokenauction train` command."""

import dataclasses
import logging
import pathlib
from typing import Annotated

import tyro

from tokenauction_jax import agents
from tokenauction_jax.agents import finetune
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.displays import training as display
from tokenauction_jax.cli.displays.console import Console


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a language model, to bid with in auctions.

    The folder becomes a checkpoint that --model takes and `transformers` loads.
    """

    data: tyro.conf.Positional[pathlib.Path]
    """A .jsonl file with {"prompt": ..., "completion": ...} on each line, or text."""
    out: pathlib.Path
    """Folder of the run: checkpoints, and in the end the model."""
    model: str = agents.HOUSE
    """Where to start: a name or path as for simulate."""
    lora_rank: int | None = None
    """Train a low-rank adapter of this rank instead of all weights."""
    heldout: pathlib.Path | None = None
    """File to measure perplexity on; by default 5 % of the data are held out."""
    epochs: float = 3.0
    """How often to see every example."""
    num_steps: int | None = None
    """Batches to learn from, instead of epochs."""
    batch_size: int = 8
    """Examples of a batch."""
    learning_rate: float | None = None
    """Its peak; by default 2e-4, or 1e-3 for an adapter."""
    max_length: int | None = None
    """The most tokens of an example; by default the context, but at most 512."""
    save_every: int = 100
    """Steps between two checkpoints and evaluations."""
    seed: int = 0
    """Of all randomness."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the interrupted run in the folder; ends with the same weights."""


def run(command: Train) -> None:
    """Runs the command."""
    hints.warn_about_idle_accelerators()
    # Orbax logs the tracebacks of what it raises, too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = dataclasses.asdict(command)
    data, out = options.pop("data"), options.pop("out")
    checkpoint = agents.load_checkpoint(options.pop("model"))
    console = Console()
    with display.TrainingProgress(Console(stderr=True)) as progress:
        try:
            tuned = finetune.fine_tune(
                checkpoint,
                data,
                out,
                **options,
                on_start=progress.plan,
                on_step=progress.on_step,
                on_damaged=progress.on_damaged,
            )
        except finetune.RunExistsError:
            raise finetune.TrainingError(
                f"{command.out} exists and is kept: --out names another folder, "
                "--resume goes on with the run in it"
            ) from None
        except (finetune.DataError, finetune.TrainingError, agents.CheckpointError):
            raise
        except ValueError as error:
            raise finetune.TrainingError(str(error)) from None
    display.show_perplexity(console, tuned.perplexity)
    console.print(f"Written to {out}; bid with it by --model {out}")
