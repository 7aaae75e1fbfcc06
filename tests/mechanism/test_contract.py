"""Every rule through the same checks; a new rule is one more row of `CASES`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.compare import smooth_auction

import tokenauction_jax as ta

N, V = 3, 7


def outcome(rule, bids, log_probs):
    return rule.log_prob(bids, log_probs)


def charges(rule, bids, log_probs):
    """Expected, conditional and realised payments, `(3, n)`."""
    return jnp.stack(
        [
            rule.expected(bids, log_probs),
            rule.conditional(bids, log_probs, 2),
            rule.realized(jax.random.key(1), bids, log_probs, 2),
        ]
    )


def mean_charges(rule, bids, log_probs):
    """Expected payments `(n,)`, where the others are the same and slow to compile."""
    return rule.expected(bids, log_probs)


def worth(rule, bids, log_probs):
    """A valuation of the first agent's distribution by the second agent."""
    return rule.value(log_probs[0], log_probs[1]) + 0 * bids.sum()


# What is called, its shape, the rule and the same class with other numbers.
CASES = {
    "linear": (outcome, (V,), ta.linear(), ta.linear(2)),
    "log_linear": (outcome, (V,), ta.log_linear(), ta.log_linear(0.5)),
    "power_mean": (outcome, (V,), ta.power_mean(0.5), ta.power_mean(0, 2)),
    "pay_your_bid": (charges, (3, N), ta.pay_your_bid(), ta.pay_your_bid()),
    "second_price": (
        charges,
        (3, N),
        ta.second_price(ta.linear()),
        ta.second_price(ta.linear(2)),
    ),
    "clarke(linear)": (
        charges,
        (3, N),
        ta.clarke(ta.linear()),
        ta.clarke(ta.linear(1)),
    ),
    "clarke(log_linear)": (
        charges,
        (3, N),
        ta.clarke(ta.log_linear()),
        ta.clarke(ta.log_linear(1)),
    ),
    "myerson(linear, total_variation)": (
        mean_charges,
        (N,),
        ta.myerson(ta.linear(), ta.total_variation()),
        ta.myerson(ta.linear(2), ta.total_variation()),
    ),
    "myerson(log_linear, reverse_kl)": (
        mean_charges,
        (N,),
        ta.myerson(ta.log_linear(), ta.reverse_kl()),
        ta.myerson(ta.log_linear(0.5), ta.reverse_kl()),
    ),
    "total_variation": (worth, (), ta.total_variation(), ta.total_variation()),
    "forward_kl": (worth, (), ta.forward_kl(), ta.forward_kl()),
    "reverse_kl": (worth, (), ta.reverse_kl(), ta.reverse_kl()),
}


def auction(seed):
    return tuple(jnp.asarray(x, jnp.float32) for x in smooth_auction(seed, N, V))


def zeros():
    """A zero bidder, zero probabilities, and tokens that all positive bidders have."""
    weights = np.ones((N, V), np.float32)
    weights[0, 3:5] = weights[1, 5:] = weights[2, :2] = 0
    log_probs = jnp.log(weights / weights.sum(-1, keepdims=True))
    return jnp.array([1.0, 2.0, 0.0]), log_probs


def wide(seed):
    """Odds of up to 1e40, and a token that one bidder keeps from being drawn."""
    bids, log_probs = auction(seed)
    logits = (30 * log_probs).at[seed % N, seed % V].set(-jnp.inf)
    return bids, jax.nn.log_softmax(logits)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """The row and its function, compiled once for all the checks below."""
    call, shape, rule, other = CASES[request.param]
    traces = []

    def counted(rule, bids, log_probs):
        traces.append(request.param)
        return call(rule, bids, log_probs)

    def loss(rule, bids, log_probs, factor):
        # Those of drawn payments at every corner: test_payment_gradients.
        smooth = type(rule).expected if call is charges else call
        out = smooth(rule, bids, log_probs)
        return factor * jnp.where(jnp.isfinite(out), out, 0).sum()

    slopes = jax.jit(jax.grad(loss, (0, 1, 2)))
    return call, shape, rule, other, jax.jit(counted), traces, slopes


def test_shape_dtype_and_finiteness(case):
    _, shape, rule, other, compiled, _, _ = case
    for seed, numbers in enumerate((rule, other)):
        out = compiled(numbers, *auction(seed))
        assert out.shape == shape
        assert out.dtype == jnp.float32
        assert np.isfinite(out).all()


def test_jit_is_eager(case):
    call, _, rule, _, compiled, _, _ = case
    for args in (auction(0), zeros()):
        eager = call(rule, *args)
        np.testing.assert_allclose(compiled(rule, *args), eager, rtol=1e-5, atol=1e-7)


def test_one_trace_for_other_numbers(case):
    _, _, rule, other, compiled, traces, _ = case
    compiled(rule, *auction(0))
    before = len(traces)
    for seed, numbers in itertools.product((1, 2), (rule, other)):
        compiled(numbers, *auction(seed))
    assert len(traces) == before == 1


def test_numpy_and_integer_inputs(case):
    """Double-precision NumPy arrays and whole-number bids stay float32."""
    _, shape, rule, _, compiled, _, _ = case
    bids, log_probs = smooth_auction(0, N, V)
    out = compiled(rule, bids, log_probs)
    assert (out.shape, out.dtype) == (shape, jnp.float32)
    whole = compiled(rule, np.array([1, 2, 2]), log_probs)
    real = compiled(rule, np.array([1.0, 2.0, 2.0]), log_probs)
    assert whole.dtype == jnp.float32
    np.testing.assert_allclose(whole, real, rtol=1e-6)


def test_double_precision(case, x64):
    call, _, rule, _, _, _, _ = case
    args = smooth_auction(0, N, V)
    precise = jax.jit(lambda *x: call(*x))(rule, *args)
    assert precise.dtype == jnp.float64
    with jax.enable_x64(False):
        rough = case[4](rule, *auction(0))
    rows = slice(0, 2) if call is charges else slice(None)  # draws differ by dtype
    if precise.ndim:
        precise, rough = precise[rows], rough[rows]
    np.testing.assert_allclose(precise, rough, rtol=1e-4)


def test_vmap_is_a_loop(case):
    """Over auctions, and over the numbers of the rule."""
    call, _, rule, other, compiled, _, _ = case
    auctions = [auction(seed) for seed in (3, 4)]
    rules = jax.tree.map(lambda *x: jnp.asarray(x), rule, other)
    in_axes = (jax.tree.map(lambda _: 0, rule), 0, 0)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *auctions)
    mapped = jax.jit(jax.vmap(call, in_axes))(rules, *stacked)
    for out, numbers, args in zip(mapped, (rule, other), auctions, strict=True):
        np.testing.assert_allclose(out, compiled(numbers, *args), rtol=1e-5, atol=1e-7)


def test_gradients_are_finite(case):
    """In the numbers of the rule, bids and log-probabilities, compiled or not."""
    _, _, rule, other, _, _, slopes = case
    for args in (auction(0), zeros()):
        for numbers in (rule, other):
            for leaf in jax.tree.leaves(slopes(numbers, *args, 1.0)):
                assert np.isfinite(leaf).all()
                assert leaf.dtype == jnp.float32


def test_derivatives_of_means(case):
    """Of many auctions, and so with a small factor to begin with."""
    _, _, rule, _, _, _, slopes = case
    assert any(x.any() for x in slopes(rule, *auction(0), 1.0)[1:])
    for args in (auction(0), zeros(), *map(wide, range(6))):
        found = slopes(rule, *args, 1.0)
        for factor in (2.0**-12, 2.0**-24, 2.0**-36):
            small = slopes(rule, *args, factor)
            for one, other in zip(*map(jax.tree.leaves, (small, found)), strict=True):
                # Of all that is next to the smallest float some terms are below it.
                lost = 100 * float(np.finfo(np.float32).tiny) / factor
                atol = 1e-6 * float(abs(other).max()) + lost
                np.testing.assert_allclose(one / factor, other, rtol=1e-5, atol=atol)


def test_single_precision_where_double_is_on(case, x64):
    call, _, rule, _, _, _, _ = case

    @jax.jit
    @jax.value_and_grad
    def value(args):
        out = (type(rule).expected if call is charges else call)(rule, *args)
        return jnp.where(jnp.isfinite(out), out, 0).sum()

    for leaf in jax.tree.leaves(value(auction(0))):
        assert leaf.dtype == jnp.float32


def test_second_derivatives_are_finite(case):
    call, _, rule, _, _, _, slopes = case
    if call is mean_charges:
        pytest.skip("slow to compile: test_myerson")

    @jax.jit
    @jax.grad
    def curvature(bids, log_probs):
        _, by_bids, by_log_probs = slopes(rule, bids, log_probs, 1.0)
        return (by_bids**2).sum() + (by_log_probs**2).sum()

    for args in (auction(0), zeros()):
        assert np.isfinite(curvature(*args)).all()


def test_permuting_agents_permutes(case):
    call, _, rule, _, compiled, _, _ = case
    if call is worth:
        pytest.skip("a valuation sees one agent")
    order = np.array([2, 0, 1])
    bids, log_probs = auction(5)
    out = np.asarray(compiled(rule, bids, log_probs))
    moved = np.asarray(compiled(rule, bids[order], log_probs[order]))
    # Realised payments are draws, by the agent's place: only their law permutes.
    if call is charges:
        expected, moved = out[:2, order], moved[:2]
    else:
        expected = out[order] if call is mean_charges else out
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_scaling_all_bids(case):
    """The outcome stays and payments scale: money has no unit."""
    call, _, rule, _, compiled, _, _ = case
    bids, log_probs = auction(6)
    out = compiled(rule, bids, log_probs)
    scaled = compiled(rule, 1e5 * bids, log_probs)
    factor = 1e5 if call in (charges, mean_charges) else 1.0
    np.testing.assert_allclose(scaled, factor * out, rtol=1e-5)


def test_golden_example():
    log_probs = jnp.log(jnp.array([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]]))
    bids = jnp.array([1.0, 2.0, 2.0])
    q = jnp.exp(ta.linear().log_prob(bids, log_probs))
    np.testing.assert_allclose(q, [0.56, 0.44], rtol=1e-6)
    np.testing.assert_array_equal(ta.pay_your_bid().expected(bids, log_probs), bids)


def test_rules_are_different_trees():
    """Equal tree structures would let `jit` run one rule's program for another.

    `jax.tree_util.register_dataclass` makes such structures for classes with the same
    fields: their hashes differ, so the wrong program runs in a few processes of 100.
    """
    one_each = {type(rule): rule for _, _, rule, _ in CASES.values()}
    one_each["clarke(log_linear)"] = ta.clarke(ta.log_linear())
    one_each[type(ta.clarke(ta.linear()))] = ta.clarke(ta.linear())
    structures = [jax.tree.structure(rule) for rule in one_each.values()]
    for a, b in itertools.combinations(structures, 2):
        assert a != b
