import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from reference import measures as reference

import tokenauction_jax as ta

VALUATIONS = {
    "total_variation": ta.total_variation(),
    "forward_kl": ta.forward_kl(),
    "reverse_kl": ta.reverse_kl(),
}


# Eager operations on many shapes would compile one by one.
optimal_welfare = jax.jit(ta.optimal_welfare)

welfares = jax.jit(jax.vmap(ta.welfare, (None, None, 0, None)))


def instances(seed, count):
    """Random, tied, sparse and nearly degenerate auctions, as values and log_probs."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        n, size = [(1, 3), (2, 2), (3, 6), (5, 4)][k % 4]
        p = rng.dirichlet(np.full(size, rng.choice([0.2, 1, 5])), n)
        if k % 5 == 0:  # Multiples of a quarter: ties between agents, and zeros.
            p = rng.multinomial(4, np.full(size, 1 / size), n) / 4
        values = rng.lognormal(size=n)
        if k % 7 == 0:
            values[:] = 1
        if k % 11 == 0 and n > 1:
            values[0] = 0
        with np.errstate(divide="ignore"):
            yield values, np.log(p)


@pytest.mark.parametrize("name", VALUATIONS)
def test_optimal_welfare_is_the_largest(name):
    for values, log_probs in instances(0, 60):
        found = float(optimal_welfare(VALUATIONS[name], values, log_probs))
        log_q = reference.optimum(name, values, log_probs)
        if log_q is None:
            assert found == -np.inf
            continue
        best = float(reference.agents_welfare(name, values, log_q, log_probs).sum())
        assert found == pytest.approx(best, abs=2e-6 * max(1, values.sum()))


@pytest.mark.parametrize("name", VALUATIONS)
def test_no_distribution_has_more_welfare(name):
    rng = np.random.default_rng(1)
    for values, log_probs in instances(2, 20):
        best = float(optimal_welfare(VALUATIONS[name], values, log_probs))
        others = np.log(rng.dirichlet(np.ones(log_probs.shape[1]), 20))
        got = welfares(VALUATIONS[name], values, others, log_probs)
        assert np.all(got <= best + 1e-5 * max(1, values.sum()))


def test_many_agents_are_searched_by_the_price():
    """Eleven agents have too many subsets to list."""
    rng = np.random.default_rng(3)
    values, p = rng.lognormal(size=11), rng.dirichlet(np.ones(6), 11)
    log_q = reference.optimum("total_variation", values, np.log(p))
    best = reference.agents_welfare("total_variation", values, log_q, np.log(p)).sum()
    found = float(ta.optimal_welfare(ta.total_variation(), values, np.log(p)))
    assert found == pytest.approx(float(best), abs=1e-5)


def test_two_agents_agree_on_the_one_who_values_more():
    log_probs = jnp.log(jnp.array([[0.8, 0.2], [0.3, 0.7]]))
    found = ta.optimal_welfare(ta.total_variation(), [2.0, 1.0], log_probs)
    assert float(found) == pytest.approx(-0.5)


def test_an_agent_of_no_value_adds_nothing_even_at_infinity():
    log_probs = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    found = ta.welfare(ta.forward_kl(), [1.0, 0.0], log_probs[0], log_probs)
    assert float(found) == 0


@pytest.mark.parametrize("name", VALUATIONS)
def test_agents_of_no_value_have_nothing_to_lose(name):
    log_probs = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    best = jax.jit(ta.optimal_welfare)(getattr(ta, name)(), jnp.zeros(2), log_probs)
    assert float(best) == 0


def test_another_valuation_is_refused():
    class Other:
        name = "other"

        def value(self, log_q, log_p):
            return log_q[0]

    with pytest.raises(ValueError, match=r"known for total_variation.*not for 'other'"):
        ta.optimal_welfare(Other(), [1.0], jnp.zeros((1, 1)))


def test_one_compiled_program_serves_a_batch():
    values = jnp.array([[1.0, 2.0], [3.0, 1.0]])
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 2, 5)))
    batch = jax.jit(jax.vmap(ta.optimal_welfare, (None, 0, 0)))
    found = batch(ta.total_variation(), values, log_probs)
    one = [
        batch(ta.total_variation(), values[k:][:1], log_probs[k:][:1]) for k in (0, 1)
    ]
    np.testing.assert_allclose(found, np.concatenate(one), rtol=1e-6)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("agents", [2, 3, 4, 5, 6, 9])
def test_derivatives_of_the_optimum_of_total_variation(agents):
    """By values ``-TV(q, p_i)`` at the optimum `q`; by logits, as differences tell."""
    rng = np.random.default_rng(agents)

    def best(values, logits):
        log_probs = jax.nn.log_softmax(logits)
        return ta.optimal_welfare(ta.total_variation(), values, log_probs)

    slopes = jax.jit(jax.grad(best, (0, 1)))
    for _ in range(20):
        values = rng.uniform(0.5, 2, agents)
        logits = np.log(rng.dirichlet(np.full(6, 0.7), agents))
        by_value, by_logit = slopes(
            values.astype(np.float32), logits.astype(np.float32)
        )
        _, q = linear_program(values, logits)
        due = -np.abs(q - np.exp(logits)).sum(-1) / 2
        np.testing.assert_allclose(by_value, due, atol=2e-6)
        way, step = rng.normal(size=logits.shape), 1e-6
        ends = [linear_program(values, logits + s * step * way)[0] for s in (1, -1)]
        due = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose((by_logit * way).sum(), due, atol=1e-5)


def linear_program(values, logits):
    """The optimum for total variation and where it is reached, by SciPy."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    agents, size = p.shape
    # Variables: q, then the distances |q - p_i| token by token, bounded from below.
    costs = np.r_[np.zeros(size), np.repeat(values, size) / 2]
    distances = -np.eye(agents * size)
    outcome = np.tile(np.eye(size), (agents, 1))
    bounds = np.vstack([np.hstack([s * outcome, distances]) for s in (1, -1)])
    solved = scipy.optimize.linprog(
        *(costs, bounds, np.r_[p.ravel(), -p.ravel()]),
        *(np.r_[np.ones(size), np.zeros(agents * size)][None], [1]),
    )
    return -solved.fun, solved.x[:size]
