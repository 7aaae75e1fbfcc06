"""Reply mechanisms against their definitions, and what they promise agents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import replies as reference
from reference.compare import assert_within

import tokenauction_jax as ta

TAUS = (0.3, 1.0, 4.0)
SHAPES = ((1, 1), (3, 1), (1, 4), (2, 2), (3, 5), (5, 16))
CLARKE = {
    "mosaic": functools.partial(ta.replies.mosaic, 0.7),
    "best_of": ta.replies.best_of,
}
RULES = CLARKE | {"single_winner": ta.replies.single_winner}


def auction(seed, agents, candidates, scale=1.0):
    """Rewards of either sign, and log-weights of which some are -inf."""
    rng = np.random.default_rng([seed, agents, candidates])
    rewards = scale * rng.normal(size=(agents, candidates))
    log_weights = rng.normal(size=candidates)
    if candidates > 2:
        log_weights[rng.integers(candidates)] = -np.inf
    return rewards.astype(np.float32), log_weights.astype(np.float32)


@jax.jit
def every_method(rule, rewards, log_weights):
    """Law `(M,)`, expected `(n,)`, and realised payments of each reply `(n, M)`."""
    numbers = jnp.arange(log_weights.shape[0])
    realized = jax.vmap(rule.realized, (None, None, 0), 1)
    return (
        rule.log_prob(rewards, log_weights),
        rule.expected(rewards, log_weights),
        realized(rewards, log_weights, numbers),
    )


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mosaic(shape, tau):
    for seed in range(20):
        rewards, log_weights = auction(seed, *shape)
        tau = np.float32(tau)
        args = (rewards, log_weights, tau)
        log_prob, expected, realized = every_method(ta.replies.mosaic(tau), *args[:2])
        law = reference.mosaic_law(*args)
        assert_within(np.exp(log_prob), law, 1e-5 * law + 1e-35)
        mean = reference.mosaic_expected(*args)
        assert_within(expected, mean, 1e-5 * mean)
        # Clarke's definition cancels even in extended precision.
        np.testing.assert_allclose(mean, reference.mosaic_pivots(*args), atol=1e-15)
        given = reference.mosaic_realized(*args)
        terms = np.abs(rewards).max() + mean[:, None]
        possible = log_weights > -np.inf
        assert_within(realized[:, possible], given[:, possible], 1e-5 * terms)
        paid = np.asarray(realized, float) @ law
        np.testing.assert_allclose(paid, mean, atol=1e-5 * float(terms.max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_best_of(shape):
    for seed in range(20):
        rewards, log_weights = auction(seed, *shape)
        best, paid = reference.best_of(rewards)
        found = every_method(ta.replies.best_of(), rewards, log_weights)
        law = np.where(np.arange(shape[1]) == best, 0, -np.inf)
        np.testing.assert_array_equal(found[0], law)
        assert_within(found[1], paid, 1e-6 * np.abs(rewards).sum(0).max())
        np.testing.assert_array_equal(found[2], np.tile(found[1][:, None], shape[1]))


def test_ties_go_to_the_first_whatever_the_weights():
    rewards = np.array([[0, 1, 0, 2], [0, 1, 2, 0]], np.float32)
    rule = ta.replies.best_of()
    for log_weights in (np.zeros(4), [9, -5, 0, 0], [0, -np.inf, 0, 0]):
        assert int(rule.sample(jax.random.key(0), rewards, log_weights)) == 1
        assert rule.log_prob(rewards, np.asarray(log_weights, np.float32))[1] == 0


@pytest.mark.parametrize("size", [10.0**k for k in range(-8, 9, 2)])
def test_reports_of_very_different_sizes(size):
    """One report is `size` times the others'; each payment keeps its digits."""
    for seed in range(20):
        rewards, log_weights = auction(seed, 3, 6)
        rewards[0] *= size
        tau = np.float32(max(1.0, size))
        found = every_method(ta.replies.mosaic(tau), rewards, log_weights)[1]
        expected = reference.mosaic_expected(rewards, log_weights, tau)
        assert expected.min() > 0
        assert_within(found, expected, 1e-5 * expected)
        found = every_method(ta.replies.best_of(), rewards, log_weights)[1]
        _, paid = reference.best_of(rewards)
        assert_within(found, paid, 2e-6 * np.abs(rewards).sum(0).max())


@pytest.mark.parametrize("tau", [1e-3, 1e-1])
def test_an_agent_that_decides_alone(tau):
    """What it shuts out would have been drawn; payments are money, not overflows."""
    rewards = np.array([[100, 0, 0], [0, 1, 0]], np.float32)
    log_weights = np.array([-1, 0, -30], np.float32)
    rule = ta.replies.mosaic(tau)
    found = every_method(rule, rewards, log_weights)
    given = (rewards, log_weights, np.float32(tau))
    assert_within(found[1], reference.mosaic_pivots(*given), 1e-5)
    assert found[1][0] > 0.9
    gradient = jax.grad(lambda r: rule.expected(r, log_weights).sum())(rewards)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("rule", CLARKE)
def test_no_report_and_no_choice_are_free(rule):
    rule = RULES[rule]()
    for seed in range(50):
        rewards, log_weights = auction(seed, 3, 5)
        rewards[1] = 0
        _, expected, realized = every_method(rule, rewards, log_weights)
        assert expected[1] == 0
        possible = log_weights > -np.inf
        assert (realized[1][possible] == 0).all()
        alone = every_method(rule, rewards[:, :1], np.zeros(1, np.float32))
        assert alone[0] == 0
        assert (alone[1] == 0).all()
        assert (alone[2] == 0).all()


@pytest.mark.parametrize("rule", CLARKE)
def test_no_report_is_free_among_ties(rule):
    """All candidates have the same welfare, but for the order of rounding."""
    rule = RULES[rule]()
    rng = np.random.default_rng(0)
    for _ in range(20):
        same = np.tile(rng.normal(size=(7, 1)), (1, 6))
        rewards = rng.permuted(same, axis=0).astype(np.float32)
        rewards = np.insert(rewards, 3, 0, axis=0)
        _, expected, realized = every_method(rule, rewards, np.zeros(6, np.float32))
        assert expected[3] == 0
        assert (realized[3] == 0).all()
        assert (expected >= 0).all()


@jax.jit
def utilities(rule, rewards, log_weights, reports):
    """What agent 0 of `rewards` `(n, M)` has if it reports each of `reports`."""

    def utility(report):
        reported = jnp.asarray(rewards).at[0].set(report)
        law = jnp.exp(rule.log_prob(reported, log_weights))
        return (law * rewards[0]).sum() - rule.expected(reported, log_weights)[0]

    return jax.vmap(utility)(reports)


@pytest.mark.parametrize("rule", CLARKE)
@pytest.mark.parametrize("candidates", [2, 5, 16])
def test_truth_is_best_and_taking_part_is_rational(rule, candidates):
    """In none of 20 auctions does one of 10^4 misreports gain more than rounding."""
    rng = np.random.default_rng(candidates)
    spreads = []
    for seed in range(20):
        rewards, log_weights = auction(seed, 3, candidates)
        # Near the truth, far from it, multiples of it, and of one candidate only.
        scales = 10 ** rng.uniform(-3, 1, (10_000, 1))
        reports = rewards[0] + scales * rng.normal(size=(10_000, candidates))
        reports[::3] = rewards[0] * rng.uniform(-1, 5, (3_334, 1))
        first = reports[::4] == reports[::4].max(1)[:, None]
        reports[::4] = np.where(first, reports[::4], rewards[0])
        reports = np.concatenate([rewards[:1], 0 * rewards[:1], reports])
        reports = reports.astype(np.float32)
        found = np.asarray(utilities(RULES[rule](), rewards, log_weights, reports))
        rounding = 3e-6 * np.abs(rewards).sum(0).max()
        # 0 pays nothing: the reply is the one that the others choose without the agent.
        assert found[0] >= found[1] - rounding
        assert found.max() <= found[0] + rounding
        spreads.append(np.ptp(found))
    assert np.median(spreads) > 0.1


def test_best_of_is_the_limit_of_mosaic():
    rule, limit = ta.replies.mosaic(1e-5), ta.replies.best_of()
    for seed in range(20):
        rewards, log_weights = auction(seed, 4, 8)
        # Without what has no weight, which is all that best of M does not know.
        rewards = rewards[:, log_weights > -np.inf]
        log_weights = log_weights[log_weights > -np.inf]
        cold = every_method(rule, rewards, log_weights)
        best = every_method(limit, rewards, log_weights)
        np.testing.assert_allclose(np.exp(cold[0]), np.exp(best[0]), atol=1e-6)
        # tau times the differences of log-ratios.
        np.testing.assert_allclose(cold[1], best[1], atol=1e-4)


def test_mosaic_of_one_token_is_log_linear():
    """All V tokens as candidates, the reference as generator, tau the sum of bids.

    `softmax(log p_ref + sum_i b_i log(p_i / p_ref) / sum_i b_i)`: the reference drops
    out.
    """
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(7), 4)).astype(np.float32)
    bids = np.array([0.5, 2.0, 1.0], np.float32)
    agents, ref = log_probs[:3], log_probs[3]
    rewards = bids[:, None] * (agents - ref)
    # Every token is there once, though drawn with chance p_ref: counted as uniform.
    log_weights = ref + np.log(np.float32(7))
    found = ta.replies.mosaic(float(bids.sum())).log_prob(rewards, log_weights)
    np.testing.assert_allclose(found, ta.log_linear().log_prob(bids, agents), atol=2e-6)


def test_draws_have_the_law():
    """Counts of 2 x 20,000 draws; a false alarm is a matter of one in a million."""
    rule = ta.replies.mosaic(1.0)
    rewards, log_weights = auction(1, 3, 6)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(rule.sample, (0, None, None))(keys, rewards, log_weights)
    law = np.asarray(reference.mosaic_law(rewards, log_weights, 1), float)
    counts = np.bincount(drawn, minlength=6)
    # 6 scores of a normal: P(|z| > 5.5) = 4e-8 each.
    deviation = np.sqrt(20_000 * law * (1 - law))
    assert (np.abs(counts - 20_000 * law) <= 5.5 * deviation).all()
    assert (counts[law == 0] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_transformations(rule):
    rule = RULES[rule]()
    batch = [auction(seed, 3, 5) for seed in range(4)]
    rewards, log_weights = (np.stack(x) for x in zip(*batch, strict=True))
    together = jax.vmap(every_method, (None, 0, 0))(rule, rewards, log_weights)
    for k in range(4):
        with jax.disable_jit():
            alone = every_method(rule, rewards[k], log_weights[k])
        for x, y in zip(together, alone, strict=True):
            assert x.dtype == jnp.float32
            np.testing.assert_allclose(x[k], y, rtol=1e-5, atol=1e-6)

    def paid(rewards, log_weights):
        return rule.expected(rewards, log_weights).sum()

    for own in (rewards[0], 0 * rewards[0], np.zeros((3, 5), np.float32)):
        gradient = jax.grad(paid)(own, log_weights[0])
        assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("x64")
def test_double_precision():
    for seed in range(5):
        rewards, log_weights = (x.astype(float) for x in auction(seed, 3, 6))
        rewards[0] *= 1e-5
        _, expected, realized = every_method(
            ta.replies.mosaic(0.7), rewards, log_weights
        )
        assert expected.dtype == realized.dtype == jnp.float64
        mean = reference.mosaic_expected(rewards, log_weights, 0.7)
        assert_within(expected, mean, 1e-12 * mean)


def test_derivatives():
    """Against differences in extended precision, also in the temperature."""
    rewards, log_weights = auction(3, 3, 5)
    rule = ta.replies.mosaic(jnp.float32(0.7))

    def paid(rule, rewards):
        return rule.expected(rewards, log_weights) @ jnp.array([1.0, 2.0, 3.0])

    by_rule, by_reward = jax.grad(paid, (0, 1))(rule, rewards)

    def slow(tau, rewards):
        return reference.mosaic_expected(rewards, log_weights, tau) @ [1, 2, 3]

    step = 1e-5
    slope = (slow(0.7 + step, rewards) - slow(0.7 - step, rewards)) / (2 * step)
    np.testing.assert_allclose(by_rule.tau, float(slope), rtol=1e-4)
    for index in np.ndindex(rewards.shape):
        up, down = rewards.astype(float), rewards.astype(float)
        up[index] += step
        down[index] -= step
        slope = float(slow(0.7, up) - slow(0.7, down)) / (2 * step)
        np.testing.assert_allclose(by_reward[index], slope, rtol=1e-4, atol=1e-5)


def test_temperatures_are_numbers_of_one_program():
    rewards, log_weights = auction(0, 2, 3)
    traces = []

    @jax.jit
    def law(rule):
        traces.append(rule)
        return rule.log_prob(rewards, log_weights)

    laws = [law(ta.replies.mosaic(tau)) for tau in (0.5, 1.0, 2.0)]
    assert len(traces) == 1
    assert not np.allclose(laws[0], laws[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_winner(shape):
    rule = ta.replies.single_winner()
    for seed in range(20):
        rewards, log_weights = auction(seed, *shape)
        reply, paid = reference.single_winner(rewards)
        law, expected, realized = every_method(rule, rewards, log_weights)
        due = np.where(np.arange(shape[1]) == reply, 0, -np.inf)
        np.testing.assert_array_equal(law, due)
        np.testing.assert_array_equal(expected, paid.astype(np.float32))
        np.testing.assert_array_equal(realized, np.tile(expected[:, None], shape[1]))
        assert int(rule.sample(jax.random.key(0), rewards, log_weights)) == reply
    tied = np.array([[0, 3, 3], [3, 0, 1]], np.float32)
    law, expected, _ = every_method(rule, tied, np.zeros(3, np.float32))
    assert law[1] == 0
    np.testing.assert_array_equal(expected, [3, 0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("rewards", "log_weights", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2), "log_weights has shape"),
        (np.zeros(3), np.zeros(3), "rewards has shape"),
        (np.zeros((2, 0)), np.zeros(0), "rewards has shape .* one candidate"),
        (np.zeros((0, 2)), np.zeros(2), "rewards has shape .* one agent"),
        ([[0, np.nan]], np.zeros(2), "rewards must be finite, got nan of agent 0"),
        ([[0, -np.inf]], np.zeros(2), "rewards must be finite, got -inf"),
        ([[0, 1]], [0, np.nan], "log_weights must be finite or -inf, got nan"),
        ([[0, 1]], [np.inf, 0], "log_weights must be finite or -inf, got inf"),
    ],
)
def test_refusals(rule, rewards, log_weights, message):
    rule, rewards = RULES[rule](), np.asarray(rewards, np.float32)
    log_weights = np.asarray(log_weights, np.float32)
    for call in (rule.log_prob, rule.expected):
        with pytest.raises(ValueError, match=message):
            call(rewards, log_weights)
    with pytest.raises(ValueError, match=message):
        rule.sample(jax.random.key(0), rewards, log_weights)
    with pytest.raises(ValueError, match=message):
        rule.realized(rewards, log_weights, 0) if len(log_weights) else rule.expected(
            rewards, log_weights
        )


@pytest.mark.parametrize("rule", RULES)
def test_under_a_transformation_nothing_is_silent(rule):
    rule = RULES[rule]()
    rewards, _ = auction(0, 2, 3)
    for wrong in (np.nan, np.inf, -np.inf):
        broken = rewards.copy()
        broken[1, 0] = wrong
        for found in every_method(rule, broken, np.zeros(3, np.float32)):
            assert np.isnan(found).all()
    for found in every_method(rule, rewards, np.array([0, np.nan, 0], np.float32)):
        assert np.isnan(found).all()


def test_mosaic_without_a_candidate():
    rule, nothing = ta.replies.mosaic(1.0), np.full(3, -np.inf, np.float32)
    rewards, _ = auction(0, 2, 3)
    with pytest.raises(ValueError, match="log_weights is -inf throughout"):
        rule.log_prob(rewards, nothing)
    law, *paid = every_method(rule, rewards, nothing)
    assert np.isneginf(law).all()
    assert all((x == 0).all() for x in paid)


@pytest.mark.parametrize("tau", [0, -1, np.inf, np.nan, "hot", [1.0, 2.0]])
def test_refused_temperatures(tau):
    with pytest.raises(ValueError, match="tau must be"):
        ta.replies.mosaic(tau)


def test_other_refusals():
    rewards, log_weights = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="tau 1e-39 is too small"):
        ta.replies.mosaic(1e-39).log_prob(rewards, log_weights)
    law = jax.jit(lambda t: ta.replies.mosaic(t).log_prob(rewards, log_weights))
    assert np.isnan(law(-1.0)).all()
    for rule in RULES.values():
        for reply in (2, -1, 0.5):
            with pytest.raises(ValueError, match="reply must be an integer"):
                rule().realized(rewards, log_weights, reply)


@pytest.mark.parametrize("name", RULES)
def test_not_a_number_stays_one_in_a_compiled_program(name):
    """Of a NaN that `where` chooses, `exp` in the same program makes any number."""
    rule = RULES[name]()
    rewards, weights = jnp.array([[1.0, jnp.nan], [0.0, 1.0]]), jnp.zeros(2)
    law = jax.jit(lambda r: jnp.exp(rule.log_prob(r, weights)))(rewards)
    assert jnp.isnan(law).all()
    if rule.name == "mosaic":
        wrong = jax.jit(lambda t: jnp.exp(type(rule)(t).log_prob(jnp.eye(2), weights)))
        assert jnp.isnan(wrong(-1.0)).all()
