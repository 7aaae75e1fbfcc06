"""What a study will cost, by running a block of its programs, or by their sizes."""

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
# Seconds after which no more programs are tried, and what a short try may count of
# probabilities: `check` answers soon, whatever the study.
_TRYING = 10.0
_MOST_TRIED = 2**26
# A program has a part for each pair of agents: with more, it compiles for minutes.
_MOST_COMPILED = 16
# Of programs that are not tried, on one core: seconds for each pair of agents and each
# probability, and how often a block's probabilities are in memory.
_SECONDS_OF_PAIR = 0.04
_SECONDS_OF_PROBABILITY = 5e-8
_COPIES = 40


class Cost(NamedTuple):
    """What running a whole study takes on this machine.

    Attributes:
      seconds: Wall-clock time, compilation included.
      memory: Bytes of the process at its peak.
      programs: How many programs compile.
      tried: How many of them were timed; the others are judged by their sizes.
      seconds_per_auction: Of each cell, on one thread.
    """

    seconds: float
    memory: float
    programs: int
    tried: int
    seconds_per_auction: list[float]


def estimate(
    study: Study,
    cells: Sequence[Population],
    plan: Plan,
    on_cell: Callable[[int], None] | None = None,
) -> Cost:
    """Compiles the programs of a study and times one block of each.

    Not all of them, where that would take long.

    Args:
      study: What will run.
      cells: Its populations.
      plan: How it is cut.
      on_cell: Called with the index of each cell that is looked at.
    """
    found: dict[Any, _Block] = {}
    blocks, start = [], time.perf_counter()
    for i, cell in enumerate(cells):
        if on_cell is not None:
            on_cell(i)
        static = engine.static_arguments(study, cell)
        program = engine.program_key((cell.mechanism, cell.pool), static)
        if program not in found:
            late = found and time.perf_counter() - start > _TRYING
            if late or cell.num_agents > _MOST_COMPILED:
                timed = [block for block in found.values() if block.is_timed]
                found[program] = _judge_block(_size(cell, plan), cell, timed)
            else:
                arguments, _ = engine.block_arguments(study, cell, plan, [0])
                found[program] = _time_block(arguments, static, _size(cell, plan), cell)
        blocks.append(found[program])
    per_auction = [block.seconds / plan.block for block in blocks]
    num_blocks = sum(len(plan.blocks(chunk)) for chunk in range(plan.num_chunks))
    running = sum(per_auction) * plan.block * num_blocks / _at_once()
    compiling = sum(block.compiling for block in found.values())
    memory = _memory(cells, plan, blocks)
    tried = sum(block.is_timed for block in found.values())
    return Cost(running + compiling, memory, len(found), tried, per_auction)


def _at_once() -> int:
    """How many blocks run at the same time."""
    num_devices = jax.local_device_count()
    return num_devices * engine.num_threads(num_devices)


class _Block(NamedTuple):
    """A block that was timed, or judged by its size.

    Attributes:
      seconds: Of running it.
      compiling: Seconds of compiling it.
      memory: Bytes of its results and in between.
      partial: `(M,)`, whether a measure is finite in some auctions but not in others.
      size: How many probabilities it looks at.
      is_timed: Whether it was.
    """

    seconds: float
    compiling: float
    memory: float
    partial: np.ndarray
    size: int = 0
    is_timed: bool = True


def _size(cell: Population, plan: Plan) -> int:
    """How many probabilities a block of a cell looks at."""
    return plan.block * cell.probabilities


def _judge_block(size: int, cell: Population, timed: Sequence[_Block]) -> _Block:
    """A block that is like the timed ones but for its size."""
    rate, pairs = _SECONDS_OF_PROBABILITY, cell.num_agents**2
    if timed:
        rate = sum(x.seconds for x in timed) / sum(x.size for x in timed)
    memory = 4.0 * _COPIES * size / cell.setting.num_tokens
    compiling, none = _SECONDS_OF_PAIR * pairs, np.zeros(0, bool)
    return _Block(rate * size, compiling, memory, none, size, is_timed=False)


def _time_block(arguments: Any, static: Any, size: int, cell: Population) -> _Block:
    """Compiles a block and runs it, or a part of it if it is long."""
    start = time.perf_counter()
    static |= {"mesh": engine.mesh_of(jax.local_devices()[:1])}
    compiled = engine.run_blocks.lower(*arguments, **static).compile()
    compiling = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    memory = 0.0
    if analysis is not None:
        memory = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    whole = static["num_tokens"]
    tokens = whole if cell.setting.has_texts else whole * _MOST_TRIED // size
    tokens = min(max(tokens, 1), whole)
    if tokens < whole:
        short = static | {"num_tokens": tokens}
        compiled = engine.run_blocks.lower(*arguments, **short).compile()
    finite = np.isfinite(compiled(*arguments).measures)
    seconds: list[float] = []
    while not seconds or (len(seconds) < 3 and sum(seconds) < 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    partial = finite.any(0) & ~finite.all(0)
    scaled = min(seconds) * whole / tokens
    return _Block(scaled, compiling, float(memory), partial, size)


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
    running = _at_once() * max(block.memory for block in blocks)
    return _BASE_MEMORY + running + numbers + pairs * _BYTES_OF_PAIRS + float(weights)
