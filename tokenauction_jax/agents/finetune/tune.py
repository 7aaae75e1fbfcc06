"""Fine-tuning of a checkpoint on a file, from the data to a folder that loads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from tokenauction_jax.agents.checkpoints import peft
from tokenauction_jax.agents.checkpoints.export import write_directory
from tokenauction_jax.agents.checkpoints.load import Checkpoint
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.finetune.examples import (
    Example,
    plan_batches,
    read_examples,
    split,
)
from tokenauction_jax.agents.finetune.run import TrainingRun, fingerprint
from tokenauction_jax.agents.finetune.trainer import (
    MOST_SEED,
    MOST_STEPS,
    Progress,
    Training,
    TrainingError,
    train,
)
from tokenauction_jax.agents.models import lora
from tokenauction_jax.records import check_integer

# Longer examples need much memory, so they are allowed only on request.
_LONGEST = 512
_HELD_OUT = 0.05
_MOST_EPOCHS = 1e6


class Tuned(NamedTuple):
    """A trained model.

    Attributes:
      checkpoint: The model, merged with its adapter if it has one, and its tokenizer.
      adapter: The adapter that was trained, None if all weights were.
      perplexity: Steps and perplexities of the held-out examples.
    """

    checkpoint: Checkpoint
    adapter: lora.Adapter | None
    perplexity: list[tuple[int, float]]


def fine_tune(
    checkpoint: Checkpoint,
    data: str | Path,
    folder: str | Path,
    *,
    heldout: str | Path | None = None,
    epochs: float = 3.0,
    num_steps: int | None = None,
    batch_size: int = 8,
    learning_rate: float | None = None,
    lora_rank: int | None = None,
    max_length: int | None = None,
    chat: bool = True,
    save_every: int = 100,
    seed: int = 0,
    resume: bool = False,
    on_start: Callable[[Training, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_damaged: Callable[[Path], None] | None = None,
) -> Tuned:
    """Trains a language model agent on a file of text.

    The folder becomes a Hugging Face directory, which `load_checkpoint` and
    `transformers` load. With `lora_rank` the adapter is merged into its weights, and
    also written to `folder/adapter`, for `load_adapter` and PEFT. With `resume` a run
    that was killed goes on from its last whole checkpoint, and ends with the same
    weights, bit for bit on one backend.

    Args:
      checkpoint: The model to start from, from `load_checkpoint`.
      data: JSON lines of prompts and completions, or text; see `read_examples`.
      folder: The folder of the run; new unless it is resumed.
      heldout: A file to measure perplexity on; by default 5 % of the examples are held
        out.
      epochs: How often to see every example, if `num_steps` is None.
      num_steps: Batches to learn from.
      batch_size: Examples of a batch.
      learning_rate: The peak of the learning rate; by default 2e-4, or 1e-3 for an
        adapter.
      lora_rank: The rank of an adapter that is trained instead of all weights.
      max_length: The most tokens of an example; by default the model's context, but at
        most 512.
      chat: Whether prompts are messages of the user, as in `from_language_model`.
      save_every: Steps between two checkpoints.
      seed: The seed of the order of examples, the held-out ones and a new adapter.
      resume: Whether to go on with the run in the folder.
      on_start: Called with the settings and the number of steps done before.
      on_step: Called after every step.
      on_damaged: Called with the folder of each checkpoint that is damaged: the run
        goes on from the one before.

    Raises:
      DataError: If the data cannot be used; the message names file and line.
      CheckpointError: If adapters of the model's family cannot be kept.
      RunExistsError: If the folder exists and `resume` is false.
      TrainingError: If the run cannot begin, go on or be written, or it diverges.
      ValueError: If a number is out of range.
    """
    if lora_rank is not None and checkpoint.raw_config:
        peft.check_family(checkpoint.raw_config["model_type"])
    check_integer("seed", seed, 0, MOST_SEED)
    check_integer("save_every", save_every, 1, MOST_STEPS)
    context = checkpoint.model.config.context_length
    max_length = min(context, _LONGEST) if max_length is None else max_length
    if not 2 <= max_length <= context:
        raise ValueError(
            f"max_length must be from 2 to the model's context of {context}, got "
            f"{max_length}"
        )

    def read(path: str | Path) -> list[Example]:
        return read_examples(
            path, checkpoint.tokenizer, max_length=max_length, chat=chat
        )

    examples = read(data)
    if heldout is None:
        examples, held = split(examples, _HELD_OUT, seed)
    else:
        held = read(heldout)
    batches, checks = (plan_batches(x, batch_size, seed) for x in (examples, held))
    if num_steps is None:
        if not 0 < epochs <= _MOST_EPOCHS:
            raise ValueError(
                f"epochs must be above 0 and at most {_MOST_EPOCHS:g}, got {epochs}"
            )
        num_steps = max(1, math.ceil(epochs * batches.batches_per_epoch))
    if learning_rate is None:
        learning_rate = 2e-4 if lora_rank is None else 1e-3
    training = Training(num_steps, batch_size, learning_rate, seed=seed)
    training.check()
    model = checkpoint.model
    if lora_rank is not None:
        key = jax.random.key(seed)
        model = lora.attach(model, lora.new_adapter(key, model, lora_rank))
    asked = dataclasses.asdict(training) | {
        "model": checkpoint.name,
        "lora_rank": lora_rank,
        "max_length": max_length,
        **fingerprint(checkpoint.model, examples, held),
    }
    folder = Path(folder)
    with TrainingRun(folder, asked, resume=resume) as run:
        if on_damaged is not None:
            for place in run.damaged:
                on_damaged(place)
        if on_start is not None:
            on_start(training, run.last_step)
        model, history = train(
            model,
            batches,
            training,
            heldout=checks,
            evaluate_every=save_every,
            restore=run.restore,
            save=run.save,
            save_every=save_every,
            history=run.history(),
            on_step=on_step,
        )
    adapter = None
    try:
        run.write_history(history)
        if lora_rank is not None:
            adapter = lora.adapter_of(model)
            model = lora.merge(checkpoint.model, adapter)
            target = folder / "adapter"
            peft.save_adapter(target, adapter, checkpoint.model, checkpoint.name)
        write_directory(folder, model, checkpoint.tokenizer, base=checkpoint.raw_config)
    except (OSError, CheckpointError) as error:
        raise TrainingError(
            f"cannot write the trained model ({error}); its last checkpoint is whole: "
            "free some space and resume the run"
        ) from None
    return Tuned(checkpoint._replace(model=model), adapter, history)
