"""Help needs no JAX, and a command that ran before compiles nothing."""

import json
import subprocess
import sys

import one_device
import pytest
from tiny_checkpoint import write_checkpoint

from tokenauction_jax import agents
from tokenauction_jax.cli import arguments

# Prints the events of JAX's own counters after a command.
COUNTED = """
import collections, json, sys
from jax import monitoring
seen = collections.Counter()
monitoring.register_event_listener(lambda event, **_: seen.update([event]))
from tokenauction_jax.cli import main
main(sys.argv[1:])
print(json.dumps(seen), file=sys.stderr)
"""
SCENARIO = """
query = "Where to?"
model = '{model}'
num_auctions = 3
num_tokens = 5
[[agents]]
name = "Alpha"
prompt = "{{query}} Alpha!"
[[agents]]
name = "Beta"
prompt = "{{query}} Beta is the place"
"""
CACHE = "/jax/compilation_cache"


def run(program, *arguments, **variables):
    given = one_device.environment()
    env = {k: v for k, v in given.items() if not k.startswith("JAX")}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env | {k: str(v) for k, v in variables.items()},
        check=False,
    )


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenario")
    model = write_checkpoint(folder / "tiny")
    file = folder / "scenario.toml"
    file.write_text(SCENARIO.format(model=model))
    return file


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["study", "run", "--help"], 0),
        (["simulat"], 2),
        (["study", "run"], 2),
        (["train", "data", "--epoch", "2"], 2),
    ],
)
def test_help_and_mistakes_import_no_jax(arguments, code):
    program = (
        "import sys; from tokenauction_jax.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = run(program, *arguments)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_same_command_compiles_nothing_again(scenario, tmp_path):
    counts = []
    for _ in range(2):
        done = run(COUNTED, "simulate", scenario, XDG_CACHE_HOME=tmp_path)
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stderr.splitlines()[-1]))
    first, second = counts
    assert first[f"{CACHE}/cache_misses"] > 10
    assert f"{CACHE}/cache_misses" not in second
    requests = second[f"{CACHE}/compile_requests_use_cache"]
    assert second[f"{CACHE}/cache_hits"] == requests > 10
    # Each is traced, looked up and loaded: the rest of a short command waits for them.
    assert requests < 25


def test_what_is_imported_is_quick_and_not_collected(tmp_path):
    program = (
        "import gc, sys; from tokenauction_jax.cli import main\n"
        "main(sys.argv[1:])\n"
        "print('scipy.stats' in sys.modules, gc.isenabled(), gc.get_freeze_count())"
    )
    done = run(program, "models", XDG_CACHE_HOME=tmp_path)
    assert done.returncode == 0, done.stderr
    has_stats, collects, frozen = done.stdout.splitlines()[-1].split()
    assert (has_stats, collects) == ("False", "True")
    assert int(frozen) > 100_000


@pytest.mark.slow
def test_nothing_is_kept_if_asked(scenario, tmp_path):
    done = run(COUNTED, "simulate", scenario, "--no-cache", XDG_CACHE_HOME=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{CACHE}/cache_hits" not in json.loads(done.stderr.splitlines()[-1])
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path):
    """The command runs all the same, and says so."""
    file = tmp_path / "file"
    file.write_text("mine")
    done = run(COUNTED, "models", XDG_CACHE_HOME=file)
    assert done.returncode == 0, done.stderr
    assert "tokenauction: compiled programs are not kept: " in done.stderr
    assert file.read_text() == "mine"


def test_the_default_model_is_the_house_model():
    """Written out, because the constant brings JAX."""
    assert arguments.Train(data=None, out=None).model == agents.HOUSE
