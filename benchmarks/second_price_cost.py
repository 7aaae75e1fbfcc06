"""Time of the realised second price against the size of the vocabulary.

The critical bids of all agents are drawn after the token: they need the column of that
token only. For each V the script times `SecondPrice.realized` for many auctions in one
compiled call, beside a draw of the token from the aggregate, which passes over V. Runs
of all V alternate; medians are compared.

    python benchmarks/second_price_cost.py
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

import tokenauction_jax as ta
from tokenauction_jax.environment import environment
from tokenauction_jax.mechanism.sampling import sample_token

VOCABULARIES = (64, 512, 4096, 32768, 131072)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auctions", type=int, default=64)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


@jax.jit
def pay(payment, keys, bids, log_probs, tokens):
    return jax.vmap(payment.realized)(keys, bids, log_probs, tokens)


@jax.jit
def draw(aggregation, keys, bids, log_probs):
    def one(key, bids, log_probs):
        return sample_token(key, aggregation.log_prob(bids, log_probs))

    return jax.vmap(one)(keys, bids, log_probs)


def seconds(call, arguments, calls: int) -> float:
    """Mean time of one call."""
    start = time.perf_counter()
    outs = [call(*arguments) for _ in range(calls)]
    jax.block_until_ready(outs)
    return (time.perf_counter() - start) / calls


def main() -> None:
    arguments = parse_arguments()
    rule, size = ta.linear(), (arguments.auctions, arguments.agents)
    payment = ta.second_price(rule)
    keys = jax.random.split(jax.random.key(0), arguments.auctions)
    bids = jax.random.uniform(jax.random.key(1), size, minval=0.5, maxval=2.0)
    inputs = {}
    for vocabulary in VOCABULARIES:
        logits = jax.random.normal(jax.random.key(2), (*size, vocabulary))
        log_probs = jax.nn.log_softmax(logits)
        tokens = draw(rule, keys, bids, log_probs)
        inputs[vocabulary] = log_probs, tokens
        jax.block_until_ready(pay(payment, keys, bids, log_probs, tokens))
    pays: dict[int, list[float]] = {vocabulary: [] for vocabulary in VOCABULARIES}
    draws: dict[int, list[float]] = {vocabulary: [] for vocabulary in VOCABULARIES}
    for _ in range(arguments.repeats):
        for vocabulary, (log_probs, tokens) in inputs.items():
            case = payment, keys, bids, log_probs, tokens
            pays[vocabulary].append(seconds(pay, case, arguments.calls))
            case = rule, keys, bids, log_probs
            fewer = max(1, arguments.calls * 64 // vocabulary)
            draws[vocabulary].append(seconds(draw, case, fewer))
    print(
        f"{jnp.zeros(()).dtype}, {arguments.auctions} auctions of {arguments.agents} "
        f"agents, {environment()['devices']}, {environment()['versions']}"
    )
    first = statistics.median(pays[VOCABULARIES[0]])
    print("      V   payments, us   of V = 64   aggregate and draw, us")
    for vocabulary in VOCABULARIES:
        paid = statistics.median(pays[vocabulary])
        drawn = statistics.median(draws[vocabulary])
        print(
            f"{vocabulary:>7}   {1e6 * paid:12.1f}   {paid / first:9.2f}   "
            f"{1e6 * drawn:22.1f}"
        )


if __name__ == "__main__":
    main()
