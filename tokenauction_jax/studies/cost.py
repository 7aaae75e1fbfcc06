"""What a study will cost, by running a block of each of its programs."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.studies import engine
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.plan import Plan

# The interpreter, JAX and the tables of statistics of a small study.
_BASE_MEMORY = 700 * 2**20
# Copies of a chunk's numbers while its statistics are taken, at 4 bytes.
_COPIES = 4
# And of the products of pairs of cells: as arrays, as a table and as a file.
_PAIR_COPIES = 2


class Cost(NamedTuple):
    """What running a whole study takes on this machine.

    Attributes:
      seconds: Wall-clock time, compilation included.
      memory: Bytes of the process at its peak.
      programs: How many programs compile.
      seconds_per_auction: Of each cell, on one thread.
    """

    seconds: float
    memory: float
    programs: int
    seconds_per_auction: list[float]


def estimate(
    study: Study,
    cells: Sequence[Population],
    plan: Plan,
    on_cell: Callable[[int], None] | None = None,
) -> Cost:
    """Compiles every program of a study and times one block of each.

    Args:
      study: What will run.
      cells: Its populations.
      plan: How it is cut.
      on_cell: Called with the index of each cell that is looked at.
    """
    timed: dict[Any, tuple[float, float, float]] = {}
    per_auction, compiling, temporary = [], 0.0, 0.0
    threads = engine.num_threads()
    for i, cell in enumerate(cells):
        if on_cell is not None:
            on_cell(i)
        arguments, static = engine.block_arguments(study, cell, plan, 0)
        program = engine.program_key(arguments, static)
        if program not in timed:
            timed[program] = _time_block(arguments, static)
            compiling += timed[program][1]
        seconds, _, memory = timed[program]
        per_auction.append(seconds / plan.block)
        temporary = max(temporary, memory)
    blocks = sum(len(plan.blocks(chunk)) for chunk in range(plan.num_chunks))
    running = sum(per_auction) * plan.block * blocks / threads
    numbers = len(cells) * plan.chunk * len(plan.columns) * 4 * _COPIES
    weights = sum(
        np.prod(np.shape(leaf)) * 4
        for pool in {id(cell.pool): cell.pool for cell in cells}.values()
        for leaf in jax.tree.leaves(pool)
    )
    pairs = len(cells) * (len(cells) + 1) // 2 * len(plan.columns) * 8 * _PAIR_COPIES
    memory = _BASE_MEMORY + threads * temporary + numbers + pairs + float(weights)
    return Cost(running + compiling, memory, len(timed), per_auction)


def _time_block(arguments: Any, static: Any) -> tuple[float, float, float]:
    """Seconds of a block and of compiling it, and its bytes."""
    start = time.perf_counter()
    compiled = engine.run_block.lower(*arguments, **static).compile()
    compiling = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    memory = 0.0
    if analysis is not None:
        memory = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds), compiling, float(memory)
