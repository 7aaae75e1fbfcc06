"""One token from logits: what `simulate` draws from their softmax, token by token."""

import functools
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta

AUCTIONS, AGENTS, TOKENS, VOCAB = 12, 3, 4, 37
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=4, size=(TOKENS, AUCTIONS, AGENTS, VOCAB)).astype(np.float32)
BIDS = RNG.gamma(2.0, size=(AUCTIONS, AGENTS)).astype(np.float32)
KEY = jax.random.key(3)
FIELDS = ("tokens", "payments", "expected_payments", "log_prob")


@ta.record
class Given:
    """Agents that answer the softmax of these logits at each position."""

    logits: jax.Array
    num_agents, vocab_size, end_token = AGENTS, VOCAB, None

    def init(self, num_auctions, **rest):
        return jnp.uint32(0)

    def step(self, position, tokens):
        return position + 1, jax.nn.log_softmax(self.logits[position])


@ta.record
class Halves:
    """A rule of one's own without draws of its own."""

    name = "halves"
    monotone = False

    def weights(self, bids):
        return ta.linear(0.5).weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(0.5).log_prob(bids, log_probs)


def mechanism(name):
    linear, log_linear = ta.linear(1.5), ta.log_linear()
    return {
        "linear": ta.Mechanism(linear, ta.second_price(linear)),
        "log_linear": ta.Mechanism(log_linear, ta.clarke(log_linear)),
        "power_mean": ta.Mechanism(ta.power_mean(0.5), ta.pay_your_bid()),
        "own": ta.Mechanism(Halves(), ta.pay_your_bid()),
    }[name]


def close(found, wanted, what=""):
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5, err_msg=what)


def entropy(bids, log_probs, log_q, token, weight):
    return weight * -(jnp.exp(log_q) * log_q).sum(), log_probs[:, token]


@pytest.mark.parametrize("rule", ["linear", "log_linear", "power_mean", "own"])
def test_it_is_a_token_of_simulate(rule):
    args = (np.arange(AUCTIONS, dtype=np.float32),)
    watch = {"observe": entropy, "observe_args": args, "first_auction": 5}
    texts = ta.simulate(
        KEY, mechanism(rule), Given(LOGITS), BIDS, num_tokens=TOKENS, **watch
    )
    for position, logits in enumerate(LOGITS):
        found = ta.step(KEY, mechanism(rule), BIDS, logits, position=position, **watch)
        for name in FIELDS:
            wanted = getattr(texts, name)[:, position]
            close(getattr(found, name), wanted, name)
        for one, other in zip(found.observations, texts.observations, strict=True):
            close(one, other[:, position])
        assert found.valid.all()


@pytest.mark.parametrize("rule", ["linear", "log_linear"])
def test_numbers_added_to_an_agents_logits_change_nothing(rule):
    run = functools.partial(ta.step, KEY, mechanism(rule), BIDS)
    # Powers of two, so that the sums are exact where the logits are short.
    short = np.round(LOGITS[0] * 64) / 64
    shift = np.float32(2.0) ** RNG.integers(-5, 10, size=(AUCTIONS, AGENTS, 1))
    plain, shifted = run(short), run(short + shift)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(plain, name), getattr(shifted, name))


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_blocks_change_nothing(size):
    run = functools.partial(ta.step, KEY, mechanism("linear"), BIDS, LOGITS[0])
    jax.tree.map(close, run(block_size=size), run())


def test_agents_may_lack_tokens():
    """Those of a filter: no agent's token is drawn that nobody else can produce."""
    logits = np.where(RNG.random(LOGITS[0].shape) < 0.5, -np.inf, LOGITS[0])
    found = ta.step(KEY, mechanism("linear"), BIDS, logits)
    own = np.take_along_axis(logits, np.asarray(found.tokens)[:, None, None], 2)[..., 0]
    assert np.isfinite(own).any(1).all()
    assert found.valid.all()
    log_probs = jax.nn.log_softmax(logits)
    law = jax.vmap(ta.linear(1.5).log_prob)(BIDS, log_probs)
    due = np.take_along_axis(law, np.asarray(found.tokens)[:, None], 1)[:, 0]
    np.testing.assert_allclose(found.log_prob, due, rtol=1e-5)


def test_auctions_without_a_distribution_are_marked():
    logits = LOGITS[0].copy()
    logits[1, 0] = -np.inf
    logits[2, 1, 3] = np.nan
    logits[3, 2, 4] = np.inf
    # Two agents without a token in common.
    logits[4, 0, ::2] = logits[4, 1, 1::2] = -np.inf
    for rule, undefined in ("linear", [1, 2, 3]), ("log_linear", [1, 2, 3, 4]):
        found = ta.step(KEY, mechanism(rule), BIDS, logits)
        assert np.flatnonzero(~found.valid).tolist() == undefined
        for name in FIELDS:
            assert not np.asarray(getattr(found, name))[undefined].any()


@pytest.mark.parametrize("rule", ["linear", "log_linear"])
def test_derivatives_are_those_of_simulate(rule):
    def revenue(bids, logits, run):
        found = run(bids, logits)
        return found.expected_payments.sum() + found.log_prob.sum()

    def texts(bids, logits):
        pool = Given(logits[None])
        return ta.simulate(KEY, mechanism(rule), pool, bids, num_tokens=1)

    def steps(bids, logits):
        return ta.step(KEY, mechanism(rule), bids, logits)

    found, wanted = (
        jax.grad(revenue, argnums=(0, 1))(jnp.array(BIDS), jnp.array(LOGITS[0]), run)
        for run in (steps, texts)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)
        assert np.abs(other).max() > 1e-2


@pytest.mark.parametrize("rule", ["linear", "log_linear"])
def test_traced_bids_below_the_range_are_none(rule):
    """An agent that bids next to nothing has no veto: its bid counts as 0."""
    logits = LOGITS[0].copy()
    logits[:, 0, 1:] = -np.inf
    bids = BIDS.copy()
    bids[:, 0] = 1e-35
    run = functools.partial(ta.step, KEY, mechanism(rule))
    found, wanted = jax.jit(run)(bids, logits), run(BIDS * [0, 1, 1], logits)
    jax.tree.map(close, found, wanted)
    assert len(np.unique(found.tokens)) > 3


def test_numbers_of_other_sizes(x64):
    """Half precision is widened, and doubles keep their digits."""
    mean = mechanism("linear")
    logits = jnp.asarray(LOGITS[0], jnp.bfloat16)
    half = ta.step(KEY, mean, BIDS, logits)
    assert half.log_prob.dtype == jnp.float32
    jax.tree.map(close, half, ta.step(KEY, mean, BIDS, logits.astype(jnp.float32)))
    doubles = LOGITS[0].astype(np.float64)
    found = ta.step(KEY, mean, BIDS.astype(np.float64), doubles)
    law = jax.vmap(ta.linear(1.5).log_prob)(BIDS, jax.nn.log_softmax(doubles))
    due = np.take_along_axis(law, np.asarray(found.tokens)[:, None], 1)[:, 0]
    np.testing.assert_allclose(found.log_prob, due, rtol=1e-12)
    mixed = ta.step(KEY, mean, BIDS, doubles)
    np.testing.assert_array_equal(mixed.tokens, found.tokens)


def test_devices_change_nothing():
    run = functools.partial(ta.step, KEY, mechanism("linear"), BIDS, LOGITS[0])
    with jax.set_mesh(
        jax.make_mesh((4,), ("auctions",), (jax.sharding.AxisType.Auto,))
    ):
        found = run()
    jax.tree.map(close, found, run())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"logits": LOGITS[0, 0]}, r"logits has shape \(3, 37\)"),
        ({"bids": BIDS[:5]}, "num_auctions is 12, but bids has 5 rows"),
        ({"bids": [1.0, 2.0]}, r"bids has shape \(2,\)"),
        ({"bids": -BIDS}, "bids must be finite and not negative"),
        ({"position": -1}, "position"),
        ({"block_size": 0}, "block_size"),
        ({"mechanism": ta.linear()}, "mechanism must be a Mechanism"),
        ({"key": jax.random.PRNGKey(0)}, "key must be a typed PRNG key"),
        ({"observe_args": (np.zeros(3),)}, "observe_args"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_bad_arguments_are_named(changes, match):
    good = {
        "key": KEY,
        "mechanism": mechanism("linear"),
        "bids": BIDS,
        "logits": LOGITS[0],
    }
    with pytest.raises(ValueError, match=match):
        ta.step(**(good | changes))


@pytest.mark.parametrize("position", [-1, 2**32, 0.5])
def test_positions_that_are_none(position):
    with pytest.raises(ValueError, match="position must be an integer from 0"):
        ta.step(KEY, mechanism("linear"), BIDS, LOGITS[0], position=position)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on CPUs")
def test_clarke_payments_share_what_the_draw_computes():
    """One exponential a token in all for the aggregate, though auctions are a loop."""
    # Each rule has its own copy of the influence.
    rule = ta.Mechanism(ta.log_linear(), ta.clarke(ta.log_linear()))
    program = jax.jit(functools.partial(ta.step, block_size=4))
    text = program.lower(KEY, rule, BIDS, LOGITS[0]).compile().as_text()
    found = re.findall(rf"f32\[4,{VOCAB}\]\S* exponential\(", text)
    assert len(found) == 1


@ta.record
class Careful:
    """Charges a part of the bid, and looks at that part when it is made."""

    aggregation: ta.Aggregation
    part: float
    name: ClassVar[str] = "careful"

    def __post_init__(self):
        if not 0 <= self.part <= 1:
            raise ValueError(f"part is {self.part}")

    def expected(self, bids, log_probs):
        return self.part * bids * self.aggregation.weights(bids)

    def conditional(self, bids, log_probs, token):
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        return self.expected(bids, log_probs)


@jax.tree_util.register_pytree_node_class
class ByHand:
    """Charges a part of the bid; a pytree, but no record."""

    name = "by hand"

    def __init__(self, part):
        self.part = part

    def tree_flatten(self):
        return (self.part,), None

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children)

    def expected(self, bids, log_probs):
        return self.part * bids * ta.linear().weights(bids)

    def conditional(self, bids, log_probs, token):
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        return self.expected(bids, log_probs)


@pytest.mark.parametrize(
    "payment", [Careful(ta.linear(), 0.5), ByHand(0.5)], ids=["record", "by hand"]
)
def test_own_payments_are_not_made_anew(payment):
    mechanism = ta.Mechanism(ta.linear(), payment)
    step = ta.step(KEY, mechanism, BIDS, LOGITS[0])
    wanted = 0.5 * BIDS * BIDS / BIDS.sum(1, keepdims=True)
    np.testing.assert_allclose(step.payments, wanted, rtol=1e-6)
    pool = ta.agents.tabular(jax.nn.log_softmax(LOGITS[0, 0]))
    rollout = ta.simulate(KEY, mechanism, pool, BIDS, num_tokens=1)
    np.testing.assert_allclose(rollout.payments[:, 0], wanted, rtol=1e-6)
