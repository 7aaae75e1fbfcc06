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
_BASE_MEMORY = 640 * 2**20
# For each number of a chunk: its block, two arrays and a sketch; then, too, the next
# chunk's block, and the sketches that reading many parts merges.
_BYTES_IN_ONE_CHUNK = 16
_BYTES_IN_MORE_CHUNKS = 28
# For each number that is kept of pairs: of the chunk, and in the file of it.
_BYTES_OF_PAIRS = 2 * 8
# A pair has its own n, means and second moments where some auctions miss a measure.
_MORE_OF_PARTIAL = 5


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
    timed: dict[Any, _Block] = {}
    blocks = []
    for i, cell in enumerate(cells):
        if on_cell is not None:
            on_cell(i)
        arguments, static = engine.block_arguments(study, cell, plan, 0)
        program = engine.program_key(arguments, static)
        if program not in timed:
            timed[program] = _time_block(arguments, static)
        blocks.append(timed[program])
    per_auction = [block.seconds / plan.block for block in blocks]
    num_blocks = sum(len(plan.blocks(chunk)) for chunk in range(plan.num_chunks))
    running = sum(per_auction) * plan.block * num_blocks / engine.num_threads()
    compiling = sum(block.compiling for block in timed.values())
    memory = _memory(cells, plan, blocks)
    return Cost(running + compiling, memory, len(timed), per_auction)


class _Block(NamedTuple):
    """A block that was timed.

    Attributes:
      seconds: Of running it.
      compiling: Seconds of compiling it.
      memory: Bytes of its results and in between.
      partial: `(M,)`, whether a measure is finite in some auctions but not in others.
    """

    seconds: float
    compiling: float
    memory: float
    partial: np.ndarray


def _time_block(arguments: Any, static: Any) -> _Block:
    """Compiles a block and runs it."""
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
    finite = np.isfinite(compiled(*arguments).measures)
    partial = finite.any(0) & ~finite.all(0)
    return _Block(min(seconds), compiling, float(memory), partial)


def _memory(cells: Sequence[Population], plan: Plan, blocks: Sequence[_Block]) -> float:
    """Bytes at the peak, which is while a chunk's statistics are taken or read."""
    num_columns = len(plan.columns)
    more = plan.num_chunks > 1
    numbers = len(cells) * min(plan.chunk, plan.num_auctions) * num_columns
    numbers *= _BYTES_IN_MORE_CHUNKS if more else _BYTES_IN_ONE_CHUNK
    partial = {
        column
        for i, block in enumerate(blocks)
        for column, some in zip(plan.columns_of(i), block.partial, strict=False)
        if some
    }
    pairs = len(cells) * (len(cells) + 1) / 2
    pairs *= num_columns + _MORE_OF_PARTIAL * len(partial)
    weights = sum(
        np.prod(np.shape(leaf)) * 4
        for pool in {id(cell.pool): cell.pool for cell in cells}.values()
        for leaf in jax.tree.leaves(pool)
    )
    running = engine.num_threads() * max(block.memory for block in blocks)
    return _BASE_MEMORY + running + numbers + pairs * _BYTES_OF_PAIRS + float(weights)
