"""The token sampler against its distribution, far into the tails.

Every bound is crossed by a right sampler with a probability of at most `FALSE_ALARM`;
keys are fixed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tokenauction_jax.mechanism import sampling
from tokenauction_jax.mechanism.sampling import sample_token

FALSE_ALARM = 1e-7


@partial(jax.jit, static_argnames=("batches", "batch"))
def counts(key, log_q, *, batches, batch):
    """How often each token is drawn, in `batches * batch` draws."""

    def one_batch(total, key_batch):
        keys = jax.random.split(key_batch, batch)
        drawn = jax.vmap(sample_token, (0, None))(keys, log_q)
        return total.at[drawn].add(1), None

    zero = jnp.zeros(log_q.shape[0], jnp.int32)
    return jax.lax.scan(one_batch, zero, jax.random.split(key, batches))[0]


def assert_chi_square(observed, q):
    """Pearson's test, tokens merged until each cell expects at least 20 draws."""
    draws, order = observed.sum(), np.argsort(q)
    assert observed[q == 0].sum() == 0
    mass = np.cumsum(q[order]) * draws
    cell = np.minimum(np.floor(mass / 20), np.floor(mass[-1] / 20) - 1).astype(int)
    _, cell = np.unique(cell, return_inverse=True)
    expected = np.bincount(cell, q[order] * draws)
    seen = np.bincount(cell, observed[order])
    keep = expected > 0
    statistic = ((seen - expected)[keep] ** 2 / expected[keep]).sum()
    assert special.gammaincc((keep.sum() - 1) / 2, statistic / 2) > FALSE_ALARM


def assert_poisson(seen, expected):
    """A count whose mean is `expected`, from both sides."""
    assert special.gammainc(seen, expected) > FALSE_ALARM if seen else True
    assert special.gammaincc(seen + 1, expected) > FALSE_ALARM


@pytest.mark.parametrize(
    ("vocabulary", "draws"),
    [(2, 200_000), (64, 100_000), (1000, 50_000), (49152, 4000)],
)
@pytest.mark.parametrize("concentration", [0.1, 10.0])
def test_frequencies(vocabulary, draws, concentration):
    rng = np.random.default_rng(vocabulary)
    q = rng.dirichlet(np.full(vocabulary, concentration))
    q[rng.uniform(size=vocabulary) < 0.1] = 0
    q /= q.sum()
    with np.errstate(divide="ignore"):
        log_q = np.log(q).astype(np.float32)
    q = np.exp(log_q.astype(float))
    observed = counts(jax.random.key(0), log_q, batches=20, batch=draws // 20)
    assert_chi_square(np.asarray(observed), q / q.sum())


@pytest.mark.parametrize("first", [True, False], ids=["rare first", "rare last"])
@pytest.mark.parametrize(
    ("rate", "rare", "batches"),
    [
        (1e-6, 64, 10),
        (1e-8, 2000, 10),
        pytest.param(1e-8, 2000, 100, marks=pytest.mark.slow),
        pytest.param(1e-10, 49_000, 40, marks=pytest.mark.slow),
    ],
)
def test_rare_tokens(rate, rare, batches, first):
    """Rare tokens beside a common one: float32 Gumbel noise never draws them."""
    tail = np.full(rare, np.log(rate))
    head = [np.log1p(-rare * rate)]
    log_q = np.concatenate([tail, head] if first else [head, tail]).astype(np.float32)
    batch = 100_000 if rare < 10_000 else 10_000
    observed = np.asarray(
        counts(jax.random.key(2), log_q, batches=batches, batch=batch)
    )
    rare_seen = observed[:-1] if first else observed[1:]
    assert_poisson(rare_seen.sum(), rare * rate * batches * batch)
    # Spread over the tokens: no single one is favoured by the grid of the uniforms.
    assert rare_seen.max() <= 5 + 10 * rate * batches * batch


@pytest.mark.parametrize("size", [1, 2, 3, 5, 32, 63, 64, 65, 1000, 1025, 50_257])
def test_columns(size):
    """Sums of the columns, and each of them, whatever is left over of the last row."""
    x = np.random.default_rng(size).random((2, 3, size), np.float32)
    sums = np.asarray(sampling.column_sums(jnp.asarray(x)))
    width = sums.shape[-1]
    table = np.pad(x, [(0, 0), (0, 0), (0, -size % width)], constant_values=-1)
    table = table.reshape(2, 3, -1, width)
    expected = np.where(table < 0, 0, table).sum(-2, dtype=float)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    for number in {0, width // 2, width - 1}:
        found = sampling.column(jnp.asarray(x), jnp.int32(number), -1)
        np.testing.assert_array_equal(found, table[..., number])


@pytest.mark.slow
def test_one_rare_token_at_its_rate():
    log_q = np.log(np.array([1 - 1.1e-6 - 1e-7, 1e-6, 1e-7, 1e-7, 0.0]) + 1e-45)
    log_q = log_q.astype(np.float32)
    log_q[-1] = -np.inf
    batches, batch = 200, 1_000_000
    observed = counts(jax.random.key(3), log_q, batches=batches, batch=batch)
    for token, rate in ((1, 1e-6), (2, 1e-7), (3, 1e-7)):
        assert_poisson(int(observed[token]), rate * batches * batch)
    assert observed[-1] == 0


@pytest.mark.parametrize("vocabulary", [1, 3, 1000])
def test_impossible_tokens_never_appear(vocabulary):
    for possible in {0, vocabulary // 2, vocabulary - 1}:
        log_q = jnp.full(vocabulary, -jnp.inf).at[possible].set(0.0)
        observed = counts(jax.random.key(4), log_q, batches=1, batch=2000)
        assert observed[possible] == 2000


def test_result_is_an_int32_scalar():
    key = jax.random.key(5)
    token = sample_token(key, jnp.log(jnp.array([0.5, 0.5])))
    assert (token.shape, token.dtype) == ((), jnp.int32)


def test_undefined_outcomes_draw_a_token_in_range():
    """A masked auction still needs some index; nothing may be out of range."""
    token = jax.jit(sample_token)(jax.random.key(6), jnp.full(5, -jnp.inf))
    assert 0 <= token < 5


def test_double_precision(x64):
    log_q = np.log(np.array([0.2, 0.3, 0.5]))
    observed = counts(jax.random.key(7), log_q, batches=10, batch=10_000)
    assert_chi_square(np.asarray(observed), np.exp(log_q))


def test_shifts_do_not_matter():
    """Weights need no normalising, however small or large."""
    log_q = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    for shift in (-1000.0, 1000.0):
        found = counts(jax.random.key(8), log_q + shift, batches=1, batch=20_000)
        assert_chi_square(np.asarray(found), np.array([0.2, 0.3, 0.5]))


def test_wrong_shape():
    with pytest.raises(ValueError, match="log_q"):
        sample_token(jax.random.key(9), jnp.zeros((2, 3)))
