"""`ta.simulate` with its auctions spread over devices, on the same Markov tables.

A CPU pretends to be several devices, which share its cores.
"""

import dataclasses
import os
from collections.abc import Iterator

import jax
import numpy as np

import tokenauction_jax as ta
from benchmarks import auctions
from benchmarks.figures import Case
from benchmarks.harness import take_turns

USES = ()
_PRETEND = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One simulation, and rounds."""

    num_auctions: int = 2**17
    num_agents: int = 3
    vocab_size: int = 64
    num_tokens: int = 4
    most_devices: int = 8
    rounds: int = 5


FULL, QUICK = Sizes(), Sizes(num_auctions=2**15, most_devices=2, rounds=3)


def measure(sizes: Sizes) -> Iterator[Case]:
    """A case for 1, 2, 4, ... devices; before any other use of JAX in its process."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _PRETEND not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_PRETEND}={sizes.most_devices}"
    size = sizes.num_auctions, sizes.num_agents
    devices = jax.local_devices()[: sizes.most_devices]
    pool = ta.agents.markov(jax.random.key(0), size[1], sizes.vocab_size, 1.0)
    bids = jax.random.gamma(jax.random.key(1), 2.0, size)
    for count in (2**k for k in range(len(devices).bit_length())):
        mesh = jax.sharding.Mesh(np.array(devices[:count]), ("auctions",))
        contender = auctions.simulate(
            "ours, linear, second_price",
            *(auctions.linear_second_price(), pool, bids, sizes.num_auctions),
            num_tokens=sizes.num_tokens,
        )
        with jax.set_mesh(mesh):
            figures = take_turns([contender], sizes.rounds)
        yield Case(
            f"{count} devices, A {size[0]:,}, n {size[1]}, V {sizes.vocab_size}, "
            f"T {sizes.num_tokens}",
            "auction",
            {
                "A": size[0],
                "n": size[1],
                "V": sizes.vocab_size,
                "T": sizes.num_tokens,
                "devices": count,
            },
            figures,
            along=["devices"],
        )
