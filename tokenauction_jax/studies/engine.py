"""Runs a study: chunk after chunk, each of whole blocks of auctions in every cell.

Block k of a cell holds auctions ``[k S, (k + 1) S)`` and runs whole on one device, so
tokens and payments are the same bits whatever the chunks, devices and interruptions.
"""

import contextlib
import ctypes
import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokenauction_jax import measures
from tokenauction_jax.agents import AgentPool
from tokenauction_jax.environment import num_cores
from tokenauction_jax.mechanism import Mechanism, Valuation
from tokenauction_jax.replies import TextAuction
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.statistics import Statistics
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.plan import Plan, precise_enough
from tokenauction_jax.studies.session import Progress, Session

# The axis of a mesh whose devices run blocks side by side.
_BLOCKS = "blocks"


class Parts(Protocol):
    """Where the parts of a study are: a folder, or memory."""

    def finished(self) -> Sequence[int]:
        """The chunks that are finished, in their order."""
        ...

    def statistics(self) -> Statistics | None:
        """Running total of all finished chunks, None if there are none."""
        ...

    def write_part(
        self, chunk: int, statistics: Statistics, auctions: pa.Table | None
    ) -> None:
        """Adds a finished chunk: its statistics, and auctions that are kept whole."""
        ...

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds what one session of running did."""
        ...


def reference(study: Study, cell: Population) -> measures.Reference:
    """What fluency is measured by."""
    return "agent" if cell.has_reference else study.reference


def run(
    study: Study,
    parts: Parts,
    cells: Sequence[Population],
    plan: Plan,
    on_progress: Callable[[Progress], None] | None = None,
    devices: Sequence[Any] | None = None,
    chunks: Sequence[int] | None = None,
) -> bool:
    """Runs what is left of a study, or of a share of it, part by part.

    Args:
      study: What to run.
      parts: Where finished parts are, and new ones go.
      cells: The study's populations.
      plan: How it is cut.
      on_progress: Called after every block.
      devices: To run on; by default all of this process.
      chunks: Which of them; by default all that are not finished.

    Returns:
      Whether it stopped before the last auction, being as precise as wanted.

    Raises:
      StoreError: If a part is damaged or cannot be written.
    """
    outline = study.outline()
    total = parts.statistics()
    finished = parts.finished()
    if chunks is None:
        chunks = [k for k in range(plan.num_chunks) if k not in set(finished)]
    session = Session(cells, plan, outline.comparisons, on_progress)
    session.begin(total, finished, chunks)
    stopped = precise_enough(outline, plan, total)
    with _Workers(study, cells, plan, devices) as workers:
        try:
            ahead: list[list[Future[list[measures.Texts]]]] = []
            for place, chunk in enumerate(() if stopped else chunks, 1):
                # The next chunk runs while this one's statistics are taken.
                waiting = ahead or workers.start(chunk)
                ahead = workers.start(chunks[place]) if place < len(chunks) else []
                part, kept = session.finish(chunk, waiting)
                with session.overhead():
                    parts.write_part(chunk, part, kept)
                    total = part.totals() if total is None else total.merge(part)
                session.show(total)
                if stopped := precise_enough(outline, plan, total):
                    break
        finally:
            workers.cancel()
            # Not worth hiding what went wrong, such as a full disk.
            with contextlib.suppress(OSError):
                parts.log(session.summary())
    return stopped


@functools.partial(jax.jit, static_argnames=("mesh", "num_tokens", "reference"))
def run_blocks(
    seed: jax.Array,
    first_auctions: jax.Array,
    bids: jax.Array,
    values: jax.Array,
    mechanism: Mechanism | TextAuction,
    valuation: Valuation | None,
    tau: jax.Array,
    pool: AgentPool,
    *,
    mesh: Mesh,
    num_tokens: int,
    reference: measures.Reference,
) -> measures.Texts:
    """Simulates and measures one block on each device: one program for all of them.

    Arrays of auctions have those of the first device's block first, then the second's.
    """

    def run_block(
        seed: jax.Array,
        first_auction: jax.Array,
        bids: jax.Array,
        values: jax.Array,
        mechanism: Mechanism | TextAuction,
        valuation: Valuation | None,
        tau: jax.Array,
        pool: AgentPool,
    ) -> measures.Texts:
        return measures.run_texts(
            *(jax.random.key(seed), mechanism, pool, bids, values, first_auction[0]),
            num_tokens=num_tokens,
            reference=reference,
            valuation=valuation,
            tau=tau,
        )

    own, same = PartitionSpec(_BLOCKS), PartitionSpec()
    arguments = seed, first_auctions, bids, values, mechanism, valuation, tau, pool
    specs = same, own, own, own, same, same, same, same
    # A block knows nothing of others, so that there is nothing to check.
    return jax.shard_map(
        run_block, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False
    )(*arguments)


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Devices that run a block each at the same time."""
    return Mesh(np.array(devices), (_BLOCKS,))


def block_arguments(
    study: Study, cell: Population, plan: Plan, blocks: Sequence[int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arrays and the static arguments that `run_blocks` takes, but for the mesh."""
    drawn = []
    for block in blocks:
        first = block * plan.block
        size = min(plan.block, plan.num_auctions - first)
        # The last block is filled up by auctions that nobody will look at.
        missing = ((0, plan.block - size), (0, 0))
        drawn.append([np.pad(x, missing, "edge") for x in cell.draw(first, size)])
    values, bids = map(np.concatenate, zip(*drawn, strict=True))
    firsts = np.array([block * plan.block for block in blocks], np.uint32)
    numbers = np.uint32(cell.setting.seed), firsts
    rules = cell.mechanism, study.own_valuation, np.float64(study.tau)
    return (*numbers, bids, values, *rules, cell.pool), static_arguments(study, cell)


def static_arguments(study: Study, cell: Population) -> dict[str, Any]:
    """What of a block is part of its program, besides the shapes of the arrays."""
    return {
        "num_tokens": cell.setting.num_tokens,
        "reference": reference(study, cell),
    }


def program_key(arguments: Any, static: Any) -> tuple[Any, ...]:
    """Equal for blocks that run the same compiled program."""
    leaves, structure = jax.tree.flatten(arguments)
    return (structure, *(jnp.shape(leaf) for leaf in leaves), *static.values())


def num_threads(num_devices: int) -> int:
    """How many threads give blocks to so many devices."""
    if jax.default_backend() == "cpu":
        # XLA hardly splits the small operations of a block over the cores.
        return math.ceil(num_cores() / num_devices)
    return 1


class _Workers:
    """Threads that run blocks, as many at a time as there are devices."""

    def __init__(
        self,
        study: Study,
        cells: Sequence[Population],
        plan: Plan,
        devices: Sequence[Any] | None,
    ):
        self._study, self._cells, self._plan = study, cells, plan
        self._mesh = mesh_of(devices or jax.local_devices())
        self._programs = [
            program_key((cell.mechanism, cell.pool), static_arguments(study, cell))
            for cell in cells
        ]
        # What a `with` of JAX says holds for one thread.
        x64 = jnp.result_type(float) == jnp.float64
        bits = str(jax.random.key_impl(jax.random.key(0)))
        self._settings = lambda: (jax.enable_x64(x64), jax.default_prng_impl(bits))
        self._pool = ThreadPoolExecutor(num_threads(self._mesh.size))
        self._placed: dict[int, AgentPool] = {}
        self._compiled: set[Any] = set()
        self._compiling: dict[Any, threading.Lock] = {}
        self._lock, self._lowering = threading.Lock(), threading.Lock()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def cancel(self) -> None:
        """Drops the blocks that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, chunk: int) -> list[list[Future[list[measures.Texts]]]]:
        """Begins all blocks of a chunk: of each cell, so many together as run so."""
        blocks, size = self._plan.blocks(chunk), self._mesh.size
        groups = [blocks[i : i + size] for i in range(0, len(blocks), size)]
        places = range(len(self._cells))
        jobs = [(place, group) for place in places for group in groups]
        # First one of each program: threads wait for what another one compiles.
        firsts = dict(zip(self._programs[::-1], places[::-1], strict=True)).values()
        first_jobs = {(place, groups[0]) for place in firsts}
        jobs.sort(key=lambda job: job not in first_jobs)
        begun = {job: self._pool.submit(_roomy, self._run, *job) for job in jobs}
        return [[begun[place, group] for group in groups] for place in places]

    def _run(self, place: int, blocks: range) -> list[measures.Texts]:
        with contextlib.ExitStack() as settings:
            for setting in self._settings():
                settings.enter_context(setting)
            return self._run_blocks(place, blocks)

    def _run_blocks(self, place: int, blocks: range) -> list[measures.Texts]:
        cell = self._cells[place]
        # Devices that have no block repeat the last one.
        every = [*blocks, *[blocks[-1]] * (self._mesh.size - len(blocks))]
        arguments, static = block_arguments(self._study, cell, self._plan, every)
        arguments = (*arguments[:-1], self._place(cell.pool))
        static["mesh"] = self._mesh
        done = self._dispatched(self._programs[place], arguments, static)
        whole = [np.asarray(x) for x in done]
        size = self._plan.block
        return [
            measures.Texts(*(x[i * size : (i + 1) * size] for x in whole))
            for i in range(len(blocks))
        ]

    def _place(self, pool: AgentPool) -> AgentPool:
        """The agents on every device, put there once."""
        with self._lock:
            if id(pool) not in self._placed:
                everywhere = NamedSharding(self._mesh, PartitionSpec())
                self._placed[id(pool)] = jax.device_put(pool, everywhere)
            return self._placed[id(pool)]

    def _dispatched(self, program: Any, arguments: Any, static: Any) -> measures.Texts:
        """A block that runs; one thread compiles what others would at the same time."""
        if program not in self._compiled:
            with self._lock:
                lock = self._compiling.setdefault(program, threading.Lock())
            with lock:
                if program not in self._compiled:
                    # Python lowers several no faster together than one by one, and one
                    # by one, blocks of the first run while the next is lowered.
                    with self._lowering:
                        run_blocks.lower(*arguments, **static)
                    done = run_blocks(*arguments, **static)
                    self._compiled.add(program)
                    _return_memory()
                    return done
        return run_blocks(*arguments, **static)


def _roomy(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function with room for the frames of all that it calls.

    CPython has frames in chunks of 16 kB, and gives one back as soon as the first frame
    in it ends: a loop whose calls need a new one calls 400 times as slowly. Tracing has
    such loops at any depth. This frame asks for so much that its chunk is 1 MB.
    """
    return function(*arguments)


_roomy.__code__ = _roomy.__code__.replace(co_stacksize=2**16)


def _return_memory() -> None:
    """Gives freed memory back to the system.

    XLA leaves 300 MB in the free lists of the C library for each thread that compiles.
    """
    # Not every libc can, and Windows does not give its own by no name.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
