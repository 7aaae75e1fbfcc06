"""The filters against a plain NumPy version and against `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenauction_jax.agents import filters
from tokenauction_jax.agents.filters import filter_logits, sampling

CASES = [
    {},
    {"temperature": 0.6},
    {"temperature": [0.5, 2.0]},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": [3, 40]},
    {"top_k": [None, 40]},
    {"top_k": 10**6},
    {"top_p": 0.9},
    {"top_p": [0.3, 1.0]},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": [0.0, 1.0]},
    {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
    {"temperature": [0.6, 1.5], "top_k": [None, 30], "top_p": [0.9, None]},
]
SIZES = [11, 1000, 8192]


def agent_option(value, agent):
    return value[agent] if isinstance(value, list) else value


def reference(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """One agent's distribution in float64, written from the definitions."""
    logits = np.asarray(logits, np.float64) / temperature
    if top_k is not None:
        kth = np.sort(logits)[::-1][min(top_k, logits.size) - 1]
        logits = np.where(logits >= kth, logits, -np.inf)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    if top_p is not None and top_p < 1:
        order = np.argsort(-probs, kind="stable")
        needed = np.searchsorted(np.cumsum(probs[order]), top_p) + 1
        probs = np.where(probs >= probs[order[needed - 1]], probs, 0)
    if min_p is not None:
        probs = np.where(probs >= min_p * probs.max(), probs, 0)
    return probs / probs.sum()


def random_logits(size, rows=3):
    return 3 * jax.random.normal(jax.random.key(size), (rows, 2, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_agrees_with_the_definitions(options, size):
    logits = random_logits(size)
    log_probs = np.asarray(jax.jit(filter_logits)(sampling(2, **options), logits))
    for row, agent in np.ndindex(logits.shape[:2]):
        own = {name: agent_option(value, agent) for name, value in options.items()}
        expected = reference(logits[row, agent], **own)
        kept = np.isfinite(log_probs[row, agent])
        np.testing.assert_array_equal(kept, expected > 0)
        probs = np.exp(log_probs[row, agent].astype(np.float64))
        np.testing.assert_allclose(probs, expected, rtol=2e-5, atol=1e-30)
        assert abs(probs.sum() - 1) < 1e-6


@pytest.mark.parametrize(
    "options", [{"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.1}], ids=str
)
def test_agrees_with_the_warpers_of_transformers(oracle, options):
    import torch

    logits = random_logits(500)
    ((name, value),) = options.items()
    kind = {"top_k": "TopK", "top_p": "TopP", "min_p": "MinP"}[name]
    warper = getattr(oracle, f"{kind}LogitsWarper")(value)
    expected = warper(None, torch.tensor(np.array(logits[:, 0])) / 0.7)
    ours = filter_logits(sampling(2, temperature=0.7, **options), logits)[:, 0]
    expected = torch.log_softmax(expected, -1).numpy()
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32]
ROUNDING = 1e-5


def random_options(rng):
    """Some filters for two agents, extremes included."""
    choices = {
        "temperature": [1e-6, 1e-5, 0.3, 0.7, 1.0, 2.0, 1e4, 1e30],
        "top_k": [None, 1, 2, 3, 10, 63, 64, 1000],
        "top_p": [None, 1e-30, 1e-3, 0.25, 0.5, 0.8, 0.9, 0.999, 1.0],
        "min_p": [None, 0.0, 1e-30, 1e-3, 0.1, 0.25, 0.5, 1.0],
    }
    chosen = [name for name in choices if rng.integers(3)]
    pick = {name: rng.integers(len(choices[name]), size=2) for name in chosen}
    return {name: [choices[name][x] for x in pick[name]] for name in chosen}


def random_rows(rng, dtype):
    """Logits of an auction: spread out, of few values, all equal, or impossible."""
    logits = rng.choice([0.01, 1.0, 5.0, 50.0]) * rng.normal(size=(2, 64))
    case = rng.integers(5)
    if case == 0:
        logits = np.round(logits)
    if case == 1:
        logits = np.full((2, 64), rng.choice([0.0, -3.0, 60000.0]))
    if case == 2:
        logits = np.log(rng.choice([0.5, 0.25, 0.125, 0.1], size=(2, 64)))
    if case >= 3:
        logits = np.where(rng.random((2, 64)) < 0.3, -np.inf, logits)
    return jnp.asarray(logits, dtype)


def loosened(options, amount):
    """The same filters, with `amount` more of the probability in doubt."""
    more = {
        "top_p": lambda p: min(p + amount, 1),
        "min_p": lambda p: min(p * (1 - amount), 1),
    }
    return {
        name: more[name](value) if name in more and value is not None else value
        for name, value in options.items()
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_filters_agree_with_the_definitions(dtype):
    """The tokens that stay are those of the definitions, but for rounding."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        options, logits = random_options(rng), random_rows(rng, dtype)
        got = filter_logits(sampling(2, **options), logits)
        assert got.dtype == dtype
        got = np.asarray(got, np.float64)
        assert not np.isnan(got).any(), options
        for agent in range(2):
            own = {name: value[agent] for name, value in options.items()}
            row = np.asarray(logits[agent], np.float64)
            least, most = (
                reference(row, **loosened(own, amount)) > 0
                for amount in (-ROUNDING, ROUNDING)
            )
            kept = np.exp(got[agent]) > 0
            probable = reference(row, **own) > 1e-30
            assert (kept[least & probable]).all(), (own, row)
            assert not kept[~most].any(), (own, row)
            if (least == most).all():
                tolerance = 1e-4 if dtype == jnp.float32 else 0.1
                expected = reference(row, **own)
                np.testing.assert_allclose(np.exp(got[agent]), expected, atol=tolerance)


def test_random_filters_agree_with_the_warpers_of_transformers(oracle):
    import torch

    rng = np.random.default_rng(1)
    kinds = {
        "temperature": oracle.TemperatureLogitsWarper,
        "top_k": oracle.TopKLogitsWarper,
        "top_p": oracle.TopPLogitsWarper,
        "min_p": oracle.MinPLogitsWarper,
    }
    for _ in range(100):
        chosen = {
            "temperature": rng.uniform(0.3, 2),
            "top_k": int(rng.integers(1, 60)),
            "top_p": rng.uniform(0.05, 1),
            "min_p": rng.uniform(0, 0.3),
        }
        chosen = {name: x for name, x in chosen.items() if rng.integers(2)}
        logits = (3 * rng.normal(size=(1, 200))).astype(np.float32)
        expected = torch.tensor(logits)
        for name, value in chosen.items():
            expected = kinds[name](value)(None, expected)
        ours = filter_logits(sampling(1, **chosen), jnp.asarray(logits))
        expected = torch.log_softmax(expected, -1).numpy()
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_reach_that_is_met_exactly_needs_no_more():
    """As by the warpers of `transformers`, k first."""
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1]]))
    for options in ({"top_p": 0.8, "top_k": 3}, {"top_p": 0.8}, {"min_p": 0.6}):
        kept = jnp.isfinite(filter_logits(sampling(1, **options), logits))
        np.testing.assert_array_equal(kept, [[True, True, False, False]])


@pytest.mark.parametrize("size", [100, 4096])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_the_largest_are_found_in_any_block(size, k):
    logits = jax.random.normal(jax.random.key(0), (2, size))
    clustered = jnp.sort(logits, axis=-1)  # All of the largest in one block.
    for x in (logits, clustered, jnp.round(logits)):
        expected = np.sort(np.asarray(x), axis=-1)[:, ::-1][:, :k]
        np.testing.assert_array_equal(filters._largest(x, k), expected)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_equally_probable_tokens_stay_or_go_together(options):
    logits = jnp.array([[2.0, 1.0, 1.0, 1.0, -1.0]])
    kept = jnp.isfinite(filter_logits(sampling(1, **options), logits))
    np.testing.assert_array_equal(kept, [[True, True, True, True, False]])


@pytest.mark.parametrize("options", CASES, ids=str)
def test_tokens_without_probability_stay_without(options):
    logits = random_logits(300).at[..., 5].set(-jnp.inf)
    log_probs = filter_logits(sampling(2, **options), logits)
    assert (log_probs[..., 5] == -jnp.inf).all()
    assert not jnp.isnan(log_probs).any()


def test_numbers_are_leaves_and_unused_filters_are_left_out():
    logits = random_logits(100)
    traces = []

    @jax.jit
    def traced(*arguments):
        traces.append(1)
        return filter_logits(*arguments)

    first = traced(sampling(2, temperature=0.6, top_p=0.9), logits)
    second = traced(sampling(2, temperature=[1.0, 1.0], top_p=0.5), logits)
    assert len(traces) == 1
    assert not jnp.array_equal(first, second)
    unused = sampling(2, temperature=1.0, top_p=1.0, min_p=0.0)
    assert len(jax.tree.leaves(unused)) == 1


@pytest.mark.parametrize("options", CASES, ids=str)
def test_gradients_are_finite(options):
    logits, filters_ = random_logits(300), sampling(2, **options)
    logits = logits.at[..., 7].set(-jnp.inf)

    def entropy(filters_, logits):
        log_probs = filter_logits(filters_, logits)
        finite = jnp.where(jnp.isfinite(log_probs), log_probs, 0)
        return -(jnp.exp(log_probs) * finite).sum()

    gradients = jax.grad(entropy, argnums=(0, 1))(filters_, logits)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_of_the_logits_is_kept(dtype):
    options = {"temperature": 0.6, "top_k": 5, "top_p": 0.9, "min_p": 0.1}
    logits = random_logits(100).astype(dtype)
    assert filter_logits(sampling(2, **options), logits).dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.*top_k=1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": [1.0, -1.0]}, "temperature is -1"),
        ({"temperature": [1.0, 1.0, 1.0]}, "temperature is .*one number, or 2"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": [0.5, 1.5]}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        *(
            ({name: value}, f"{name} is .*: it must be a number")
            for name in ("temperature", "top_k", "top_p", "min_p")
            for value in (True, np.True_, [1, False], "1", 10**400, 1j, [[1], [1]])
        ),
    ],
    ids=str,
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampling(2, **options)
