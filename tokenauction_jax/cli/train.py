"""The `tokenauction train` command."""

import dataclasses
import logging

from tokenauction_jax import agents
from tokenauction_jax.agents import finetune
from tokenauction_jax.cli import hints
from tokenauction_jax.cli.arguments import Train
from tokenauction_jax.cli.displays import training as display
from tokenauction_jax.cli.displays.console import Console


def run(command: Train) -> None:
    """Runs the command."""
    hints.warn_about_idle_accelerators()
    # Orbax logs the tracebacks of what it raises, too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = dataclasses.asdict(command)
    data, out = options.pop("data"), options.pop("out")
    del options["no_cache"]  # Not the training's.
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
