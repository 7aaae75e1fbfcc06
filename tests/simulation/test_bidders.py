"""Policies in a rollout: what they see and remember, and what becomes of bad ones."""

import impostors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation

import tokenauction_jax as ta
from tokenauction_jax import bidding

RULE = ta.linear()
PAY_YOUR_BID = ta.Mechanism(RULE, ta.pay_your_bid())
SECOND_PRICE = ta.Mechanism(RULE, ta.second_price(RULE))
T, A = 6, 5


def chains(vocabulary=5):
    rng = np.random.default_rng(3)
    rows = rng.dirichlet(np.ones(vocabulary), size=(2, vocabulary))
    return np.log(rows).astype(np.float32)


def run(policies, budgets=np.inf, mechanism=PAY_YOUR_BID, size=A, first=0, **kwargs):
    bidders = ta.Bidders(policies, budgets)
    pool = ta.agents.tabular(chains(), **kwargs)
    return ta.simulate(
        *(jax.random.key(0), mechanism, pool, bidders),
        num_tokens=T,
        num_auctions=size,
        first_auction=first,
    )


@ta.record
class Diarist:
    """Bids what it is told to, and writes down all that it sees."""

    amounts: jax.Array

    def init(self):
        zeros = jnp.zeros(T)
        names = ("position", "num_tokens", "agent", "budget", "spent", "remaining")
        names += ("last_token", "last_payment", "last_log_prob", "last_log_q")
        rows = {"log_probs": jnp.zeros((T, 2, 5)), "own_log_probs": jnp.zeros((T, 5))}
        return dict.fromkeys((*names, "entropy"), zeros) | rows

    def bid(self, state, info):
        at = info.position
        diary = {k: x.at[at].set(getattr(info, k)) for k, x in state.items()}
        return self.amounts[at], diary


def test_what_policies_see():
    amounts = np.random.default_rng(0).uniform(0.5, 2, (2, T)).astype(np.float32)
    policies = [Diarist(jnp.asarray(row)) for row in amounts]
    budgets = np.array([np.inf, 4.0], np.float32)
    rollout = run(policies, budgets, mechanism=SECOND_PRICE)
    rollout = jax.tree.map(np.asarray, rollout)
    tokens, ones = rollout.tokens, np.ones((A, T))
    before = np.concatenate([np.full((A, 1), -1), tokens[:, :-1]], axis=1)
    rows = np.moveaxis(chains()[:, np.maximum(before, 0)], 0, 2)
    np.testing.assert_array_equal(rollout.bids, np.broadcast_to(amounts.T, (A, T, 2)))
    for agent, diary in enumerate(rollout.policy_states):
        paid = rollout.payments[..., agent]
        own = rows[:, :, agent]
        drawn = np.take_along_axis(own, tokens[..., None], axis=2)[..., 0]

        def earlier(x):
            return np.concatenate([np.zeros((A, 1)), x[:, :-1]], axis=1)

        wanted = {
            "position": ones * np.arange(T),
            "num_tokens": ones * T,
            "agent": ones * agent,
            "budget": ones * budgets[agent],
            "spent": earlier(paid.cumsum(axis=1)),
            "last_token": before,
            "last_payment": earlier(paid),
            "last_log_prob": earlier(drawn),
            "last_log_q": earlier(rollout.log_prob),
            "log_probs": rows,
            "own_log_probs": own,
            "entropy": -(np.exp(own) * own).sum(-1),
        }
        wanted["remaining"] = wanted["budget"] - wanted["spent"]
        assert set(wanted) == set(diary)
        for name, x in wanted.items():
            np.testing.assert_allclose(diary[name], x, rtol=1e-5, atol=1e-6)


def test_tokens_are_drawn_with_the_bids_of_their_position():
    amounts = np.array([[5, 1, 0, 2, 3, 0.5], [1, 1, 1, 0, 0.5, 7]], np.float32)
    rollout = run([bidding.schedule(row) for row in amounts])
    before = np.concatenate([np.zeros((A, 1), int), rollout.tokens[:, :-1]], axis=1)
    for position in range(T):
        rows = np.moveaxis(chains()[:, before[:, position]], 0, 1)
        log_q = aggregation.linear(amounts[:, position], rows)
        own = np.arange(A), rollout.tokens[:, position]
        found = rollout.log_prob[:, position]
        np.testing.assert_allclose(found, log_q[own].astype(float), atol=1e-5)


def test_observers_see_the_bids():
    rollout = ta.simulate(
        *(jax.random.key(0), PAY_YOUR_BID, ta.agents.tabular(chains())),
        ta.Bidders(
            [bidding.constant(1.0), bidding.schedule([2.0, 3.0])], [2.0, np.inf]
        ),
        num_tokens=T,
        num_auctions=A,
        observe=lambda bids, log_probs, log_q, token: bids,
        accumulate=lambda bids, log_probs, log_q, token: bids,
    )
    np.testing.assert_array_equal(rollout.observations, rollout.bids)
    np.testing.assert_array_equal(rollout.totals, rollout.bids.sum(1))


def test_randomness_belongs_to_the_auction():
    policies = [bidding.adaptive_pacing(2.0, 0.5), bidding.constant(1.0)]
    everything = run(policies, [1.0, np.inf], SECOND_PRICE, size=16)
    part = run(policies, [1.0, np.inf], SECOND_PRICE, size=4, first=9)
    np.testing.assert_array_equal(part.tokens, everything.tokens[9:13])
    np.testing.assert_allclose(part.bids, everything.bids[9:13], rtol=1e-5)


def test_ended_texts_neither_pay_nor_bid():
    policies = [bidding.adaptive_pacing(2.0, 0.5), bidding.constant(1.0)]
    rollout = run(policies, size=64, end_token=1)
    ended = ~np.asarray(rollout.mask)
    assert 0.2 < ended.mean() < 0.9
    assert rollout.valid.all()
    np.testing.assert_array_equal(rollout.bids[ended], 0)
    np.testing.assert_array_equal(rollout.payments[ended], 0)
    assert (np.asarray(rollout.bids)[~ended] > 0).all()


def test_one_trace_for_other_numbers():
    traces = []

    def act(state, info):
        traces.append(state)
        return state, state

    for start in (1.0, 2.0):
        for budgets in (np.inf, [1.0, 2.0]):
            policies = [impostors.Bidder(start, act), bidding.constant(start)]
            rollout = run(policies, budgets)
            assert rollout.bids[0, 0, 0] == start
            traces.append(len(traces))
    assert traces[-1] == len(traces) - 1 == traces[-2] + 1


def test_gradients_in_the_numbers_of_policies_are_finite():
    def revenue(value, rate):
        policies = [bidding.adaptive_pacing(value, rate), bidding.constant(1.0)]
        return run(policies, [1.0, np.inf], SECOND_PRICE).expected_payments.sum()

    slopes = jax.grad(revenue, (0, 1))(2.0, 0.5)
    assert np.isfinite(slopes).all()
    assert (np.asarray(slopes) != 0).all()


def test_policies_and_budgets_may_be_traced():
    @jax.jit
    def paid(amount, budget):
        policies = [bidding.constant(amount), bidding.constant(1.0)]
        return run(policies, [budget, 4]).payments.sum(1)

    np.testing.assert_array_equal(paid(2.0, 5.0), [[5, 4]] * A)


def test_states_may_hold_keys():
    def act(key, info):
        key, used = jax.random.split(key)
        return jax.random.uniform(used), key

    rollout = run([impostors.Bidder(jax.random.key(0), act), bidding.constant(1.0)])
    bids = np.asarray(rollout.bids[..., 0])
    assert np.unique(bids).size == T
    np.testing.assert_array_equal(bids, np.broadcast_to(bids[0], bids.shape))


BAD = {
    "negative": lambda state, info: (1.5 - info.position, state),
    "nan": lambda state, info: (jnp.where(info.position == 2, jnp.nan, 1), state),
    "inf": lambda state, info: (jnp.where(info.position == 2, jnp.inf, 1), state),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bids_are_named(name):
    policies = [bidding.constant(1.0), impostors.Bidder(0.0, BAD[name])]
    shown = {"negative": "-0.5"}.get(name, name)
    match = rf"policies\[1\], a Bidder, bid {shown} for token 2 of row 0: bids must be"
    with pytest.raises(ValueError, match=match) as caught:
        run(policies)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_bids_leave_compiled_auctions_undefined(name):
    policies = [bidding.constant(1.0), impostors.Bidder(0.0, BAD[name])]
    rollout = jax.jit(lambda policies: run(policies))(policies)
    assert not rollout.valid.any()
    assert not rollout.exhausted.any()
    np.testing.assert_array_equal(rollout.mask, [[True, True] + 4 * [False]] * A)
    for x in (rollout.payments, rollout.tokens, rollout.log_prob, rollout.bids[:, 3:]):
        assert np.isfinite(x).all()
    np.testing.assert_array_equal(rollout.payments[:, 2:], 0)
    wrong = {"negative": -0.5, "nan": np.nan, "inf": np.inf}[name]
    np.testing.assert_array_equal(rollout.bids[:, 2], [[1, wrong]] * A)


def test_where_nobody_bids_no_rule_answers():
    """Also under a rule that would make something of it."""

    def change(log_q, bids, log_probs):
        return jnp.where(bids.sum() > 0, log_q, jax.nn.log_softmax(log_probs[0]))

    mechanism = ta.Mechanism(impostors.Changed(change), ta.pay_your_bid())
    policies = [bidding.schedule([1.0, 0.0]), bidding.schedule([1.0, 0.0])]
    rollout = run(policies, mechanism=mechanism)
    np.testing.assert_array_equal(rollout.mask, [[True] + 5 * [False]] * A)
    assert rollout.exhausted.all()
    assert not rollout.valid.any()


ONE = bidding.constant(1.0)


@pytest.mark.parametrize(
    ("policies", "match"),
    [
        (ONE, "policies must be a sequence of one policy for each of 2 agents"),
        ([ONE], "policies has 1 entries, expected one for each of 2 agents"),
        ([ONE, 2.0], r"policies\[1\] must follow Policy, got 2.0"),
        ([ONE, type("P", (type(ONE),), {})(1.0)], r"policies\[1\] is not a pytree"),
        (
            [ONE, impostors.Bidder(0.0, lambda s, i: (jnp.ones(3), s))],
            r"policies\[1\], a Bidder, bids shape \(3,\), expected \(\): a scalar",
        ),
        (
            [ONE, impostors.Bidder(0, lambda s, i: (1.0, 0.5 * s))],
            r"policies\[1\], a Bidder, changes its state from int32\[\] to float32\[\]",
        ),
    ],
)
def test_bad_policies(policies, match):
    with pytest.raises(ValueError, match=match):
        run(policies)


def test_the_number_of_auctions_is_needed():
    pool = ta.agents.tabular(chains())
    bidders = ta.Bidders([ONE, ONE], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"budgets of shape \(2,\) need num_auctions"):
        ta.simulate(jax.random.key(0), PAY_YOUR_BID, pool, bidders, num_tokens=2)
    by_row = ta.Bidders([ONE, ONE], np.ones((3, 2)))
    rollout = ta.simulate(jax.random.key(0), PAY_YOUR_BID, pool, by_row, num_tokens=2)
    assert rollout.tokens.shape == (3, 2)


class TestOneRowAnAuction:
    VALUES = np.array([0.5, 1.0, 2.0, 3.0, 5.0], np.float32)

    def policies(self, values):
        """Of which the first remembers and the second looks at its position."""
        rows = jnp.asarray(values)[:, None] * jnp.array([[1.0, 0.5]])
        return [
            jax.vmap(lambda x: bidding.adaptive_pacing(x, 0.5, start=0.1 * x))(values),
            jax.vmap(bidding.schedule)(rows),
        ]

    def run(self, policies, **kwargs):
        bidders = ta.Bidders(policies, [1.0, np.inf], **kwargs)
        pool = ta.agents.tabular(chains())
        run = (jax.random.key(0), SECOND_PRICE, pool, bidders)
        return ta.simulate(*run, num_tokens=T, num_auctions=A)

    def test_equal_rows_change_no_bit(self):
        policies = [bidding.adaptive_pacing(2.0, 0.5), bidding.schedule([2.0, 1.0])]
        rows = [
            jax.tree.map(lambda x: jnp.tile(x, (A,) + (1,) * jnp.ndim(x)), policies)
        ]
        shared, copied = self.run(policies), self.run(rows[0], by_auction=True)
        jax.tree.map(np.testing.assert_array_equal, shared, copied)

    def test_each_auction_has_its_own(self):
        everything = self.run(self.policies(self.VALUES), by_auction=True)
        for auction, value in enumerate(self.VALUES):
            one = [
                jax.tree.map(lambda x: x[0], policy)
                for policy in self.policies(np.array([value]))
            ]
            alone = self.run(one)
            np.testing.assert_array_equal(
                alone.tokens[auction], everything.tokens[auction]
            )
            np.testing.assert_allclose(
                alone.bids[auction], everything.bids[auction], rtol=1e-5
            )
        assert np.unique(everything.bids[:, 0, 1]).size == A

    def test_numbers_without_rows_are_named(self):
        policies = self.policies(self.VALUES)
        with pytest.raises(
            ValueError, match=r"policies\[0\] has an array of shape \(\),"
        ):
            self.run([bidding.constant(1.0), policies[1]], by_auction=True)
        with pytest.raises(ValueError, match=r"policies\[1\] .* expected \(5, ...\)"):
            self.run([policies[0], bidding.schedule([1.0, 2.0])], by_auction=True)
