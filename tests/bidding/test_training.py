"""Deviations from policies, and equilibria in policies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tokenauction_jax as ta
from tokenauction_jax import bidding
from tokenauction_jax.bidding.problem import check_problem
from tokenauction_jax.bidding.training import make_training

PAY_YOUR_BID = ta.Mechanism(ta.linear(), ta.pay_your_bid())
TV = ta.total_variation()
CHAIN = ta.agents.markov(jax.random.key(5), 2, 3, 1.0)
# Agents that want nothing in common, whatever was said: a Tullock contest each token.
APART = ta.agents.tabular(jnp.log(jnp.eye(2)))
VALUES = jnp.array([2.0, 1.0])
BIDS = jnp.array([1.0, 0.5])


def constants(bids, budgets=np.inf):
    return ta.Bidders([bidding.constant(bid) for bid in bids], budgets)


def agree(found, wanted, names):
    for name in names:
        x, y = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_responses_to_constants_are_those_to_bids():
    """In money, and in units that differ between auctions."""
    unit = jnp.array([[1.0, 2.0], [0.5, 1.0], [2.0, 2.0], [1.0, 1.0]])
    bidders = ta.Bidders(
        [jax.vmap(bidding.constant)(x) for x in (BIDS[None] * unit).T], by_auction=True
    )
    found, wanted = (
        bidding.best_response(
            *(jax.random.key(0), PAY_YOUR_BID, CHAIN, bids, 0),
            values=VALUES,
            valuation=TV,
            num_tokens=2,
            num_auctions=4,
            unit=unit,
        )
        for bids in (bidders, BIDS)
    )
    # Policies have no units: the grid around what they bid is another one.
    agree(found, wanted, ("bid", "gain", "gain_error", "payoffs"))


@pytest.mark.slow
def test_training_constants_is_training_bids():
    """Step by step, and with the same gap in the end."""
    found, wanted = (
        bidding.equilibrium(
            *(jax.random.key(0), PAY_YOUR_BID, CHAIN),
            values=VALUES,
            valuation=TV,
            num_tokens=2,
            num_auctions=50,
            start=start,
            optimizer=optax.adam(0.1),
            num_steps=12,
        )
        for start in (constants(BIDS), BIDS)
    )
    amounts = [policy.amount for policy in found.bids.policies]
    np.testing.assert_allclose(jnp.stack(amounts), wanted.bids, rtol=1e-4, atol=1e-5)
    history = jnp.stack([policy.amount for policy in found.history], axis=1)
    np.testing.assert_allclose(history, wanted.history, rtol=1e-4, atol=1e-5)
    assert (wanted.history == 0).any()
    agree(found, wanted, ("gap", "gap_error", "gains", "num_steps", "undefined"))


@pytest.mark.slow
def test_schedules_find_the_equilibrium_of_every_token():
    """``b_1 = w_1^2 w_2 / (w_1 + w_2)^2``, from where they were far."""
    start = [bidding.schedule([1.0, 0.1]), bidding.schedule([0.2, 0.9])]
    found = bidding.equilibrium(
        *(jax.random.key(0), PAY_YOUR_BID, APART),
        values=VALUES,
        valuation=TV,
        num_tokens=2,
        num_auctions=4,
        start=ta.Bidders(start, [3.0, np.inf]),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 300)),
        num_steps=300,
    )
    amounts = jnp.stack([policy.amounts for policy in found.bids.policies])
    wanted = np.tile([[4 / 9], [2 / 9]], (1, 2))
    np.testing.assert_allclose(amounts, wanted, rtol=1e-3)
    np.testing.assert_array_equal(found.bids.budgets, [[3.0, np.inf]] * 4)
    assert found.converged
    assert abs(found.gap) < 1e-4


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["better", "worse"])
def test_deviations_are_constant_bids_within_the_budget(name):
    """A schedule that bids when its rival sleeps is better; then nothing is gained."""
    policy, budget = {
        "better": (bidding.schedule([0.0, 0.3]), np.inf),
        "worse": (bidding.constant(2.0), 0.3),
    }[name]
    run = jax.random.key(0), PAY_YOUR_BID, APART
    text = {"values": VALUES, "num_tokens": 2, "num_auctions": 4}

    def bidders(policy):
        return ta.Bidders([policy, bidding.schedule([4.0, 0.1])], [budget, np.inf])

    def worth(policy):
        utility = bidding.utility(0, TV)
        return float(bidding.expected(*run, bidders(policy), utility, **text))

    found = bidding.best_response(*run, bidders(policy), 0, valuation=TV, **text)
    best = worth(bidding.constant(found.bid))
    np.testing.assert_allclose(found.payoffs.max(), best, rtol=1e-5)
    tried = [worth(bidding.constant(x)) for x in (0.05, 0.1, 0.15, 0.3, 1.0)]
    assert max(tried) <= best + 1e-6
    gain = best - worth(policy)
    assert abs(gain) > 0.1
    assert (gain > 0) == (name == "worse")
    np.testing.assert_allclose(found.gain, max(gain, 0), rtol=1e-4)


def problem_of(policies, **options):
    bidders = ta.Bidders(policies, **options)
    arguments = (PAY_YOUR_BID, CHAIN, bidders, bidding.revenue(), VALUES, 2, 4, 0)
    return check_problem(jax.random.key(0), *arguments)


POLICIES = [
    bidding.adaptive_pacing(2.0, 0.1),
    bidding.network(1.0, key=jax.random.key(0), hidden=2),
]


@pytest.mark.parametrize(
    ("trainable", "owners"),
    [
        # Value, rate, start, most; two layers of kernels and biases, value.
        (None, (-1, 0, 0, 0, 1, 1, 1, 1, -1)),
        (lambda agent, name: agent == 0, (0, 0, 0, 0, -1, -1, -1, -1, -1)),
        (lambda agent, name: name == "rate", (-1, 0, -1, -1, -1, -1, -1, -1, -1)),
    ],
)
def test_values_are_not_trained_unless_asked_for(trainable, owners):
    training = make_training(problem_of(POLICIES), TV, trainable, optax.sgd(0.1))
    assert training.owners == owners


def test_what_is_not_trained_stays():
    """Also under an optimizer that moves what has no derivative."""
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    training = make_training(problem_of(POLICIES), TV, None, optimizer)
    start = training.start()
    end = jax.jit(training.step)(start)
    for before, after in zip(start.bids, end.bids, strict=True):
        assert before.value == after.value
    moved = [
        bool((x != y).any())
        for x, y in zip(*map(jax.tree.leaves, (start.bids, end.bids)), strict=True)
    ]
    assert moved[1] or moved[3]
    assert any(moved[4:])


def test_rows_move_together():
    """Values that are drawn, and a share of them that all auctions have in common."""
    values = jnp.array([1.0, 2.0, 3.0, 4.0])
    start = jnp.ones(4)
    policies = [
        jax.vmap(
            lambda x, s: bidding.pid(x, proportional=0, integral=0, start=s, most=2)
        )(values, start),
        jax.vmap(bidding.constant)(start),
    ]
    problem = problem_of(policies, by_auction=True)
    training = make_training(
        problem, TV, lambda _, name: name in ("start", "amount"), optax.sgd(0.1)
    )
    end = jax.jit(training.step)(training.start())
    np.testing.assert_array_equal(end.bids[0].value, values)
    for found in (end.bids[0].start, end.bids[1].amount):
        assert (found != 1).all()
        np.testing.assert_array_equal(found, found[0].repeat(4))


def test_refusals():
    given = {"values": VALUES, "valuation": TV, "num_tokens": 2, "num_auctions": 4}
    run = jax.random.key(0), PAY_YOUR_BID, CHAIN
    start = constants(BIDS)
    with pytest.raises(ValueError, match="policies have no best responses here: train"):
        bidding.equilibrium(*run, start=start, **given)
    given["optimizer"] = optax.sgd(0.1)
    with pytest.raises(ValueError, match="no number of the policies is trained"):
        bidding.equilibrium(
            *run, start=start, trainable=lambda agent, name: False, **given
        )
    given.pop("optimizer")
    wrong = ta.Bidders([jax.tree.map(jnp.negative, x) for x in start.policies])
    for function, more in (
        (bidding.best_response, (0,)),
        (bidding.equilibrium_gap, ()),
    ):
        with pytest.raises(ValueError, match=r"policies\[0\], a Constant, bid -1.0"):
            function(*run, wrong, *more, **given)
