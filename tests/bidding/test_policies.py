"""Policies that say beforehand what to bid, and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tokenauction_jax as ta
from tokenauction_jax import bidding
from tokenauction_jax.bidding.neural import features
from tokenauction_jax.simulation import Info

RULE = ta.linear()
CLARKE = ta.Mechanism(RULE, ta.clarke(RULE))
LOG_PROBS = np.log(np.random.default_rng(5).dirichlet(np.ones(6), 2)).astype(np.float32)


def run(policies, budgets=np.inf, num_tokens=5):
    pool = ta.agents.tabular(LOG_PROBS)
    return ta.simulate(
        *(jax.random.key(0), CLARKE, pool, ta.Bidders(policies, budgets)),
        num_tokens=num_tokens,
        num_auctions=3,
    )


def test_constants_schedules_and_platforms():
    policies = [bidding.schedule([1.0, 3.0, 0.5]), bidding.constant(2.0)]
    rollout = run(policies)
    found = rollout.bids[1].T
    np.testing.assert_array_equal(found, [[1, 3, 0.5, 0.5, 0.5], [2] * 5])
    rollout = run([bidding.platform(1.5), bidding.constant(2)])
    np.testing.assert_array_equal(rollout.bids, np.tile([1.5, 2], (3, 5, 1)))
    np.testing.assert_array_equal(rollout.payments[..., 0], 0)
    due = CLARKE.payment.expected(jnp.array([1.5, 2]), LOG_PROBS)[1]
    np.testing.assert_allclose(rollout.payments[..., 1], due, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: bidding.constant(-1), "amount must be from 0 to 1e[+]30, got -1.0"),
        (lambda: bidding.constant(np.inf), "amount must be from 0 .*, got inf"),
        (lambda: bidding.platform(np.nan), "amount must be from 0 .*, got nan"),
        (lambda: bidding.platform([1.0, 2.0]), "amount must be a real scalar"),
        (lambda: bidding.schedule([]), r"amounts has shape \(0,\), expected \(S,\)"),
        (lambda: bidding.schedule(1.0), r"amounts has shape \(\), expected \(S,\)"),
        (lambda: bidding.schedule([1.0, -2.0]), r"amounts must be .* -2.0 at \[1\]"),
        (lambda: bidding.network(1.0), "a network without a module needs a key"),
        (
            lambda: bidding.network(1.0, key=jax.random.key(0), hidden=0),
            "hidden must be an integer of at least 1",
        ),
        (
            lambda: bidding.network(1.0, module=nnx.Linear(8, 3, rngs=nnx.Rngs(0))),
            r"module answers .*\(3,\).*, expected one number",
        ),
    ],
)
def test_bad_numbers(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def info(**changes):
    seen = {
        "agent": 1,
        "position": jnp.int32(3),
        "num_tokens": 12,
        "budget": jnp.float32(6.0),
        "spent": jnp.float32(4.0),
        "remaining": jnp.float32(2.0),
        "log_probs": jnp.log(jnp.array([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.5, 0]])),
        "last_token": jnp.int32(2),
        "last_payment": jnp.float32(1.5),
        "last_log_prob": jnp.log(0.25),
        "last_log_q": jnp.log(0.75),
    }
    return Info(**(seen | changes))


def test_features():
    entropy = 1.5 * np.log(2) / np.log(4)
    wanted = [0.75, 1 / 3, entropy, 0.5, 0.25, 0.25, 1 / 3, 0.75]
    np.testing.assert_allclose(features(info()), wanted, rtol=1e-6)
    free = info(budget=jnp.float32(np.inf), remaining=jnp.float32(np.inf))
    wanted[1], wanted[7] = 1, 0
    np.testing.assert_allclose(features(free), wanted, rtol=1e-6)
    first = info(position=jnp.int32(0), last_payment=jnp.float32(0))
    wanted = [1, 1 / 3, entropy, 0.5, 0.25, 0, 0, 0]
    np.testing.assert_allclose(features(first), wanted, rtol=1e-6)


def test_networks_start_truthful_and_learn():
    policy = bidding.network(2.0, key=jax.random.key(0), hidden=4)
    rollout = run([policy, bidding.platform(1.0)], [1.0, np.inf])
    open_ = np.asarray(rollout.bids[..., 0]) > 0
    np.testing.assert_allclose(rollout.bids[..., 0][open_], 2, rtol=1e-6)

    def paid(policy):
        rollout = run([policy, bidding.platform(1.0)])
        return rollout.expected_payments.sum()

    slopes = jax.tree.leaves(jax.grad(paid)(policy).parameters)
    assert all(np.isfinite(x).all() for x in slopes)
    assert any((np.asarray(x) > 0).any() for x in slopes)
    stepped = jax.tree.map(lambda x, y: x - y, policy, jax.grad(paid)(policy))
    assert paid(stepped) < paid(policy)


def test_networks_of_another_module_and_other_numbers():
    module = nnx.Linear(8, 1, rngs=nnx.Rngs(3))
    policy = bidding.network(2.0, module=module)
    seen = info()
    bid, state = policy.bid(policy.init(), seen)
    answer = float(module(features(seen))[0])
    np.testing.assert_allclose(
        bid, 2 * np.log1p(np.exp(answer) * (np.e - 1)), rtol=1e-5
    )
    assert state == ()
    traces = []

    @jax.jit
    def bid_of(policy):
        traces.append(policy)
        return policy.bid((), seen)[0]

    bids = [bid_of(bidding.network(v, key=jax.random.key(v))) for v in (1, 2)]
    np.testing.assert_allclose(bids, [1, 2], rtol=1e-6)
    assert len(traces) == 1
