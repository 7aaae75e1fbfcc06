"""Keys and words are those of `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenauction_jax.mechanism import keys


def data(some):
    return np.asarray(jax.random.key_data(some))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5])
def test_as_jax_does(impl, seed):
    key = jax.random.key(seed, impl=impl)
    for number in (0, 1, np.uint32(2**32 - 1)):
        wanted = data(jax.random.fold_in(jax.random.clone(key), number))
        np.testing.assert_array_equal(data(keys.fold_in(key, number)), wanted)
    for size in (1, 2, 3, 17):
        wanted = data(jax.random.split(jax.random.clone(key), size))
        found = keys.split(jax.random.clone(key), size)
        assert found.dtype == key.dtype
        np.testing.assert_array_equal(data(found), wanted)
        words = keys.random_words(jax.random.clone(key), size)
        np.testing.assert_array_equal(np.stack(words, -1), wanted[:, :2])


def test_in_a_map():
    every = jax.random.split(jax.random.key(7), 5)
    numbers = jnp.arange(5, dtype=jnp.uint32) * 1000
    found = jax.jit(jax.vmap(keys.fold_in))(every, numbers)
    wanted = jax.vmap(jax.random.fold_in)(jax.random.clone(every), numbers)
    np.testing.assert_array_equal(data(found), data(wanted))
