"""Time and memory of bidding, in units of the simulation that it differentiates.

`value_and_grad` of one agent's utility beside `simulate` with the same agents, in turn;
medians are compared: of tables, and of SmolLM2 (a minute or two). Then how long many
two-agent equilibria take, in one program.

    python benchmarks/bidding_throughput.py
"""

import argparse
import resource
import statistics
import time

import decode_throughput
import jax
import jax.numpy as jnp

import tokenauction_jax as ta
from tokenauction_jax import bidding
from tokenauction_jax.environment import environment


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auctions", type=int, default=10_000)
    parser.add_argument("--vocab-size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--equilibria", type=int, default=1_000)
    parser.add_argument("--model-auctions", type=int, default=16, help="0 for none")
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def medians(calls, repeats: int) -> dict[str, float]:
    """Median seconds of each call, which take turns."""
    times = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(jax.random.key(repeat)))
            # The first round compiles.
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def compare(name: str, mechanism, pool, bids, values, size, repeats: int) -> None:
    """Prints a row of the table."""
    utility = bidding.utility(0, ta.total_variation())

    def forward(key):
        return ta.simulate(key, mechanism, pool, bids, **size)

    def slopes(key):
        problem = key, mechanism, pool, bids, utility
        return bidding.value_and_grad(*problem, values=values, **size)

    found = medians({"forward": forward, "slopes": slopes}, repeats)
    ratio = found["slopes"] / found["forward"]
    times = f"{1e3 * found['forward']:.0f} | {1e3 * found['slopes']:.0f}"
    print(f"| {name} | {times} | {ratio:.2f} |", flush=True)


def gradients(arguments: argparse.Namespace) -> None:
    pool = ta.agents.markov(jax.random.key(5), 3, arguments.vocab_size, 0.3)
    linear, log_linear = ta.linear(), ta.log_linear()
    size = {"num_tokens": arguments.tokens, "num_auctions": arguments.auctions}
    bids, values = jnp.array([1.0, 2.0, 0.5]), jnp.array([3.0, 1.0, 2.0])
    print("\n| agents and mechanism | simulate, ms | value_and_grad, ms | ratio |")
    print("|---|---|---|---|")
    for mechanism in (
        ta.Mechanism(linear, ta.pay_your_bid()),
        ta.Mechanism(linear, ta.second_price(linear)),
        ta.Mechanism(log_linear, ta.clarke(log_linear)),
    ):
        name = f"tables, {mechanism.aggregation.name}, {mechanism.payment.name}"
        compare(name, mechanism, pool, bids, values, size, arguments.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    # The language model of the next row has gigabytes of its own.
    if arguments.model_auctions:
        language_model(arguments)
    print(f"\nPeak memory of the process with tables: {peak:.2f} GB")


def language_model(arguments: argparse.Namespace) -> None:
    checkpoint = ta.agents.load_checkpoint(decode_throughput.MODEL)
    pool = ta.agents.from_language_model(
        checkpoint.model,
        checkpoint.tokenizer,
        decode_throughput.PROMPTS,
        temperature=decode_throughput.TEMPERATURE,
        top_k=decode_throughput.TOP_K,
    )
    linear = ta.linear()
    size = {"num_tokens": arguments.tokens, "num_auctions": arguments.model_auctions}
    compare(
        f"{decode_throughput.MODEL}, linear, second_price",
        *(ta.Mechanism(linear, ta.second_price(linear)), pool),
        *(jnp.array(decode_throughput.BIDS), jnp.array([3.0, 1.0])),
        *(size, arguments.repeats),
    )


def equilibria(arguments: argparse.Namespace) -> None:
    shape = (arguments.equilibria, 2)
    logits = 2 * jax.random.normal(jax.random.key(0), (*shape, arguments.vocab_size))
    log_probs, values = (
        jax.nn.log_softmax(logits),
        jax.random.lognormal(jax.random.key(1), shape=shape),
    )
    mechanism = ta.Mechanism(ta.linear(), ta.pay_your_bid())

    @jax.jit
    @jax.vmap
    def solve(log_probs, values):
        return bidding.equilibrium(
            *(jax.random.key(0), mechanism, ta.agents.tabular(log_probs)),
            values=values,
            valuation=ta.total_variation(),
            num_tokens=1,
        )

    found = jax.block_until_ready(solve(log_probs, values))
    start = time.perf_counter()
    jax.block_until_ready(solve(log_probs, values))
    seconds = time.perf_counter() - start
    print(
        f"\n{arguments.equilibria} equilibria of two agents, {arguments.vocab_size} "
        f"tokens: {seconds:.1f} s, largest gap {found.gap.max():.1e}, converged "
        f"{found.converged.mean():.1%}"
    )


def main() -> None:
    arguments = parse_arguments()
    print(environment())
    gradients(arguments)
    equilibria(arguments)


if __name__ == "__main__":
    main()
