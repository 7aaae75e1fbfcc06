"""What figures are given: results of the right kind, and what agents are called."""

from collections.abc import Sequence
from typing import Any

from tokenauction_jax.reports.labels import agent_label


def agent_names(names: Sequence[str], count: int) -> list[str]:
    """A name for each of `count` agents, which are numbered if none are given.

    Raises:
      ValueError: If there are others than `count` different ones.
    """
    found = list(names) or [str(agent) for agent in range(count)]
    if isinstance(names, str) or not len(set(found)) == len(found) == count:
        raise ValueError(f"names must be {count} different ones, got {names!r}")
    return [agent_label(name) for name in found]


def check_kind(value: Any, what: str, *kinds: type) -> None:
    """Raises `ValueError` unless a value is of one of these kinds.

    Args:
      value: What a figure was asked for.
      what: What it draws, and where that comes from.
      *kinds: Of what it draws.
    """
    if not isinstance(value, kinds):
        raise ValueError(f"draws {what}, got {type(value).__name__}")
