"""Myerson payments: the identity, its edges, and that truth is the best bid.

The contract table runs two of the pairs through its checks: compiled or not, over
batches, one trace, scales.
"""

import faults
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, definitions
from reference.compare import assert_within, gradients, smooth_auction

import tokenauction_jax as ta

# Auctions of one shape: compiling takes seconds, a call a millisecond.
N, V = 3, 7

# The rule, and its name and influence in the reference.
RULES = {
    "linear": (ta.linear(), "linear", 1.0),
    "linear(2)": (ta.linear(2), "linear", 2.0),
    "log_linear": (ta.log_linear(), "log_linear", 1.0),
    "power_mean(0.5)": (ta.power_mean(0.5), 0.5, 1.0),
    "power_mean(-1)": (ta.power_mean(-1), -1.0, 1.0),
}
VALUATIONS = {
    "total_variation": ta.total_variation(),
    "forward_kl": ta.forward_kl(),
    "reverse_kl": ta.reverse_kl(),
}
PAIRS = [(rule, valuation) for rule in RULES for valuation in VALUATIONS]
# A gradient takes ten seconds to compile; the contract table has those of other pairs.
DIFFERENTIATED = [
    ("log_linear", "forward_kl"),
    pytest.param("linear", "total_variation", marks=pytest.mark.slow),
]


@jax.jit
def expected(payment, bids, log_probs):
    """Expected payments of one auction."""
    return payment.expected(bids, log_probs)


@jax.jit
def slopes(payment, bids, log_probs, agent):
    """Derivatives of one agent's payment in bids and log-probabilities."""

    def loss(bids, log_probs):
        return payment.expected(bids, log_probs)[agent]

    return jax.grad(loss, (0, 1))(bids, log_probs)


def price(rule, valuation):
    return ta.myerson(RULES[rule][0], VALUATIONS[valuation])


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(p, np.float32))


def auctions(seed, count=32, *, zeros=False):
    """Agent, bids and log-probabilities; the agent bids 1e-3 to 1e3 of the others."""
    rng = np.random.default_rng(seed)
    for number, ratio in enumerate(np.geomspace(1e-3, 1e3, count)):
        p = rng.dirichlet(np.full(V, 10 ** rng.uniform(0, 0.7)), N)
        if zeros:
            p[:, 1:] *= rng.uniform(size=(N, V - 1)) > 0.4
            p /= p.sum(-1, keepdims=True)
        agent, bids = number % N, rng.uniform(0.5, 2, N)
        bids[agent] = ratio * (bids.sum() - bids[agent])
        yield agent, bids.astype(np.float32), log(p)


def lost_signs(bids, agent, influence):
    """Error of a total variation where `q` nearly is `p`: float32 mistakes signs."""
    scores = bids.astype(float) ** influence
    return 2e-10 * scores[agent] / np.delete(scores, agent).sum()


@pytest.mark.sweep(5)
@pytest.mark.parametrize(("rule", "valuation"), PAIRS)
def test_definition(rule, valuation):
    """Relative to `integral s x'(s) ds`: x rises, so that this is the payment."""
    exact = RULES[rule][0].monotone or valuation != "total_variation"
    for agent, *args in auctions(0):
        _, *numbers = RULES[rule]
        due = definitions.myerson(*args, agent, numbers[0], valuation, numbers[1])
        error = 1e-5 if exact else 1e-3
        if valuation == "total_variation":
            error += lost_signs(args[0], agent, numbers[1])
        found = expected(price(rule, valuation), *args)
        assert due > 0
        assert_within(found[agent], due, error * due)


class TestIdentities:
    @pytest.mark.parametrize("influence", [0.1, 0.5, 1.0, 2.0, 8.0])
    def test_second_price(self, influence):
        rule = ta.linear(influence)
        for zeros in (False, True):
            for agent, *args in auctions(1, zeros=zeros):
                found = expected(ta.myerson(rule, ta.total_variation()), *args)[agent]
                due = expected(ta.second_price(rule), *args)[agent]
                error = 1e-5 + lost_signs(args[0], agent, influence)
                np.testing.assert_allclose(found, due, rtol=error)

    def test_clarke_of_linear(self):
        for zeros in (False, True):
            for agent, *args in auctions(1, zeros=zeros):
                found = expected(price("linear", "forward_kl"), *args)[agent]
                due = expected(ta.clarke(ta.linear()), *args)[agent]
                np.testing.assert_allclose(found, due, rtol=1e-5)

    def test_clarke_of_log_linear(self):
        for agent, *args in auctions(1):
            found = expected(price("log_linear", "reverse_kl"), *args)[agent]
            due = expected(ta.clarke(ta.log_linear()), *args)[agent]
            np.testing.assert_allclose(found, due, rtol=1e-5)

    def test_clarke_charges_a_veto_on_top(self):
        """`-B log r(supp p_i)`, what it costs the others at an own bid of next to 0."""
        vetoes = 0
        for agent, bids, log_probs in auctions(1, zeros=True):
            rest = aggregation.without(bids, agent)
            r = np.exp(aggregation.log_linear(rest, log_probs))
            possible = r[np.isfinite(log_probs[agent])].sum()
            veto = -float(rest.sum() * np.log(possible))
            vetoes += veto > 0.1
            found = expected(price("log_linear", "reverse_kl"), bids, log_probs)
            due = expected(ta.clarke(ta.log_linear()), bids, log_probs)
            np.testing.assert_allclose(
                found[agent] + veto, due[agent], rtol=1e-5, atol=1e-6
            )
        assert vetoes > 5


# Weights of N agents for the first tokens; the others have none.
CORNERS = {
    "zero probabilities": ([1.0, 2.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "a zero bid": ([1.0, 0.0, 0.5], [[1, 2, 3], [3, 1, 1], [2, 2, 1]]),
    "both": ([1.0, 0.0, 0.5], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "disjoint supports": ([1.0, 2.0, 3.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "a huge bid": ([1e8, 1.0, 1.0], [[1, 2, 3], [3, 1, 1], [2, 2, 1]]),
    "a tiny bid": ([1e-8, 1.0, 1.0], [[1, 2, 3], [3, 1, 1], [2, 2, 1]]),
    "one bidder": ([1.0, 0.0, 0.0], [[1, 0, 3], [0, 1, 3], [2, 2, 1]]),
    "another one": ([0.0, 0.0, 7.0], [[1, 0, 3], [0, 1, 3], [2, 2, 0]]),
    "nobody bids": ([0.0, 0.0, 0.0], [[1, 2, 3], [3, 1, 1], [2, 2, 1]]),
    "equal": ([1.0, 1.0, 1.0], [[1, 2, 3], [1, 2, 3], [1, 2, 3]]),
    "equal with zeros": ([1.0, 2.0, 3.0], [[1, 0, 3], [1, 0, 3], [1, 0, 3]]),
    "certain": ([1.0, 2.0, 3.0], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]),
}


def corner(name):
    bids, weights = CORNERS[name]
    weights = np.pad(np.array(weights, float), ((0, 0), (0, V - 3)))
    return np.array(bids, np.float32), log(weights / weights.sum(-1, keepdims=True))


class TestEdgeCases:
    @pytest.mark.parametrize(("rule", "valuation"), PAIRS)
    def test_payments_are_finite_and_fair(self, rule, valuation):
        for name in CORNERS:
            bids, log_probs = corner(name)
            pays = np.asarray(expected(price(rule, valuation), bids, log_probs))
            assert np.isfinite(pays).all()
            assert (pays >= -1e-6 * bids).all()
            assert (pays[bids == 0] == 0).all()
            if name in ("one bidder", "another one", "nobody bids"):
                np.testing.assert_array_equal(pays, 0)
            if name.startswith(("equal", "certain")):
                np.testing.assert_allclose(pays, np.zeros(N), atol=1e-6)

    def test_disjoint_supports(self):
        """`-B log(1 - lambda)`, and `B lambda` less for the second price."""
        bids, log_probs = corner("disjoint supports")
        others = bids.sum() - bids
        clarke = others * np.log1p(bids / others)
        found = expected(price("linear", "forward_kl"), bids, log_probs)
        np.testing.assert_allclose(found, clarke, rtol=1e-5)
        found = expected(price("linear", "total_variation"), bids, log_probs)
        due = clarke - others * bids / bids.sum()
        np.testing.assert_allclose(found, due, rtol=1e-5)

    @pytest.mark.parametrize(("rule", "valuation"), DIFFERENTIATED)
    def test_gradients_are_finite(self, rule, valuation):
        for name in CORNERS:
            for agent in range(N):
                args = (*corner(name), agent)
                for slope in slopes(price(rule, valuation), *args):
                    assert np.isfinite(slope).all(), (name, agent)

    def test_payments_do_not_depend_on_the_draw(self):
        args = [x.astype(np.float32) for x in smooth_auction(0, N, V)]
        payment = price("linear", "reverse_kl")

        @jax.jit
        def charged(key, bids, log_probs, token):
            return jnp.stack(
                [
                    payment.conditional(bids, log_probs, token),
                    payment.realized(key, bids, log_probs, token),
                ]
            )

        for token in range(V):
            for pays in charged(jax.random.key(token), *args, token):
                due = expected(payment, *args)
                np.testing.assert_allclose(pays, due, rtol=1e-5)
        with pytest.raises(ValueError, match="token"):
            payment.conditional(*args, V)


@pytest.mark.parametrize(("rule", "valuation"), DIFFERENTIATED)
def test_slope_in_the_own_bid(rule, valuation):
    """`b x'(b)`."""
    for agent, bids, log_probs in auctions(4, 7):

        def x(own, bids=bids, log_probs=log_probs, agent=agent):
            moved = definitions.at_bid(bids, agent, own)
            return definitions.value(moved, log_probs, agent, rule, valuation)

        own = float(bids[agent])
        due = own * float(definitions.derivative(x, own, 1e-2 * own))
        found, _ = slopes(price(rule, valuation), bids, log_probs, agent)
        # Terms of the size of the agent's share cancel.
        terms = own / bids.sum()
        np.testing.assert_allclose(found[agent], due, rtol=1e-4, atol=2e-6 * terms)


@pytest.mark.parametrize(("rule", "valuation"), DIFFERENTIATED)
def test_gradient(rule, valuation):
    """In all bids and logits."""
    bids, logits = smooth_auction(2, N, V)

    def due(bids, logits):
        return definitions.myerson(bids, logits, 1, rule, valuation, panels=60)

    by_bids, by_logits = gradients(due, definitions.derivative, bids, logits)
    args = (bids.astype(np.float32), jax.nn.log_softmax(logits.astype(np.float32)))
    found, slope = (np.asarray(x) for x in slopes(price(rule, valuation), *args, 1))
    slope = slope - np.exp(args[1]) * slope.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, by_bids, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope, by_logits, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "valuation"),
    [("linear", "total_variation"), ("log_linear", "reverse_kl")],
)
def test_second_derivatives_are_finite(rule, valuation):
    @jax.jit
    @jax.grad
    def curvature(bids, log_probs):
        by_bids, by_log_probs = slopes(price(rule, valuation), bids, log_probs, 0)
        return (by_bids**2).sum() + (by_log_probs**2).sum()

    smooth = [x.astype(np.float32) for x in smooth_auction(0, N, V)]
    for args in (smooth, *map(corner, CORNERS)):
        assert np.isfinite(curvature(*args)).all()


UNDEFINED = {
    # Agent 1 alone has no token 0, which is drawn all the same.
    ("linear", "reverse_kl"): (r"\[1\]", [[1, 2, 3], [0, 1, 1], [2, 2, 1]]),
    # Agent 1 vetoes what the others like.
    ("log_linear", "forward_kl"): (r"\[0, 2\]", [[1, 2, 3], [0, 1, 1], [2, 2, 1]]),
    # No token is left.
    ("log_linear", "reverse_kl"): (r"\[0, 1, 2\]", np.eye(3)),
}


class TestUndefinedAuctions:
    @staticmethod
    def auction(pair, bids=(1.0, 2.0, 3.0)):
        weights = np.pad(np.array(UNDEFINED[pair][1], float), ((0, 0), (0, V - 3)))
        log_probs = log(weights / weights.sum(-1, keepdims=True))
        return np.array(bids, np.float32), log_probs

    @pytest.mark.parametrize("pair", UNDEFINED)
    def test_concrete_values_raise(self, pair):
        agents, args = UNDEFINED[pair][0], self.auction(pair)
        payment, key = price(*pair), jax.random.key(0)
        with pytest.raises(ValueError, match=f"undefined auction: agents {agents}"):
            payment.expected(*args)
        with pytest.raises(ValueError, match=f"undefined auction: agents {agents}"):
            payment.conditional(*args, 1)
        with pytest.raises(ValueError, match=f"undefined auction: agents {agents}"):
            payment.realized(key, *args, 1)

    @pytest.mark.parametrize("pair", UNDEFINED)
    def test_nobody_pays_under_a_transformation(self, pair):
        np.testing.assert_array_equal(expected(price(*pair), *self.auction(pair)), 0)

    @pytest.mark.parametrize("pair", list(UNDEFINED)[:2])
    def test_defined(self, pair):
        payment = price(*pair)
        assert not payment.defined(*self.auction(pair))
        assert not jax.jit(payment.defined)(*self.auction(pair))
        for bids in ([1.0, 0.0, 2.0], [0.0, 1.0, 0.0]):
            args = self.auction(pair, bids)
            assert payment.defined(*args)
            assert (np.asarray(expected(payment, *args)) > 0).sum() in (0, 2)

    def test_gradients_are_finite(self):
        pair = ("log_linear", "forward_kl")
        for slope in slopes(price(*pair), *self.auction(pair), 0):
            np.testing.assert_array_equal(slope, 0)

    def test_simulated_auctions_are_invalid(self):
        """Once token 1 was drawn, the first agent excludes a token of the second."""
        rule = ta.linear()
        table = log([[[0.5, 0.5], [1, 0]], [[0.5, 0.5], [0.5, 0.5]]])
        rollout = ta.simulate(
            jax.random.key(0),
            ta.Mechanism(rule, ta.myerson(rule, ta.reverse_kl())),
            ta.agents.tabular(table),
            np.array([1.0, 2.0]),
            num_tokens=3,
            num_auctions=50,
        )
        broken = (np.cumsum(rollout.tokens[:, :-1] == 1, axis=1) > 0).any(1)
        assert 0 < broken.sum() < 50
        np.testing.assert_array_equal(rollout.valid, ~broken)
        assert np.isfinite(rollout.payments).all()
        np.testing.assert_array_equal(rollout.payments[~rollout.mask], 0)


# Closed forms and the pairs for which they are truthful; all pairs by quadrature.
TRUTHFUL = {
    "second_price": ("linear", "total_variation", ta.second_price(ta.linear())),
    "second_price(2)": ("linear(2)", "total_variation", ta.second_price(ta.linear(2))),
    "clarke(linear)": ("linear", "forward_kl", ta.clarke(ta.linear())),
    "clarke(log_linear)": ("log_linear", "reverse_kl", ta.clarke(ta.log_linear())),
    **{f"{r}, {v}": (r, v, ta.myerson(RULES[r][0], VALUATIONS[v])) for r, v in PAIRS},
}


@pytest.mark.parametrize("name", TRUTHFUL)
def test_no_misreport_beats_the_truth(name):
    """`w x(b) - payment(b)` on a grid of bids is largest at `b = w`."""
    rule, valuation, payment = TRUTHFUL[name]
    _, rule, influence = RULES[rule]
    worths = 10.0 ** np.array([-2, 0, 2])
    for worth, (agent, bids, log_probs) in zip(worths, auctions(5, 3), strict=True):
        # No bid at all, the truth in the middle of the others, and 1/20 to 20 of it.
        grid = np.append(worth * np.geomspace(0.05, 20, 31), 0.0).astype(np.float32)
        bids = np.tile(bids, (grid.size, 1))
        bids[:, agent] = grid
        args = (agent, rule, valuation, influence)
        gains = worth * definitions.value(bids, log_probs, *args).astype(float)
        pays = [expected(payment, row, log_probs)[agent] for row in bids]
        assert (gains - np.array(pays, float)).argmax() == 15


@pytest.mark.parametrize("influence", [0.3, 0.7])
def test_slopes_that_are_no_numbers_are_not_needed(influence):
    """A user's power of a rival's bid of 0 has an infinite derivative."""
    user, rule = faults.Power(influence), ta.linear(influence)
    pairs = [
        (ta.second_price(user), ta.second_price(rule)),
        (ta.myerson(user, ta.forward_kl()), ta.myerson(rule, ta.forward_kl())),
    ]
    for agent, bids, log_probs in auctions(7, 4):
        bids = np.where(np.arange(bids.size) == (agent + 1) % bids.size, 0, bids)
        for found, wanted in pairs:
            wanted = np.asarray(wanted.expected(bids, log_probs))
            found = expected(found, bids, log_probs)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * bids.max())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="aggregation must follow"):
        ta.myerson(ta.total_variation(), ta.linear())
    with pytest.raises(ValueError, match="valuation must follow"):
        ta.myerson(ta.linear(), ta.linear())
    with pytest.raises(ValueError, match="log_probs"):
        price("linear", "forward_kl").expected(jnp.ones(2), jnp.zeros((3, 4)))
