"""Fine-tuning by gradient descent: all weights, or a low-rank adapter.

AdamW (Loshchilov and Hutter, arXiv 1711.05101) with a linear warm-up, cosine decay and
clipping of the gradient's norm. The same state, step and batch give the same weights
bit for bit, so that an interrupted run ends with the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tokenauction_jax.agents.finetune.examples import (
    Batch,
    Plan,
    batch_at,
    batches_in_order,
)
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.outside import OutsideError
from tokenauction_jax.records import check_integer

MOST_STEPS = 2**31 - 1
MOST_SEED = 2**32 - 1


class TrainingError(OutsideError):
    """A run that cannot begin, go on or be written, with what to change."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
      num_steps: Batches to learn from.
      batch_size: Examples of a batch.
      learning_rate: The peak of the learning rate, reached after the warm-up.
      warmup: The share of the steps in which it rises from 0.
      final_rate: The share of the peak that the cosine decays to.
      weight_decay: The decay of matrices, per step and unit of learning rate.
      clip: The largest norm of a gradient; longer ones are scaled down.
      seed: The seed of the order of examples, the held-out ones and new adapters.
    """

    num_steps: int
    batch_size: int = 8
    learning_rate: float = 2e-4
    warmup: float = 0.05
    final_rate: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raises `ValueError` for a number out of range."""
        check_integer("num_steps", self.num_steps, 1, MOST_STEPS)
        check_integer("batch_size", self.batch_size, 1, 2**16)
        check_integer("seed", self.seed, 0, MOST_SEED)
        for name, low, high in (
            ("learning_rate", 0, 1e30),
            ("clip", 0, math.inf),
            ("warmup", -1e-9, 1),
            ("final_rate", -1e-9, 1),
            ("weight_decay", -1e-9, math.inf),
        ):
            value = getattr(self, name)
            if not low < value <= high or not math.isfinite(value):
                raise ValueError(f"{name} is out of range: {value!r}")


class TrainState(NamedTuple):
    """The state that a step changes, which is all that a run needs to go on.

    Attributes:
      step: The number of steps so far.
      trained: The parameters that are trained.
      optimizer: The state of the optimiser.
    """

    step: int
    trained: nnx.State
    optimizer: optax.OptState


class Progress(NamedTuple):
    """What a step reports.

    Attributes:
      step: Its number, counted from 1.
      loss: The loss of its batch, in nats per token.
      tokens_per_second: Learnt tokens per second since the start.
      perplexity: The perplexity of the held-out examples, None between evaluations.
    """

    step: int
    loss: float
    tokens_per_second: float
    perplexity: float | None


def train(
    model: Decoder,
    data: Plan,
    training: Training,
    *,
    heldout: Plan,
    evaluate_every: int = 100,
    restore: Callable[[TrainState], TrainState] | None = None,
    save: Callable[[TrainState, list[tuple[int, float]]], None] | None = None,
    save_every: int = 100,
    history: list[tuple[int, float]] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> tuple[Decoder, list[tuple[int, float]]]:
    """Trains a model, or only its low-rank factors if it has any.

    Args:
      model: The model to start from; `lora.attach` gives it factors.
      data: The examples, from `plan_batches`.
      training: The settings.
      heldout: Examples to measure perplexity on, before, during and after training.
      evaluate_every: Steps between two such measurements.
      restore: Given the state before the first step, returns the one to go on from.
      save: Called with the state and the perplexities so far.
      save_every: Steps between two calls of `save`.
      history: The perplexities of an interrupted run.
      on_step: Called after every step.

    Returns:
      The trained model, and the steps and perplexities of all measurements.

    Raises:
      ValueError: If a setting is out of range.
      TrainingError: If the loss is NaN or infinite.
    """
    training.check()
    check_integer("evaluate_every", evaluate_every, 1, MOST_STEPS)
    check_integer("save_every", save_every, 1, MOST_STEPS)
    kind = nnx.LoRAParam if has_factors(model) else nnx.Param
    graph, trained, frozen = nnx.split(model, kind, ...)
    # Steps reuse the memory of the weights, but these belong to the caller.
    trained = jax.tree.map(jnp.copy, trained)
    optimizer = _optimizer(training)
    state = TrainState(0, trained, optimizer.init(trained))
    state = restore(state) if restore else state
    history = list(history or [])
    if not history:
        history.append((0, perplexity(nnx.merge(graph, trained, frozen), heldout)))
    update = functools.partial(_update, training, graph)
    started, learnt = time.perf_counter(), 0
    for number in range(state.step, training.num_steps):
        batch = batch_at(data, number)
        trained, memory, loss = update(frozen, state.trained, state.optimizer, batch)
        state = TrainState(number + 1, trained, memory)
        loss, learnt = float(loss), learnt + int(batch.targets.sum())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {number + 1} is {loss}: lower the learning rate"
            )
        last = number + 1 == training.num_steps
        found = None
        if last or (number + 1) % evaluate_every == 0:
            found = perplexity(nnx.merge(graph, trained, frozen), heldout)
            history.append((number + 1, found))
        rate = learnt / (time.perf_counter() - started)
        if save is not None and (last or (number + 1) % save_every == 0):
            save(state, history)
        if on_step is not None:
            on_step(Progress(number + 1, loss, rate, found))
    return nnx.merge(graph, state.trained, frozen), history


def has_factors(model: Decoder) -> bool:
    """Whether the model has low-rank factors."""
    return bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))


def perplexity(model: Decoder, heldout: Plan) -> float:
    """``exp`` of the mean negative log-likelihood of the tokens to be learnt."""
    graph, weights = nnx.split(model)
    total, count = 0.0, 0
    for batch in batches_in_order(heldout):
        total += float(_total_loss(graph, weights, batch))
        count += int(batch.targets.sum())
    return math.exp(total / count)


def learning_rate(training: Training) -> optax.Schedule:
    """The learning rate by step: linear warm-up, then cosine decay."""
    warmup = min(math.ceil(training.warmup * training.num_steps), training.num_steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=training.learning_rate / (warmup + 1),
        peak_value=training.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(training.num_steps, warmup + 1),
        end_value=training.final_rate * training.learning_rate,
    )


def _optimizer(training: Training) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(training.clip),
        optax.adamw(
            learning_rate(training),
            b2=0.95,
            weight_decay=training.weight_decay,
            mask=lambda trained: jax.tree.map(lambda x: x.ndim > 1, trained),
        ),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def _update(
    training: Training,
    graph: nnx.GraphDef,
    frozen: nnx.State,
    trained: nnx.State,
    memory: optax.OptState,
    batch: Batch,
) -> tuple[Any, optax.OptState, jax.Array]:
    """Parameters and the optimiser's state after one step, and the loss before it."""

    def loss(trained: nnx.State) -> jax.Array:
        total = _negative_log_likelihood(nnx.merge(graph, trained, frozen), batch)
        return total / jnp.maximum(batch.targets.sum(), 1)

    value, slopes = jax.value_and_grad(loss)(trained)
    updates, memory = _optimizer(training).update(slopes, memory, trained)
    return optax.apply_updates(trained, updates), memory, value


@functools.partial(jax.jit, static_argnums=0)
def _total_loss(graph: nnx.GraphDef, weights: nnx.State, batch: Batch) -> jax.Array:
    return _negative_log_likelihood(nnx.merge(graph, weights), batch)


def _negative_log_likelihood(model: Decoder, batch: Batch) -> jax.Array:
    """The sum over all tokens to be learnt, in nats."""
    tokens = jnp.asarray(batch.tokens)
    logits = model(tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.where(batch.targets, losses, 0).sum()
