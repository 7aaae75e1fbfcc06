"""Time of a rollout with low-rank adapters and of the same one with prompts only.

Both pools have the same base, prompts and filters; in one every agent has an adapter of
its own on all linear maps. Runs alternate, so a busy machine slows both, and the median
of the ratios is compared with the bound. Compiling and loading are not counted.

    python benchmarks/lora_throughput.py
"""

import argparse
import os
import platform
import statistics
import time

MODEL = "smollm2-135m-instruct"
PROMPT = (
    "You write advertisements for {}. Continue the answer to 'Where should I spend my "
    "holidays?' with a paragraph that recommends them."
)
FIRMS = (
    *("Alpha Airlines", "Beta Resort", "Gamma Cruises", "Delta Trains"),
    *("Epsilon Hotels", "Zeta Tours", "Eta Camping", "Theta Villas"),
)
BOUND = 1.3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auctions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def restrict_cores(threads: int) -> None:
    """Call before JAX is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def random_adapter(key, model, rank: int):
    """An adapter that changes the answers, as training would."""
    import jax

    from tokenauction_jax.agents.models.lora import Adapter, new_adapter

    factors = new_adapter(key, model, rank).factors
    for path, (_, up) in factors.items():
        key, key_up = jax.random.split(key)
        up = 0.01 * jax.random.normal(key_up, up.shape)
        factors[path] = factors[path]._replace(up=up)
    return Adapter(factors)


def make_run(checkpoint, adapters, arguments):
    """One rollout, as a function of the seed."""
    import jax

    import tokenauction_jax as ta

    pool = ta.agents.from_language_model(
        checkpoint.model,
        checkpoint.tokenizer,
        [PROMPT.format(firm) for firm in FIRMS],
        temperature=0.6,
        top_k=50,
        adapters=adapters,
    )
    mechanism = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
    shape = {"num_tokens": arguments.tokens, "num_auctions": arguments.auctions}
    bids = jax.numpy.linspace(1.0, 2.0, len(FIRMS))

    def run(seed: int):
        rollout = ta.simulate(jax.random.key(seed), mechanism, pool, bids, **shape)
        return jax.block_until_ready(rollout).tokens

    return run


def main() -> None:
    arguments = parse_arguments()
    restrict_cores(arguments.threads)
    import jax

    import tokenauction_jax as ta

    checkpoint = ta.agents.load_checkpoint(MODEL)
    keys = jax.random.split(jax.random.key(0), len(FIRMS))
    adapters = [random_adapter(key, checkpoint.model, arguments.rank) for key in keys]
    runs = {
        "prompts": make_run(checkpoint, None, arguments),
        "adapters": make_run(checkpoint, adapters, arguments),
    }
    times = {name: [] for name in runs}
    for repeat in range(arguments.repeats + 1):  # the first compiles
        for name, run in runs.items():
            started = time.perf_counter()
            run(repeat)
            times[name].append(time.perf_counter() - started)
    print(
        f"{MODEL}, {arguments.auctions} auctions x {len(FIRMS)} agents x "
        f"{arguments.tokens} tokens, rank {arguments.rank}, float32, "
        f"{arguments.threads} threads, {platform.machine()}, jax {jax.__version__}"
    )
    for name, seconds in times.items():
        rest = sorted(seconds[1:])
        print(
            f"{name:>8}: {statistics.median(rest):.2f} s a rollout "
            f"(from {rest[0]:.2f} to {rest[-1]:.2f}; first run {seconds[0]:.1f} s)"
        )
    pairs = zip(times["adapters"][1:], times["prompts"][1:], strict=True)
    ratios = sorted(own / shared for own, shared in pairs)
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    print("within the bound" if ratio <= BOUND else f"beyond the bound of {BOUND}")


if __name__ == "__main__":
    main()
