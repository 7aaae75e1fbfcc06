"""How a study is cut into blocks and chunks, what it measures, and when it stops."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pydantic

from tokenauction_jax import measures
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.statistics import Intervals, sequential
from tokenauction_jax.statistics.moments import Moments, Statistics
from tokenauction_jax.studies.config import Outline, Study

# Language models read their prompts once a block, and their caches fill the memory.
_LANGUAGE_MODEL_BLOCK = 32
_LARGEST_BLOCK = 1024
# Numbers `(A, n, V)` of a block that stay in the caches of a core.
_BLOCK_NUMBERS = 2**19
# A chunk is what an interruption can lose, and has a part of its own: of so many
# numbers that its statistics are worth their overhead, but no more than seconds of
# work, counted in probabilities. A block of language models takes seconds by itself.
_CHUNK_NUMBERS = 2**22
_CHUNK_PROBABILITIES = 2**33
_MOST_CHUNKS = 500
_Count = Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a study is cut, and whom its cells are about; part of the manifest.

    Attributes:
      block: Auctions of a block.
      chunk: Auctions of a chunk, whole blocks.
      num_auctions: Auctions per cell, at most.
      agents: The agents' names, cell by cell.
      texts: Whether a cell's auctions have texts, cell by cell.
      valuations: Names of all that are measured.
      kept: Auctions of each cell that are kept whole, the first ones.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    block: _Count
    chunk: _Count
    num_auctions: _Count
    agents: Sequence[Annotated[Sequence[str], pydantic.Field(min_length=1)]]
    texts: Sequence[bool]
    valuations: Sequence[str] = measures.VALUATIONS
    kept: Annotated[int, pydantic.Field(ge=0)] = 0

    @property
    def num_chunks(self) -> int:
        """How many chunks all auctions make."""
        return math.ceil(self.num_auctions / self.chunk)

    def auctions(self, chunk: int) -> range:
        """The numbers of the auctions of a chunk."""
        start = chunk * self.chunk
        return range(start, min(start + self.chunk, self.num_auctions))

    def kept_auctions(self, chunk: int) -> range:
        """The numbers of the auctions of a chunk that are kept whole."""
        auctions = self.auctions(chunk)
        return auctions[: max(self.kept - auctions.start, 0)]

    def blocks(self, chunk: int) -> range:
        """The blocks of a chunk; the last one may have more auctions than count."""
        auctions = self.auctions(chunk)
        return range(auctions.start // self.block, -(-auctions.stop // self.block))

    @property
    def columns(self) -> list[measures.Column]:
        """The measures that the cells have together, in the order of all arrays."""
        most = max(map(len, self.agents))
        return measures.columns(most, any(self.texts), self.valuations)

    def columns_of(self, cell: int) -> list[measures.Column]:
        """The measures that one cell has."""
        size = len(self.agents[cell])
        return measures.columns(size, self.texts[cell], self.valuations)


def make_plan(
    study: Study, cells: Sequence[Population], blocks_per_chunk: int | None = None
) -> Plan:
    """The plan of a study; a chunk takes seconds unless told otherwise.

    Args:
      study: What to run.
      cells: Its populations.
      blocks_per_chunk: Instead of the default.
    """
    names = [cell.agent_names for cell in cells]
    texts = [cell.setting.has_texts for cell in cells]
    if any(texts):
        block = _LANGUAGE_MODEL_BLOCK
    else:
        most = max(cell.pool.num_agents * cell.pool.vocab_size for cell in cells)
        fitting = 2 ** int(math.log2(max(_BLOCK_NUMBERS / most, 1)))
        block = min(max(fitting, _LANGUAGE_MODEL_BLOCK), _LARGEST_BLOCK)
    # Fewer auctions than fill a block are not worth a whole one of language models.
    block = min(block, study.num_auctions) if any(texts) else block
    own = study.own_valuation
    valuations = (*measures.VALUATIONS, *([own.name] if own else []))
    kept = min(study.keep_auctions, study.num_auctions)
    plan = Plan(block, block, study.num_auctions, names, texts, valuations, kept)
    if blocks_per_chunk is None:
        blocks_per_chunk = math.ceil(plan.num_chunks / _MOST_CHUNKS)
        if not any(texts):
            numbers = block * len(cells) * len(plan.columns)
            work = block * sum(
                cell.pool.num_agents * cell.pool.vocab_size * cell.setting.num_tokens
                for cell in cells
            )
            fitting = min(_CHUNK_NUMBERS // numbers, _CHUNK_PROBABILITIES // work)
            blocks_per_chunk = max(blocks_per_chunk, fitting)
    return dataclasses.replace(plan, chunk=block * blocks_per_chunk)


def study_intervals(study: Outline, plan: Plan) -> Intervals:
    """The study's intervals: sequential ones if it may stop early."""
    if study.stop is None:
        return Intervals()
    first = min(plan.chunk, plan.num_auctions)
    return sequential(first, plan.num_auctions)


def precise_enough(study: Outline, plan: Plan, statistics: Statistics | None) -> bool:
    """Whether every cell and paired difference is as narrow as `stop` asks."""
    if study.stop is None or statistics is None:
        return False
    index = headline(study, plan.columns)
    wanted, compared = study_intervals(study, plan), statistics.comparisons
    ends = (
        cell_ends(wanted, plan.columns, statistics.cells),
        wanted.of_mean(compared.mean, compared.std, compared.n),
    )
    widths = [(high - low)[:, index] for low, high in ends]
    return all((width / 2 <= study.stop.half_width).all() for width in widths)


def cell_ends(
    intervals: Intervals, columns: Sequence[measures.Column], cells: Moments
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends `(C, M)` of the intervals of each cell's measures."""
    shares = np.array([column.measure in measures.SHARES for column in columns])
    about = cells.std, cells.n
    low, high = np.where(
        shares,
        intervals.of_share(np.clip(cells.mean, 0, 1), *about),
        intervals.of_mean(cells.mean, *about),
    )
    return low, high


def headline(study: Outline, columns: Sequence[measures.Column]) -> int:
    """Index of the measure that `stop` is about, else of the welfare."""
    name = study.stop.measure if study.stop else "welfare"
    agent = study.stop.agent if study.stop else 0
    for i, column in enumerate(columns):
        if (
            column.measure == name
            and column.valuation in ("", study.valuation)
            and column.agent in (None, agent)
        ):
            return i
    raise ValueError(f"no measure {name!r} in this study")
