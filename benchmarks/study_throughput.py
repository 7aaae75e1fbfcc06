"""Time of one cell of a tabular study, per auction: that of the NumPy peers.

The cell is that of `numpy_study.run`: Markov tables, linear aggregation,
truthful log-normal bids, the second price, every measure with moments and histograms.
One peer (`numpy_study_plain`) is written from the definitions, the other tuned.
Each runs in one process with one thread, and in as many processes as there are
cores, each with all auctions; the second figure divides by all of them. Each figure is
the least of several short repeats, after one run that is not counted: other programs
only add to it. The repeats of all chunks take turns, so that all see the same machine.
The processor time of the same process is given beside the elapsed time.

    python benchmarks/study_throughput.py
"""

import argparse
import os
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
    return parser.parse_args()


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
        f"{arguments.auctions} auctions, numpy {np.__version__}; us per auction"
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
