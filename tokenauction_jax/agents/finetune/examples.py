"""Text and prompt-completion pairs as batches of token ids.

The order of the examples depends on the seed and the epoch alone, so that a step sees
the same batch whether or not the run was interrupted before it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.outside import OutsideError, quoted
from tokenauction_jax.records import check_integer

# Lengths that batches are padded to: few, since each is compiled.
_LENGTHS = np.array([16, 24, 32, 48, 64, 80, 96, 128, 192, 256])


class DataError(OutsideError):
    """Training data that cannot be used, with the line and what to change."""


class Example(NamedTuple):
    """One text to learn from.

    Attributes:
      tokens: Ids `(L,)`, int32.
      start: The first place that is predicted, at least 1; those before are given.
    """

    tokens: np.ndarray
    start: int


class Batch(NamedTuple):
    """Examples of one padded length.

    Attributes:
      tokens: Ids `(m, L)`, padded on the right with 0.
      targets: Whether the next token is to be predicted, `(m, L - 1)`.
    """

    tokens: np.ndarray
    targets: np.ndarray


def read_examples(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    chat: bool = True,
) -> list[Example]:
    """The examples of a file.

    A `.jsonl` file (in any case) has an object with the strings `prompt` and
    `completion` on each line, and perhaps `begun`, the text of other bidders that the
    completion continues; other keys are ignored. The prompt is encoded as by
    `from_language_model`, and only the completion and the token that ends it are
    learnt. Any other file is one running text, of which all tokens are learnt, in
    windows of `max_length`.

    Args:
      path: The file, in UTF-8.
      tokenizer: The tokenizer of the model.
      max_length: The most tokens of an example.
      chat: Whether prompts are messages of the user, as in `from_language_model`.

    Raises:
      DataError: If the file is missing, empty, not UTF-8 or not JSON, a line lacks
        something, or an example is longer than `max_length`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}") from None
    try:
        # A mark of the byte order at the beginning is no token.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line} is not UTF-8: convert the file") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{path} is empty: it needs text, or JSON lines")
    ends = [] if tokenizer.end_token is None else [tokenizer.end_token]
    if path.suffix.lower() != ".jsonl":
        tokens = [*tokenizer.encode(text.strip()), *ends]
        return [Example(np.array(x, np.int32), 1) for x in _windows(tokens, max_length)]
    examples = []
    for number, prompt, begun, completion in _entries(path, text):
        given = tokenizer.encode_prompt(prompt, chat=chat)
        given += tokenizer.encode(begun, special_tokens=False)
        if not given:
            raise DataError(f"{path}, line {number}: the prompt has no tokens")
        learnt = [*tokenizer.encode(completion, special_tokens=False), *ends]
        if len(given) + len(learnt) > max_length:
            raise DataError(
                f"{path}, line {number}: a prompt of {len(given)} and a completion of "
                f"{len(learnt)} tokens exceed the {max_length} that an example may "
                "have: shorten them, or raise max_length up to the model's context"
            )
        examples.append(Example(np.array([*given, *learnt], np.int32), len(given)))
    return examples


def _windows(tokens: list[int], length: int) -> Iterator[list[int]]:
    """Cuts a text; each window begins with the last token of the one before."""
    for start in range(0, max(len(tokens) - 1, 1), length - 1):
        yield tokens[start : start + length]


def _entries(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    """Number, prompt, `begun` and completion of each line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry: Any = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not a JSON object ({error})") from None
        except RecursionError:
            raise DataError(f"{where}: nested too deeply for an example") from None
        entry = {"begun": ""} | (entry if isinstance(entry, dict) else {})
        for key in ("prompt", "completion"):
            value = entry.get(key)
            if not isinstance(value, str) or not value.strip():
                raise DataError(
                    f'{where}: needs {{"prompt": "...", "completion": "..."}} with '
                    f"text in both; {key} is {quoted(value)}"
                )
        if not isinstance(entry["begun"], str):
            raise DataError(
                f"{where}: begun must be text, got {quoted(entry['begun'])}"
            )
        for key in ("prompt", "begun", "completion"):
            if re.search("[\ud800-\udfff]", entry[key]):
                half = "has half of a surrogate pair, which is no character"
                raise DataError(f"{where}: {key} {half}: {quoted(entry[key])}")
        yield number, entry["prompt"], entry["begun"], entry["completion"]


def split(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and at least one drawn at random to hold out.

    Raises:
      DataError: If there are fewer than two.
    """
    if len(examples) < 2:
        raise DataError(
            "one example is too few to hold any out: give more, or a held-out file"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(examples))
    count = min(max(1, round(fraction * len(examples))), len(examples) - 1)
    held = set(order[:count].tolist())
    return (
        [example for i, example in enumerate(examples) if i not in held],
        [example for i, example in enumerate(examples) if i in held],
    )


class Plan(NamedTuple):
    """Examples in groups, each of one padded length.

    Attributes:
      examples: All examples.
      groups: The padded length and the places of the examples of each group.
      batch_size: Rows of a batch, some of them perhaps empty.
      seed: The seed of the order.
    """

    examples: Sequence[Example]
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    batch_size: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """How many steps see every example once."""
        return sum(-(-len(places) // self.batch_size) for _, places in self.groups)


def plan_batches(examples: Sequence[Example], batch_size: int, seed: int) -> Plan:
    """Groups examples by length, so that little is padded.

    Raises:
      DataError: If there are no examples.
      ValueError: If `batch_size` is below 1.
    """
    if not examples:
        raise DataError("there are no examples to train on")
    check_integer("batch_size", batch_size, 1)
    lengths = np.array([len(example.tokens) for example in examples])
    padded = np.array([_padded(length) for length in lengths])
    groups = tuple(
        (int(size), tuple(np.flatnonzero(padded == size).tolist()))
        for size in np.unique(padded)
    )
    return Plan(examples, groups, batch_size, seed)


def batch_at(plan: Plan, step: int) -> Batch:
    """The batch of step `step`, counted from 0."""
    epoch, number = divmod(step, plan.batches_per_epoch)
    order = _epoch_order(plan.groups, plan.batch_size, plan.seed, epoch)
    size, places = order[number]
    return stack([plan.examples[place] for place in places], plan.batch_size, size)


@functools.lru_cache(maxsize=2)
def _epoch_order(
    groups: tuple[tuple[int, tuple[int, ...]], ...],
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng([seed, 0, epoch])
    batches = []
    for size, places in groups:
        shuffled = rng.permutation(places)
        starts = range(0, len(shuffled), batch_size)
        batches += [(size, shuffled[start : start + batch_size]) for start in starts]
    return [batches[i] for i in rng.permutation(len(batches))]


def stack(examples: Sequence[Example], batch_size: int, length: int) -> Batch:
    """Pads examples to one length, and with empty rows to `batch_size`."""
    tokens = np.zeros((batch_size, length), np.int32)
    targets = np.zeros((batch_size, length - 1), bool)
    for row, (ids, start) in enumerate(examples):
        tokens[row, : len(ids)] = ids
        targets[row, start - 1 : len(ids) - 1] = True
    return Batch(tokens, targets)


def batches_in_order(plan: Plan) -> Iterator[Batch]:
    """Every example once, unshuffled."""
    for size, places in plan.groups:
        for start in range(0, len(places), plan.batch_size):
            chosen = places[start : start + plan.batch_size]
            examples = [plan.examples[place] for place in chosen]
            yield stack(examples, plan.batch_size, size)


def _padded(length: int) -> int:
    longer = _LENGTHS[length <= _LENGTHS]
    return int(longer[0]) if longer.size else -(-length // 128) * 128
