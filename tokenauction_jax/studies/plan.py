"""How a study is cut into blocks and chunks, what it measures, and when it stops."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pydantic

from tokenauction_jax import measures
from tokenauction_jax.scenarios.population import Population, scope_of
from tokenauction_jax.statistics import (
    Bounds,
    Intervals,
    Moments,
    Statistics,
    sequential,
)
from tokenauction_jax.studies import contrasts
from tokenauction_jax.studies.config import Outline, Study
from tokenauction_jax.studies.limits import limits_of

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
# Have the same mean, and are less rare.
_CONDITIONAL = {name: f"expected_{name}" for name in ("revenue", "payment", "utility")}
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
      limits: What bounds the measures, cell by cell; empty if nothing is known.
      scopes: What the mechanism of each cell has measures of; empty if of tokens.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    block: _Count
    chunk: _Count
    num_auctions: _Count
    agents: Sequence[Annotated[Sequence[str], pydantic.Field(min_length=1)]]
    texts: Sequence[bool]
    valuations: Sequence[str] = measures.VALUATIONS
    kept: Annotated[int, pydantic.Field(ge=0)] = 0
    limits: Sequence[measures.Limits] = ()
    scopes: Sequence[measures.Scope] = ()

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
        scope = measures.widest(self.scopes)
        return measures.columns(most, any(self.texts), self.valuations, scope)

    def batched(self, chunk: int) -> list[int]:
        """The measures that a chunk has statistics of in parts: the first one has."""
        return self.payments if chunk == 0 else []

    @property
    def payments(self) -> list[int]:
        """Which measures are realised payments, and then conditional ones."""
        names = ("payment", "expected_payment")
        return [
            place
            for name in names
            for place, column in enumerate(self.columns)
            if column.measure == name
        ]

    @property
    def shares(self) -> np.ndarray:
        """Which measures have intervals of shares, if their number is fixed, `(M,)`."""
        return np.array([column.measure in measures.SHARES for column in self.columns])

    @property
    def cell_limits(self) -> Sequence[measures.Limits]:
        """What bounds the measures, or that nothing is known, cell by cell."""
        return self.limits or [measures.Limits()] * len(self.agents)

    @functools.cached_property
    def bounds(self) -> Bounds:
        """What the measures of the cells lie between, `(C, M)`."""
        shape = (len(self.agents), len(self.columns))
        low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
        constant, origin = np.zeros(shape, bool), np.full(shape, -1)
        places = {column: place for place, column in enumerate(self.columns)}
        numbers: dict[Any, int] = {None: -1}
        for cell, limits in enumerate(self.cell_limits):
            own = self.columns_of(cell)
            at = (cell, [places[column] for column in own])
            low[at], high[at], constant[at], _ = limits.bounds(own)
            found = map(limits.origin, own)
            origin[at] = [numbers.setdefault(key, len(numbers)) for key in found]
        return Bounds(low, high, constant, origin)

    def columns_of(self, cell: int) -> list[measures.Column]:
        """The measures that one cell has."""
        size, scope = len(self.agents[cell]), measures.widest(self.scopes[cell:][:1])
        return measures.columns(size, self.texts[cell], self.valuations, scope)


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
        most = max(cell.probabilities // cell.setting.num_tokens for cell in cells)
        fitting = 2 ** int(math.log2(max(_BLOCK_NUMBERS / most, 1)))
        block = min(max(fitting, _LANGUAGE_MODEL_BLOCK), _LARGEST_BLOCK)
    # Fewer auctions than fill a block are not worth a whole one of language models.
    block = min(block, study.num_auctions) if any(texts) else block
    own = study.own_valuation
    valuations = (*measures.VALUATIONS, *([own.name] if own else []))
    kept = min(study.keep_auctions, study.num_auctions)
    limits = limits_of(cells, min(block, study.num_auctions))
    scopes: list[measures.Scope] = [scope_of(cell.mechanism) for cell in cells]
    known = scopes if any(scope != "token" for scope in scopes) else ()
    about = (names, texts, valuations, kept, limits, known)
    plan = Plan(block, block, study.num_auctions, *about)
    if blocks_per_chunk is None:
        blocks_per_chunk = math.ceil(plan.num_chunks / _MOST_CHUNKS)
        if not any(texts):
            numbers = block * len(cells) * len(plan.columns)
            work = block * sum(cell.probabilities for cell in cells)
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
    index, wanted = [headline(study, plan.columns)], study_intervals(study, plan)
    of_cells = plan.bounds.take((slice(None), index))
    for moments, bounds in (
        (statistics.cells, of_cells),
        (statistics.comparisons, compared_bounds(of_cells, study.comparisons)),
    ):
        chosen = moments.take((slice(None), index))
        low, high = wanted.of_moments(chosen, bounds)
        off = np.maximum(high - chosen.mean, chosen.mean - low)
        if not (off <= study.stop.half_width).all():
            return False
    return True


def compared_bounds(
    cells: Bounds, comparisons: Sequence[contrasts.Comparison]
) -> Bounds:
    """What paired differences lie between, `(P, M)`, from `(C, M)` of the cells."""
    if not comparisons:
        return cells.take(slice(0))
    one, other = np.concatenate([x.pairs for x in comparisons]).T
    sizes = np.array([len(x.pairs) for x in comparisons])
    starts = np.cumsum(sizes) - sizes
    every = cells.take(one).minus(cells.take(other))
    return Bounds(
        np.add.reduceat(every.low, starts) / sizes[:, None],
        np.add.reduceat(every.high, starts) / sizes[:, None],
        np.logical_and.reduceat(every.constant, starts),
    )


def cell_ends(
    intervals: Intervals,
    plan: Plan,
    cells: Moments,
    columns: slice | Sequence[int] = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends `(C, M)` of the intervals of each cell's measures, or some of them."""
    chosen = cells.take((slice(None), columns))
    low, high = intervals.of_moments(chosen, plan.bounds.take((slice(None), columns)))
    if intervals.tuned_for:
        return low, high
    ends = intervals.of_share(np.clip(chosen.mean, 0, 1), chosen.std, chosen.n)
    shares = plan.shares[columns]
    return np.where(shares, ends[0], low), np.where(shares, ends[1], high)


def headline(study: Outline, columns: Sequence[measures.Column]) -> int:
    """Index of the measure that `stop` is decided by, else of the welfare.

    Of payments, what they are on average given the drawn tokens.
    """
    has_welfare = any(column.measure == "welfare" for column in columns)
    asked = "welfare" if has_welfare else "log_ratio_welfare"
    asked = study.stop.measure if study.stop else asked
    name = _CONDITIONAL.get(asked, asked)
    agent = study.stop.agent if study.stop else 0
    for i, column in enumerate(columns):
        if (
            column.measure == name
            and column.valuation in ("", study.valuation)
            and column.agent in (None, agent)
        ):
            return i
    raise ValueError(f"no measure {name!r} in this study")
