"""One cell of a tabular study, all measures, beside NumPy.

The cell is that of `numpy_study.run`: Markov tables, linear aggregation, truthful
log-normal bids, the second price, every measure with moments and histograms. Ours is
`tokenauction study run` in a process of its own, statistics and writing included; its
first call compiles, the later ones find what it has kept.

One peer, plain, is written from the definitions, the other is tuned. Each
runs in one process with one thread, and in as many processes as there are cores, each
with all auctions, in chunks of the size that took the least time.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.figures import Case, Figure
from benchmarks.harness import Contender, Timed, cores, take_turns
from benchmarks.peers import numpy_study, numpy_study_plain

USES = ()
_PEERS = {"plain": numpy_study_plain.run, "tuned": numpy_study.run}
_STUDY = """
num_auctions = {auctions}
num_tokens = {num_tokens}
keep_auctions = 0
[agents]
kind = "markov"
num_agents = {num_agents}
vocab_size = {vocab_size}
concentration = 1.0
[values]
kind = "log_normal"
sigma = 0.5
"""
_PROGRAM = "from tokenauction_jax.cli import main; main()"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Auctions of the studies and of one run of a peer, its chunks, and rounds."""

    num_agents: int = 3
    vocab_size: int = 64
    num_tokens: int = 32
    studies: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    compared: int = 1_000_000
    peer_auctions: int = 8192
    chunks: tuple[int, ...] = (251, 507, 1019, 1531)
    dtypes: tuple[str, ...] = ("float64", "float32")
    rounds: int = 3


FULL = Sizes()
QUICK = Sizes(
    studies=(20_000,),
    compared=20_000,
    peer_auctions=507,
    chunks=(507,),
    dtypes=("float32",),
    rounds=2,
)


def measure(sizes: Sizes) -> Iterator[Case]:
    """Each number of auctions, and the peers beside one of them."""
    with _scratch() as folder, _processes() as pool:
        ours = [_ours(folder, sizes, auctions) for auctions in sizes.studies]
        theirs = list(_theirs(pool, sizes))
        figures = take_turns([*ours, *theirs], sizes.rounds)
    for auctions, figure in zip(sizes.studies, figures, strict=False):
        beside = figures[len(ours) :] if auctions == sizes.compared else []
        yield _case(sizes, auctions, [figure, *beside])


def _case(sizes: Sizes, auctions: int, figures: list[Figure]) -> Case:
    shape = {"n": sizes.num_agents, "V": sizes.vocab_size, "T": sizes.num_tokens}
    named = ", ".join(f"{name} {size}" for name, size in shape.items())
    return Case(
        f"A {auctions:,}, {named}",
        "auction",
        {"A": auctions} | shape,
        figures,
        along=["A"],
    )


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _ours(folder: pathlib.Path, sizes: Sizes, auctions: int) -> Contender:
    name = f"cell_{auctions}"
    text = _STUDY.format(**dataclasses.asdict(sizes), auctions=auctions)
    (folder / f"{name}.toml").write_text(text)
    # Each study has programs of its own, so that each first call compiles.
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / f"{name}_programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def call(turn: int) -> Timed:
        out = folder / f"{name}_{turn}_{time.monotonic_ns()}"
        command = [sys.executable, "-c", _PROGRAM, "study", "run", f"{name}.toml"]
        subprocess.run(
            [*command, "--out", out.name],
            cwd=folder,
            env=os.environ | kept,
            check=True,
            capture_output=True,
        )
        log = json.loads((out / "sessions.jsonl").read_text())
        peak = log["peak_memory_mib"]
        return Timed(log["seconds"], None if peak is None else round(peak * 2**20))

    return Contender("ours", "ours", call, auctions)


@contextlib.contextmanager
def _processes() -> Iterator[ProcessPoolExecutor]:
    """A process for each core, whose matrix products are too small for threads."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cores(), mp_context=context) as pool:
            # They start now, with this environment.
            list(pool.map(abs, range(cores())))
            yield pool
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _theirs(pool: ProcessPoolExecutor, sizes: Sizes) -> Iterator[Contender]:
    for peer in _PEERS:
        for dtype in sizes.dtypes:
            run = functools.partial(_run_peer, sizes, peer, dtype)
            chunk = _best_chunk(pool, run, sizes.chunks)
            for processes in sorted({1, cores()}):
                call = functools.partial(_together, pool, run, chunk, processes)
                many = f"{processes} process{'es' if processes > 1 else ''}"
                name = f"NumPy, {peer}, {dtype}, {many}"
                count = processes * sizes.peer_auctions
                yield Contender(name, "peer", call, count)


def _run_peer(sizes: Sizes, peer: str, dtype: str, chunk: int, seed: int) -> float:
    """Runs a cell; the processor's seconds, which other programs change the least."""
    table = _table(sizes.num_agents, sizes.vocab_size)
    rng, start = np.random.default_rng(seed), time.process_time()
    _PEERS[peer](table, sizes.peer_auctions, sizes.num_tokens, rng, dtype, chunk)
    return time.process_time() - start


@functools.cache
def _table(num_agents: int, vocab_size: int) -> np.ndarray:
    """Log-probabilities `(n, V, V)`, Dirichlet(1) rows."""
    rng, size = np.random.default_rng(0), (num_agents, vocab_size)
    return np.log(rng.dirichlet(np.ones(vocab_size), size))


def _best_chunk(
    pool: ProcessPoolExecutor, run: Callable[[int, int], float], chunks: tuple[int, ...]
) -> int:
    """The chunk that takes the least of two runs."""
    if len(chunks) == 1:
        return chunks[0]
    times = {
        chunk: min(pool.submit(run, chunk, seed).result() for seed in range(2))
        for chunk in chunks
    }
    return min(times, key=lambda chunk: times[chunk])


def _together(
    pool: ProcessPoolExecutor,
    run: Callable[[int, int], float],
    chunk: int,
    processes: int,
    turn: int,
) -> None:
    """Runs a cell in some processes at once."""
    jobs = [pool.submit(run, chunk, turn * processes + k) for k in range(processes)]
    for job in jobs:
        job.result()
