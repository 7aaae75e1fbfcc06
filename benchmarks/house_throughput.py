"""Auction tokens per second of the house model and of SmolLM2-135M-Instruct.

Both run the same auctions in one process, with the prompts, sampling and payments of
`decode_throughput.py`. Runs alternate; the medians are compared (bound: 20). Compiling
and loading are not counted.

    python benchmarks/house_throughput.py
"""

import platform
import statistics
import time

import decode_throughput

MODELS = ("house", decode_throughput.MODEL)


def main() -> None:
    arguments = decode_throughput.parse_arguments()
    decode_throughput.restrict_cores(arguments.threads)
    import jax

    import tokenauction_jax as ta

    runs = {
        name: decode_throughput.make_ours(ta.agents.load_checkpoint(name), arguments)
        for name in MODELS
    }
    times = {name: [] for name in MODELS}
    for repeat in range(arguments.repeats + 1):  # the first compiles
        for name, run in runs.items():
            started = time.perf_counter()
            run(repeat)
            times[name].append(time.perf_counter() - started)
    total, agents = arguments.auctions * arguments.tokens, decode_throughput.PROMPTS
    print(
        f"{arguments.rule}, {arguments.auctions} auctions x {len(agents)} agents x "
        f"{arguments.tokens} tokens, float32, {arguments.threads} threads, "
        f"{platform.machine()}, jax {jax.__version__}"
    )
    speeds = {}
    for name, (first, *rest) in times.items():
        rates = sorted(total / second for second in rest)
        speeds[name] = statistics.median(rates)
        print(
            f"{name:>22}: {speeds[name]:8,.0f} tokens/s "
            f"(from {rates[0]:,.0f} to {rates[-1]:,.0f}; first run {first:.1f} s)"
        )
    print(f"ratio {speeds[MODELS[0]] / speeds[MODELS[1]]:.1f}")


if __name__ == "__main__":
    main()
