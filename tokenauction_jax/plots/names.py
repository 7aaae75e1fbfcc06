"""What agents are called in figures."""

from collections.abc import Sequence

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
