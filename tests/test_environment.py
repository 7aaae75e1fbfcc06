import pathlib
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = "from tokenauction_jax import environment; print(environment.peak_memory())"


@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="needs /proc")
def test_peak_memory_is_not_that_of_the_program_before():
    """Linux counts the process that starts another one, by `getrusage`."""
    ballast = np.ones(2**27)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    assert 2**26 < int(done.stdout) < ballast.nbytes
