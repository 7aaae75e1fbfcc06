"""Every measure against a slow float64 version written from its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import instances
from reference import measures as reference

import tokenauction_jax as ta
from tokenauction_jax import measures
from tokenauction_jax.simulation import Rollout

RULES = {
    "linear": ta.linear(),
    "log_linear": ta.log_linear(),
    ("power_mean", 0.5): ta.power_mean(0.5),
}


@functools.partial(jax.jit, static_argnames="kind")
def observed(rule, kind, bids, values, log_probs, tokens):
    """`TokenMeasures` of a text whose every token has the same distributions."""
    observe = measures.TokenMeasures(rule, kind)

    def one(token):
        log_q = rule.log_prob(bids, log_probs)
        return observe(bids, log_probs, log_q, token, values), log_q[token]

    seen, log_prob = jax.vmap(one)(tokens)
    return seen, log_prob[None]


def text(rule, kind, bids, values, log_probs, tokens, realized, conditional):
    """The measures of one text by their columns."""
    bids, values = jnp.asarray(bids, jnp.float32), jnp.asarray(values, jnp.float32)
    log_probs = jnp.asarray(log_probs, jnp.float32)
    seen, log_prob = observed(rule, kind, bids, values, log_probs, tokens)
    rollout = Rollout(
        tokens[None],
        jnp.asarray(realized, jnp.float32)[None],
        jnp.asarray(conditional, jnp.float32)[None],
        log_prob,
        jnp.ones((1, len(tokens)), bool),
        jnp.ones(1, bool),
        observations=jnp.zeros((1, len(tokens), bids.shape[0])),
        totals=jax.tree.map(lambda x: x.sum(0)[None], seen),
    )
    row = measures.text_measures(rollout, values[None]).measures[0]
    names = measures.columns(bids.shape[0])
    return dict(zip(names, np.asarray(row, np.float64), strict=True))


def check(rule_name, kind, bids, values, log_probs, seed=0):
    rng = np.random.default_rng(seed)
    n, size = log_probs.shape
    log_q = np.asarray(reference.aggregate(rule_name, bids, log_probs), float)
    q = np.exp(log_q) / np.exp(log_q).sum()
    tokens = rng.choice(size, 3, p=q)
    realized, conditional = rng.lognormal(size=(2, 3, n))
    found = text(
        *(RULES[rule_name], kind, bids, values, log_probs),
        *(jnp.asarray(tokens), realized, conditional),
    )
    expected = reference.text_measures(
        [
            {
                "bids": bids,
                "values": values,
                "log_probs": log_probs,
                "aggregation": rule_name,
                "token": int(token),
                "realized": realized[t],
                "conditional": conditional[t],
                "reference": kind,
            }
            for t, token in enumerate(tokens)
        ]
    )
    scale = 3 * max(values.sum(), 1)
    for column, got in found.items():
        name = (
            (column.measure, column.valuation) if column.valuation else column.measure
        )
        wanted = expected[name]
        if column.agent is not None:
            wanted = wanted[column.agent]
        if not np.isfinite(wanted):
            assert not np.isfinite(got), (column, got, wanted)
        else:
            # float32 sums of terms that are at most `scale` times a few logs.
            limit = 3e-6 * scale * 10 + 2e-5 * abs(float(wanted))
            assert abs(got - float(wanted)) < limit, (column, got, wanted)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("rule_name", RULES, ids=str)
@pytest.mark.parametrize("kind", ["uniform", "mean"])
def test_random_texts_agree_with_the_definitions(rule_name, kind):
    rng = np.random.default_rng(0)
    for k in range(8):
        log_probs = np.log(rng.dirichlet(np.full(6, 0.7), 3))
        bids, values = rng.lognormal(size=(2, 3))
        check(rule_name, kind, bids, values, log_probs, k)


@pytest.mark.parametrize("rule_name", RULES, ids=str)
def test_zeros_silent_agents_and_worthless_ones(rule_name):
    p = np.array([[0.5, 0.25, 0.25, 0], [0.6, 0.4, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    with np.errstate(divide="ignore"):
        log_probs = np.log(p)
    check(rule_name, "mean", np.array([1.0, 2, 0]), np.array([1.0, 2, 0]), log_probs)
    check(rule_name, "mean", np.array([1.0, 2, 0]), np.array([0.0, 1, 3]), log_probs)
    check(rule_name, "mean", np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), log_probs)


def test_one_agent_gets_all_it_wants():
    log_probs = np.log(np.array([[0.2, 0.3, 0.5]]))
    found = text(
        *(ta.linear(), "uniform", [2.0], [2.0], log_probs),
        *(jnp.array([0, 2]), np.zeros((2, 1)), np.zeros((2, 1))),
    )
    for name in measures.VALUATIONS:
        assert found[measures.Column("welfare", name)] == pytest.approx(0, abs=1e-6)
        shortfall = found[measures.Column("optimum_shortfall", name)]
        assert shortfall == pytest.approx(0, abs=1e-6)
    # There is no outcome without the only agent.
    assert found[measures.Column("robustly_gains", agent=0)] == 0


def test_every_agent_of_a_monotone_rule_gains():
    """The premise of the second price, on random auctions."""
    drawn = instances.batch(0, 20, 3, 8)
    for bids, log_probs in zip(drawn.bids, drawn.log_probs, strict=True):
        if not bids.sum() > 0:
            continue
        found, _ = observed(
            *(ta.linear(), "uniform", bids, bids, log_probs, jnp.array([0])),
        )
        compared = [np.delete(bids, i).sum() > 0 for i in range(3)]
        np.testing.assert_array_equal(found["robustly_gains"][0], compared)


def test_probabilities_below_the_float_range_are_not_zeros():
    """Log-probabilities of -200 underflow, but nothing is infinite."""
    log_probs = jax.nn.log_softmax(jnp.array([[0.0, -200.0], [-200.0, 0.0]]))
    ones = jnp.ones(2)
    seen, _ = observed(ta.linear(), "uniform", ones, ones, log_probs, jnp.array([0]))
    assert np.isfinite(seen["values"]).all()
    np.testing.assert_allclose(seen["values"][0, 2], np.log(2) - 100, rtol=1e-3)


def test_the_reference_agent_takes_no_part():
    """A language model of reference is the pool's last agent, and bids nothing."""
    table = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (3, 6)))
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    bids = jnp.array([[1.0, 2.0]] * 4)
    arguments = {"num_tokens": 5}
    with_reference = measures.run_texts(
        *(jax.random.key(0), mechanism, ta.agents.tabular(table), bids, bids, 0),
        reference="agent",
        **arguments,
    )
    without = measures.run_texts(
        *(jax.random.key(0), mechanism, ta.agents.tabular(table[:2]), bids, bids, 0),
        reference="uniform",
        **arguments,
    )
    np.testing.assert_array_equal(with_reference.tokens, without.tokens)
    names = measures.columns(2)
    fluency = names.index(measures.Column("log_likelihood"))
    expected = np.asarray(table[2])[np.asarray(without.tokens)].sum(1)
    np.testing.assert_allclose(with_reference.measures[:, fluency], expected, rtol=1e-5)
    # Realised payments draw from one row of words for all agents of the pool.
    other = ("log_likelihood", "payment", "revenue", "utility", "divergence")
    same = [
        i
        for i, c in enumerate(names)
        if c.measure not in (*other, "regularized_welfare")
        and "log_ratio" not in c.measure
    ]
    np.testing.assert_allclose(
        with_reference.measures[:, same],
        without.measures[:, same],
        rtol=1e-4,
        atol=1e-5,
    )


def test_undefined_auctions_have_no_measures():
    with np.errstate(divide="ignore"):
        table = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    rule = ta.log_linear()
    done = measures.run_texts(
        jax.random.key(0),
        ta.Mechanism(rule, ta.clarke(rule)),
        ta.agents.tabular(table),
        jnp.ones((3, 2)),
        jnp.ones((3, 2)),
        0,
        num_tokens=2,
        reference="mean",
    )
    assert not done.valid.any()
    assert np.isnan(done.measures).all()
