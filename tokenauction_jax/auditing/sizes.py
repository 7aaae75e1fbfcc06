"""What numbers a search may be asked for."""

from tokenauction_jax import records

# With misreports and other units, all bids stay in the range of bids.
_LARGEST_RATIO = 1e50
# Programs have a part for each pair of agents; instances are drawn all at once.
_MOST_AGENTS, _MOST_NUMBERS = 64, 2**26


def check_numbers(
    seed: int,
    num_instances: int,
    num_agents: int,
    bid_ratio: float,
    tolerance: float,
    **counts: int,
) -> None:
    """Raises `ValueError` if a number is out of range, or all are too many together.

    Args:
      seed: From 0 to 2^32 - 1.
      num_instances: At least 1.
      num_agents: From 2 to 64.
      bid_ratio: From 1 to 1e50.
      tolerance: From 0 to 1.
      **counts: At least 2 things of each instance, such as `vocab_size` tokens.
    """
    for name, size, least, most in (
        ("num_instances", num_instances, 1, _MOST_NUMBERS),
        ("num_agents", num_agents, 2, _MOST_AGENTS),
        *((name, count, 2, _MOST_NUMBERS) for name, count in counts.items()),
        ("seed", seed, 0, 2**32 - 1),
    ):
        records.check_integer(name, size, least, most)
    for name, count in counts.items():
        if num_instances * num_agents * count > _MOST_NUMBERS:
            raise ValueError(
                f"{num_instances} instances of {num_agents} agents with {name} {count} "
                f"are more than {_MOST_NUMBERS} numbers: ask for fewer"
            )
    for name, number, least, most in (
        ("bid_ratio", bid_ratio, 1, _LARGEST_RATIO),
        ("tolerance", tolerance, 0, 1),
    ):
        if not least <= number <= most:
            raise ValueError(f"{name} must be from {least} to {most:g}, got {number!r}")
