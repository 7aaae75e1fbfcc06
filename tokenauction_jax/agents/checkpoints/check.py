"""Trying a checkpoint: what it is, what it writes, how fast, and if it is right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenauction_jax.agents.checkpoints.load import (
    Checkpoint,
    load_checkpoint,
    locate,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.language_model import (
    LanguageModelPool,
    from_language_model,
)
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.environment import peak_memory

PROMPT = "Write one short sentence about the sea."


class CheckpointCheck(NamedTuple):
    """What `check_checkpoint` found.

    Attributes:
      architecture: The family.
      num_parameters: How many numbers the weights are.
      weight_bytes: Their bytes in memory.
      cache_bytes: Bytes of the keys and values of one text.
      context_length: The most tokens of prompt and text together.
      vocab_size: ``V``.
      end_tokens: The tokens that end a text, as text.
      prompt: What the model was asked.
      text: Its most probable answer, token by token.
      load_seconds: To read files and weights.
      compile_seconds: Of the first run beyond that of the second.
      tokens_per_second: Of all texts together, once compiled.
      num_texts: How many texts were written side by side for this.
      peak_bytes: The most memory that the process had, None if not known.
      oracle: The library that it was compared with, or why it was with none.
      difference: The largest difference of log-probabilities; None without an oracle.
    """

    architecture: str
    num_parameters: int
    weight_bytes: int
    cache_bytes: int
    context_length: int
    vocab_size: int
    end_tokens: tuple[str, ...]
    prompt: str
    text: str
    load_seconds: float
    compile_seconds: float
    tokens_per_second: float
    num_texts: int
    peak_bytes: int | None
    oracle: str
    difference: float | None


def check_checkpoint(
    name_or_path: str | Path, *, num_texts: int = 16, num_tokens: int = 16
) -> CheckpointCheck:
    """Loads a checkpoint, lets it write, and compares it with `transformers`.

    Args:
      name_or_path: As for `load_checkpoint`.
      num_texts: How many texts are written side by side.
      num_tokens: How long they are.

    Raises:
      CheckpointError: If it cannot be loaded.
    """
    start = time.perf_counter()
    checkpoint = load_checkpoint(name_or_path)
    leaves = jax.block_until_ready(jax.tree.leaves(nnx.state(checkpoint.model)))
    load_seconds = time.perf_counter() - start
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    room = model.config.context_length - len(tokenizer.encode_prompt(PROMPT))
    num_tokens = max(1, min(num_tokens, room))
    pool = from_language_model(model, tokenizer, [PROMPT])
    times, tokens = [], np.zeros(0)
    for _ in range(2):
        start = time.perf_counter()
        tokens = np.asarray(_most_probable(pool, num_texts, num_tokens))
        times.append(time.perf_counter() - start)
    written = tokens[0].tolist()
    ends = [place for place, x in enumerate(written) if x in tokenizer.end_tokens]
    written = written[: ends[0]] if ends else written
    oracle, difference = _compared(
        checkpoint, [*tokenizer.encode_prompt(PROMPT), *written]
    )
    return CheckpointCheck(
        architecture=checkpoint.raw_config["model_type"],
        num_parameters=sum(leaf.size for leaf in leaves),
        weight_bytes=sum(leaf.nbytes for leaf in leaves),
        cache_bytes=pool.bytes_per_auction(num_tokens),
        context_length=model.config.context_length,
        vocab_size=model.config.vocab_size,
        end_tokens=tuple(_spelled(tokenizer, end) for end in tokenizer.end_tokens),
        prompt=PROMPT,
        text=tokenizer.decode(written),
        load_seconds=load_seconds,
        compile_seconds=max(0.0, times[0] - times[1]),
        tokens_per_second=num_texts * num_tokens / times[1],
        num_texts=num_texts,
        peak_bytes=peak_memory(),
        oracle=oracle,
        difference=difference,
    )


@jax.jit(static_argnames=("num_texts", "num_tokens"))
def _most_probable(
    pool: LanguageModelPool, num_texts: int, num_tokens: int
) -> jax.Array:
    """Texts `(A, T)` of the most probable token each."""

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        state, tokens = carry
        state, log_probs = pool.step(state, tokens)
        tokens = log_probs[:, 0].argmax(-1).astype(jnp.int32)
        return (state, tokens), tokens

    state = pool.init(num_texts, num_tokens=num_tokens)
    nothing = jnp.full(num_texts, -1, jnp.int32)
    _, tokens = jax.lax.scan(step, (state, nothing), length=num_tokens)
    return tokens.T


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    return next(text for text, x in tokenizer.vocabulary.items() if x == token)


def _compared(checkpoint: Checkpoint, tokens: list[int]) -> tuple[str, float | None]:
    """The library that read these tokens as well, and the largest difference."""
    if not all(map(importlib.util.find_spec, ("transformers", "torch"))):
        return "transformers and torch are not installed", None
    import torch
    import transformers

    path = locate(checkpoint.name)
    name = f"transformers {importlib.metadata.version('transformers')}"
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if path.is_file():
        options["gguf_file"] = path.name
    folder = path.parent if path.is_file() else path
    transformers.logging.disable_progress_bar()
    try:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
        with torch.no_grad():
            logits = theirs.eval()(torch.tensor([tokens])).logits[0]
        due = torch.log_softmax(logits.double(), -1).numpy()
    except Exception as error:  # Another library's own reasons, of any kind.
        reason = str(error).strip().partition("\n")[0]
        return f"{name} cannot read it: {reason}", None
    read = nnx.jit(Decoder.__call__)(checkpoint.model, jnp.array([tokens]))[0]
    found = jax.nn.log_softmax(read)
    return name, float(np.abs(np.asarray(found, np.float64) - due).max())
