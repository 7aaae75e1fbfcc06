"""Time of one cell of a tabular study, per auction, beside NumPy.

The cell is that of `numpy_study.run`: Markov tables, linear aggregation, truthful
log-normal bids, the second price, every measure with moments and histograms. Ours is
`tokenauction study run` in a process of its own, compilation, statistics and writing
included; its peak memory is that of the process.

One peer (`numpy_study_plain`) is written from the definitions, the other tuned.
Each runs in one process with one thread, and in as many processes as there are
cores, each with all auctions; the second figure divides by all of them. Each figure is
the least of several short repeats, after one run that is not counted: other programs
only add to it. The repeats of all chunks take turns, so that all see the same machine.
The processor time of the same process is given beside the elapsed time.

    python benchmarks/study_throughput.py
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

# Before NumPy is imported: its matrix products are too small for threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import numpy_study
import numpy_study_plain

PEERS = {
    "NumPy, from the definitions": numpy_study_plain.run,
    "NumPy, tuned": numpy_study.run,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--auctions", type=int, default=8192)
    parser.add_argument("--chunks", type=int, nargs="+", default=[251, 507, 1019, 1531])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--ours", type=int, nargs="+", default=[100_000, 1_000_000], metavar="AUCTIONS"
    )
    return parser.parse_args()


STUDY = """
num_auctions = {auctions}
num_tokens = {tokens}
keep_auctions = 0
[agents]
kind = "markov"
num_agents = {agents}
vocab_size = {vocabulary}
concentration = 1.0
[values]
kind = "log_normal"
sigma = 0.5
"""
PROGRAM = "from tokenauction_jax.cli import main; main()"


def time_ours(arguments: argparse.Namespace, auctions: int) -> dict[str, float]:
    """The log of a study of one cell: seconds, share of overhead, peak memory."""
    sizes = vars(arguments) | {"auctions": auctions}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "cell.toml").write_text(STUDY.format(**sizes))
        command = [sys.executable, "-c", PROGRAM, "study", "run", "cell.toml"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return json.loads((folder / "cell" / "sessions.jsonl").read_text())


def make_table(arguments: argparse.Namespace) -> np.ndarray:
    """Log-probabilities `(n, V, V)`, Dirichlet(1) rows."""
    rng = np.random.default_rng(0)
    size = (arguments.agents, arguments.vocabulary)
    return np.log(rng.dirichlet(np.ones(arguments.vocabulary), size))


def run_peer(
    arguments: argparse.Namespace, peer: str, dtype: str, chunk: int, seed: int
) -> tuple[float, float]:
    """Seconds of one cell in this process: elapsed, and of the processor."""
    table, rng = make_table(arguments), np.random.default_rng(seed)
    started, processor = time.perf_counter(), time.process_time()
    PEERS[peer](table, arguments.auctions, arguments.tokens, rng, dtype, chunk)
    return time.perf_counter() - started, time.process_time() - processor


def time_peer_chunks(
    arguments: argparse.Namespace, peer: str, dtype: str, chunks: list[int]
) -> dict[int, tuple[float, float]]:
    """Microseconds per auction of each chunk, one process: elapsed, processor."""
    seconds = np.array(
        [
            [run_peer(arguments, peer, dtype, chunk, seed) for chunk in chunks]
            for seed in range(arguments.repeats + 1)
        ]
    )
    least = seconds[1:].min(0) * 1e6 / arguments.auctions
    pairs = ((float(elapsed), float(processor)) for elapsed, processor in least)
    return dict(zip(chunks, pairs, strict=True))


def time_peer_processes(
    arguments: argparse.Namespace, peer: str, dtype: str, chunk: int
) -> float:
    """Microseconds per auction, with a process on each core at once."""
    workers, seconds = arguments.processes, []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for repeat in range(arguments.repeats + 1):
            seeds = [repeat * workers + k for k in range(workers)]
            started = time.perf_counter()
            jobs = [
                pool.submit(run_peer, arguments, peer, dtype, chunk, seed)
                for seed in seeds
            ]
            for job in jobs:
                job.result()
            seconds.append(time.perf_counter() - started)
    return 1e6 * min(seconds[1:]) / (workers * arguments.auctions)


def main() -> None:
    arguments = parse_arguments()
    print(
        f"n = {arguments.agents}, V = {arguments.vocabulary}, T = {arguments.tokens}, "
        f"numpy {np.__version__}; microseconds per auction"
    )
    for auctions in arguments.ours:
        log = time_ours(arguments, auctions)
        print(
            f"ours, {auctions:,} auctions: {1e6 * log['seconds'] / auctions:7.2f} "
            f"({100 * log['overhead_share']:.1f} % of it statistics and writing, peak "
            f"{log['peak_memory_mib']:,.0f} MiB)",
            flush=True,
        )
    for peer in PEERS:
        for dtype in ("float64", "float32"):
            print(f"{peer}, {dtype}")
            times = time_peer_chunks(arguments, peer, dtype, arguments.chunks)
            for chunk, (elapsed, processor) in times.items():
                print(f"  chunk {chunk:>5}: {elapsed:7.2f}, processor {processor:7.2f}")
            # Noise adds to the elapsed time more.
            best = min(times, key=lambda chunk: times[chunk][1])
            elapsed, processor = times[best]
            print(
                f"  one process: {elapsed:7.2f}, processor {processor:7.2f} "
                f"(chunk {best})"
            )
            together = time_peer_processes(arguments, peer, dtype, best)
            print(f"  {arguments.processes} processes: {together:7.2f}", flush=True)


if __name__ == "__main__":
    main()
