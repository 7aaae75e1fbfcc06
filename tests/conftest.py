"""Strict JAX settings for every test, and random auctions to run them on."""

import collections
import gc
import os
import pathlib
import shutil
import subprocess

# Before jax starts its backend: several fake devices, to test sharding on a CPU. And
# programs in one piece: in many they take a fifth longer to compile where all cores are
# busy, as for each of them the process's threads stop.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_cpu_parallel_codegen_split_count=1"
)

import hypothesis
import jax
import numpy as np
import pytest
from jax._src import compiler
from reference import instances

# Programs are many long-lived objects, which it would look through again and again.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# The same examples in every run; compiling the first one takes longer than a deadline.
hypothesis.settings.register_profile(
    "deterministic", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile("deterministic")


# Flags of XLA: in tests that hardly run their programs, and as users have them.
_FLAGS = {
    "xla_backend_optimization_level": (0, 3),
    "xla_llvm_disable_expensive_passes": (True, False),
}
# An older code generator compiles programs in half of the time; 0.11 has none.
if jax.__version_info__ < (0, 11):
    _FLAGS["xla_cpu_use_fusion_emitters"] = (False, True)
_QUICK = "".join(f" --{name}={quick}".lower() for name, (quick, _) in _FLAGS.items())


def pytest_configure(config):
    """Programs that several tests, processes or runs have in common compile once.

    Compiling is most of the work. Where slow tests are left out programs hardly run,
    and are optimised less, which takes half of the time. Those that are slow are
    compiled as for users.
    """
    if config.getoption("markexpr") == "not slow":
        os.environ["XLA_FLAGS"] += _QUICK
    cache = getattr(config, "cache", None)  # None with `-p no:cacheprovider`.
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a sweep the default run has some parameters, spread evenly.

    The file that takes the longest comes first: at the end the others would wait.
    """
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
    sweeps = collections.defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("sweep")
        if mark is not None and item.get_closest_marker("slow") is None:
            sweeps[item.path, item.originalname, mark.args[0]].append(item)
    for (*_, count), found in sweeps.items():
        kept = np.linspace(0, len(found) - 1, count).round()
        for place, item in enumerate(found):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


_MAPPINGS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops what a file compiled: together all programs would take 9 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_many_programs():
    """Drops them sooner where they are many.

    Each kernel maps memory, of which Linux gives a process 65,530 pieces; XLA ends the
    process when there are no more.
    """
    yield
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def one_device():
    """For studies: devices without a block of their own repeat one."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: first)
        yield


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs headless Chromium on a page and returns what it printed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None and os.environ.get("CI_BROWSER") == "1":
        pytest.fail("no Chromium, although CI_BROWSER=1 asks for it")
    if chromium is None:
        pytest.skip("no Chromium on this machine")

    def run(path, *flags, query=""):
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
            *(*flags, path.as_uri() + f"?{query}" * bool(query)),
        ]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return done.stdout.decode()

    return run


# 5 x 100 auctions by default, 5 x 2,000 in the slow sweep.
SWEEPS = (100, pytest.param(2000, marks=pytest.mark.slow))


@pytest.fixture(params=SWEEPS, ids=lambda size: f"{5 * size}", scope="session")
def sweep_size(request):
    """How many random auctions to run of each shape."""
    return request.param


@pytest.fixture(scope="session")
def auctions(sweep_size):
    """Random auctions of every shape; any of them may be undefined below order 0."""
    return [instances.batch(0, sweep_size, *shape) for shape in instances.SHAPES]


@pytest.fixture(scope="session")
def common_auctions(sweep_size):
    """Random auctions with a token that everyone can produce, so none is undefined."""
    return [
        instances.batch(1, sweep_size, *shape, common_support=True)
        for shape in instances.SHAPES
    ]


@pytest.fixture(scope="module")
def optimized():
    """For tests of the last bit: from here on a file's programs are those of users."""
    standard = compiler.get_compile_options
    usual = {name: usual for name, (_, usual) in _FLAGS.items()}

    def options(*args, env_options_overrides=None, **others):
        overrides = usual | (env_options_overrides or {})
        return standard(*args, env_options_overrides=overrides, **others)

    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        if _QUICK in os.environ["XLA_FLAGS"]:
            # A process reads its flags once.
            patch.setattr(compiler, "get_compile_options", options)
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace(_QUICK, ""))
        yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Run the test in double precision."""
    with jax.enable_x64(True):
        yield
