"""What bidding refuses, in one line that says what is wrong and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax import bidding

TV = ta.total_variation()
POOL = ta.agents.tabular(jnp.log(jnp.full((2, 3), 1 / 3)))
MECHANISM = ta.Mechanism(ta.linear(), ta.pay_your_bid())
GOOD = {
    "mechanism": MECHANISM,
    "pool": POOL,
    "bids": [1.0, 2.0],
    "objective": bidding.revenue(),
    "values": [1.0, 1.0],
    "num_tokens": 2,
}


def worth(tokens, mask):
    return jnp.where(tokens[:, 0] == 1, jnp.inf, 0.0) + 0.0 * mask.sum(axis=1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"objective": bidding.utility(2, TV)}, r"agent must be .* from 0 to 1, got 2"),
        ({"objective": 2 * bidding.text_reward(7, worth)}, "agent must be .* got 7"),
        ({"objective": TV}, "objective must be an Objective, got TotalVar"),
        ({"values": [1.0, -1.0]}, "values must be finite and not negative, got -1"),
        ({"values": [1.0]}, r"values has shape \(1,\), expected \(2,\) or"),
        ({"bids": [0.0, 0.0]}, "bids of an auction must have a positive sum"),
        ({"bids": [1.0, np.nan]}, "bids must be finite"),
        ({"num_tokens": 0}, "num_tokens must be an integer of at least 1"),
    ],
    ids=(
        "agent",
        "rewarded",
        "objective",
        "negative",
        "values",
        "zeros",
        "nan",
        "tokens",
    ),
)
@pytest.mark.parametrize("name", ["exact", "expected", "value_and_grad"])
def test_arguments(name, change, match):
    given = GOOD | change
    if name != "exact":
        given |= {"key": jax.random.key(0), "num_auctions": 4}
    with pytest.raises(ValueError, match=match):
        getattr(bidding, name)(**given)


@pytest.mark.parametrize("name", ["expected", "value_and_grad"])
def test_sampling(name):
    given = GOOD | {"key": jax.random.key(0)}
    function = getattr(bidding, name)
    with pytest.raises(ValueError, match="need num_auctions"):
        function(**given)
    with pytest.raises(ValueError, match="gradient must be one of"):
        function(**given, num_auctions=4, gradient="exact")
    given |= {"objective": bidding.text_reward(0, worth), "num_auctions": 50}
    with pytest.raises(ValueError, match=r"infinite or NaN for [0-9]+ texts"):
        function(**given)
    given |= {"objective": bidding.text_reward(0, lambda tokens, _: tokens)}
    with pytest.raises(ValueError, match=r"reward\(tokens, mask\) has shape \(50, 2\)"):
        function(**given)


@pytest.mark.parametrize(
    ("unit", "match"),
    [
        ([1.0, 2.0, 3.0], r"unit has shape \(3,\), expected \(\), \(2,\) or \(4, 2\)"),
        ([1.0, 0.0], "unit must be from 1e-30 to 1e"),
        (np.nan, "unit must be from"),
    ],
)
def test_units(unit, match):
    given = GOOD | {"key": jax.random.key(0), "num_auctions": 4, "unit": unit}
    given["valuation"] = given.pop("objective") and TV
    with pytest.raises(ValueError, match=match):
        bidding.equilibrium_gap(**given)


def test_enumeration():
    pool = ta.agents.dirichlet(2, 3, 1.0)
    with pytest.raises(ValueError, match="got RandomPool; sample other agents"):
        bidding.exact(**GOOD | {"pool": pool})
    # Without a reward contexts are few, however many texts there are.
    assert bidding.exact(**GOOD | {"num_tokens": 40}) == pytest.approx(120)
    rewarded = {"objective": bidding.text_reward(0, worth), "num_tokens": 40}
    with pytest.raises(ValueError, match=r"the 3\*\*40 texts of a reward do not fit"):
        bidding.exact(**GOOD | rewarded)


def test_policies_are_not_enumerated():
    bidders = ta.Bidders([bidding.constant(1.0), bidding.constant(2.0)])
    with pytest.raises(ValueError, match="got Bidders: policies are sampled, with"):
        bidding.exact(**GOOD | {"bids": bidders})
    given = GOOD | {"bids": bidders, "key": jax.random.key(0)}
    for function in (bidding.expected, bidding.value_and_grad):
        with pytest.raises(ValueError, match="need num_auctions"):
            function(**given)


def test_derivatives_in_pools():
    def mean(table):
        pool = ta.agents.tabular(table)
        given = GOOD | {"pool": pool, "key": jax.random.key(0), "num_auctions": 4}
        return bidding.expected(**given)

    with pytest.raises(ValueError, match="no derivative in the numbers of a pool"):
        jax.grad(mean)(POOL.log_probs)


def test_temperatures():
    for wrong in (0.0, -1.0, np.inf, [1.0, np.nan]):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            bidding.tempered(POOL, wrong)
    with pytest.raises(ValueError, match=r"temperature has shape \(3,\)"):
        bidding.tempered(POOL, [1.0, 1.0, 1.0])


def test_responses():
    given = {name: x for name, x in GOOD.items() if name not in ("bids", "objective")}
    given |= {"key": jax.random.key(0), "num_auctions": 4}
    with pytest.raises(ValueError, match="valuation must be a Valuation, or"):
        bidding.equilibrium(**given, valuation=3)
    with pytest.raises(ValueError, match="dynamics must be one of"):
        bidding.equilibrium(**given, valuation=TV, dynamics="fictitious")
    with pytest.raises(ValueError, match="num_steps must be an integer of at least 1"):
        bidding.equilibrium(**given, valuation=TV, num_steps=0)
    with pytest.raises(ValueError, match="agent must be an integer from 0 to 1, got 2"):
        bidding.best_response(**given, bids=[1.0, 1.0], agent=2, valuation=TV)


def test_infinite_worths_are_counted():
    """Under forward KL an agent that is left out is infinitely unhappy."""
    pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    given = GOOD | {"pool": pool, "objective": bidding.utility(0, ta.forward_kl())}
    given |= {"key": jax.random.key(0), "num_auctions": 4, "bids": [0.0, 1.0]}
    found = bidding.value_and_grad(**given)
    assert found.value == -jnp.inf
    assert found.infinite == 4
    # What is worth nothing does not count, infinite or not.
    given["objective"] = 0.0 * given["objective"] + bidding.revenue()
    assert bidding.value_and_grad(**given).value == 2.0


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("best_response", np.nan),
        ("equilibrium_gap", np.inf),
        ("equilibrium", -np.inf),
    ],
)
def test_rewards_that_are_not_finite(name, amount):
    """Also of texts that only one of the bids that are tried leads to."""

    def reward(tokens, mask):
        return jnp.where(mask[:, 0] & (tokens[:, 0] == 2), amount, 0.0)

    given = GOOD | {"key": jax.random.key(0), "num_auctions": 64}
    given.pop("objective")
    if name == "best_response":
        given["agent"] = 0
    if name == "equilibrium":
        given |= {"start": given.pop("bids"), "num_steps": 1}
    aim = {"valuation": lambda agent: bidding.text_reward(agent, reward)}
    with pytest.raises(ValueError, match=r"reward is infinite or NaN for [0-9]+ texts"):
        getattr(bidding, name)(**given, **aim)


@pytest.mark.parametrize("amount", [np.nan, np.inf, -np.inf])
def test_enumerated_rewards_that_are_not_finite(amount):
    def reward(tokens, mask):
        return jnp.where(mask[:, 0] & (tokens[:, 0] == 2), amount, 0.0)

    given = GOOD | {"objective": bidding.text_reward(0, reward)}
    with pytest.raises(ValueError, match="reward is infinite or NaN for 3 texts"):
        bidding.exact(**given)
    # Texts that never come about need no reward.
    never = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5, 0.0]] * 2)))
    np.testing.assert_allclose(bidding.exact(**given | {"pool": never}), -2.0)


def test_payoffs_that_are_no_numbers():
    """NaN is refused; where every bid is worth ``-inf`` none gains."""

    @ta.record
    class Nothing(bidding.Objective):
        def per_token(self, outcome):
            return jnp.nan * outcome.bids.sum()

    given = GOOD | {"key": jax.random.key(0), "num_auctions": 4, "agent": 0}
    given.pop("objective")
    with pytest.raises(ValueError, match="payoffs are NaN"):
        bidding.best_response(**given, valuation=lambda agent: Nothing())
    # The second agent's tokens are none of the first one's, whatever that bids.
    given |= {"pool": ta.agents.tabular(jnp.log(jnp.eye(2))), "num_tokens": 1}
    found = bidding.best_response(**given, valuation=ta.reverse_kl())
    assert found.gain == 0
    assert found.bid == 1
