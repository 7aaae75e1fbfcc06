"""A mesh of several processes: each has its share of the auctions of one."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import tokenauction_jax as ta

PROGRAM = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
import tokenauction_jax as ta

address, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(address, count, number)
pool = ta.agents.tabular(np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
rule = ta.linear()
mechanism = ta.Mechanism(rule, ta.second_price(rule))
with jax.set_mesh(Mesh(np.array(jax.devices()), ("auctions",))):
    rollout = ta.simulate(
        *(jax.random.key(3), mechanism, pool, [1.0, 2.0]),
        num_tokens=4, num_auctions=16,
    )
own = [(shard.index[0].indices(16)[0], shard.data.tolist())
       for shard in rollout.tokens.addressable_shards]
print(json.dumps(own))
"""


def run(address, count, number):
    # Two devices a process, as a host may have several.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, address, str(count), str(number)],
        env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.sweep(1)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_auctions(count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [run(address, count, number) for number in range(count)]
    found = np.full((16, 4), -1)
    for process in processes:
        written, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        shards = json.loads(written)
        assert len(shards) == 2
        assert {len(tokens) for _, tokens in shards} == {16 // (2 * count)}
        for first, tokens in shards:
            found[first : first + len(tokens)] = tokens
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    pool = ta.agents.tabular(np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    size = {"num_tokens": 4, "num_auctions": 16}
    wanted = ta.simulate(jax.random.key(3), mechanism, pool, [1.0, 2.0], **size)
    np.testing.assert_array_equal(found, wanted.tokens)
