"""How a checkpoint is refused."""

import time

import pytest

from tokenauction_jax.agents.checkpoints.load import CheckpointError, load_checkpoint


def refusal(path):
    """The line with which a checkpoint is refused, at once."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.perf_counter() - start < 5
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line
