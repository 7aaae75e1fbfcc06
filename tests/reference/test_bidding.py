"""The enumeration of texts against recursions, identities and closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from reference import bidding

N, V, T = 3, 4, 3
RTOL = 1e-12
VALUATIONS = tuple(bidding.VALUATIONS)
MECHANISMS = (
    bidding.Mechanism("linear", "pay_your_bid"),
    bidding.Mechanism("linear", "second_price", 2.0),
    bidding.Mechanism("log_linear", "clarke"),
    bidding.Mechanism(0.5, "myerson", 1.0, "forward_kl"),
    bidding.Mechanism(-1.0, "pay_your_bid"),
)
OBJECTIVES = {
    **{f"utility {v}": bidding.utility(1, v) for v in VALUATIONS},
    **{f"welfare {v}": bidding.welfare(v) for v in VALUATIONS},
    "revenue": bidding.revenue(),
    "length": bidding.length(),
}


def instance(seed=0, *, markov=True, zeros=False, **options):
    """A table, bids and values; with zeros some contexts share no token."""
    rng = np.random.default_rng(seed)
    shape = (N, V) if markov else (N,)
    p = rng.dirichlet(np.full(V, 2.0), shape)
    if zeros:
        p = p * (rng.uniform(size=p.shape) < 0.6) + 1e-300 * (p == p.max(-1)[..., None])
        p /= p.sum(-1, keepdims=True)
        p[p < 1e-200] = 0
    with np.errstate(divide="ignore"):
        table = bidding.Table(np.log(p), T, **options)
    bids, values = rng.uniform(0.5, 2, (2, N))
    return bidding.Auction(MECHANISMS[0], table, bids, values)


TABLES = {
    "Markov": instance(),
    "end token": instance(1, end_token=2, start=3),
    "no context": instance(2, markov=False, end_token=0),
    "zeros": instance(3, zeros=True, end_token=1),
}


@pytest.fixture(params=MECHANISMS, ids=str)
def mechanism(request):
    return request.param


@pytest.fixture(params=TABLES)
def auction(request, mechanism):
    return replace(TABLES[request.param], mechanism=mechanism)


def backwards(auction, name):
    """`W_t(c) = R(c) + sum_x q(x | c) W_{t+1}(x)`, without any text."""
    table, values = auction.table, auction.values
    texts = bidding.enumerate_texts(auction)
    defined, end = np.isfinite(texts.log_q).any(1), table.end_token
    kind, _, valuation = name.partition(" ")
    reward = {"revenue": texts.pays.sum(1), "length": np.ones(len(texts.pays))}.get(
        kind
    )
    if valuation:
        gains = values * texts.value(valuation)
        reward = gains.sum(1)
        if kind == "utility":
            reward = gains[:, 1] - texts.pays[:, 1]
    q = np.exp(texts.log_q)
    worth = np.zeros(len(q))
    for _ in range(T):
        later = np.tile(worth, V // len(worth))
        if end is not None:
            later[end] = 0
        later = np.where(q > 0, q * np.where(q > 0, later, 0), 0).sum(1)
        worth = np.where(defined, reward + later, 0)
    return worth[table.start if len(q) > 1 else 0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_recursion(auction, name):
    found = bidding.exact(auction, OBJECTIVES[name])
    np.testing.assert_allclose(float(found), float(backwards(auction, name)), rtol=RTOL)


def test_probabilities_sum_to_one(auction):
    texts = bidding.enumerate_texts(auction)
    assert abs(texts.probability.sum() - 1) < 1e-16
    rows = np.concatenate([texts.tokens, texts.mask], axis=1)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert (texts.tokens[~texts.mask] == 0).all()


def test_undefined_contexts_stop_a_text():
    """After token 1 the agents share no token; a zero bidder has no veto."""
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[0.5, 0.5], [1, 0]], [[0.5, 0.5], [0, 1]]])
    mechanism = bidding.Mechanism("log_linear", "pay_your_bid")
    args = (mechanism, bidding.Table(log_probs, 3))
    auction = bidding.Auction(*args, np.ones(2), np.ones(2))
    texts = bidding.enumerate_texts(auction)
    # 1 | 0 1 | 0 0 0 | 0 0 1, whose last token has no context after it.
    found = sorted(zip(texts.mask.sum(1), texts.probability.astype(float), strict=True))
    assert found == [(1, 0.5), (2, 0.25), (3, 0.125), (3, 0.125)]
    reward = bidding.text_reward(0, lambda tokens, mask: (tokens * mask).sum(1))
    assert float(bidding.exact(auction, reward)) == 0.875 - (0.5 + 0.5 + 0.75)
    alone = replace(auction, bids=np.array([1.0, 0.0]))
    assert bidding.enumerate_texts(alone).mask.all()


def test_an_auction_undefined_from_the_start_has_one_empty_text():
    with np.errstate(divide="ignore"):
        table = bidding.Table(np.log([[1.0, 0], [0, 1]]), 2)
    mechanism = bidding.Mechanism(-1.0, "pay_your_bid")
    auction = bidding.Auction(mechanism, table, np.ones(2), np.ones(2))
    texts = bidding.enumerate_texts(auction)
    assert not texts.mask.any()
    np.testing.assert_array_equal(texts.probability, [1])
    assert bidding.exact(auction, bidding.revenue()) == 0


@pytest.mark.parametrize("valuation", VALUATIONS)
def test_utilities_and_revenue_add_up_to_welfare(mechanism, valuation):
    auction = replace(TABLES["end token"], mechanism=mechanism)
    parts = [bidding.utility(i, valuation) for i in range(N)] + [bidding.revenue()]
    found = bidding.exact(auction, bidding.combined(np.ones(N + 1), parts))
    welfare = bidding.exact(auction, bidding.welfare(valuation))
    np.testing.assert_allclose(float(found), float(welfare), rtol=RTOL)


def test_without_contexts_a_text_is_so_many_tokens(mechanism):
    auction = replace(instance(5, markov=False), mechanism=mechanism)
    one = replace(auction, table=bidding.Table(auction.table.log_probs, 1))
    every = bidding.stacked(OBJECTIVES.values())
    found, single = (bidding.exact(x, every).astype(float) for x in (auction, one))
    np.testing.assert_allclose(found, T * single, rtol=RTOL)


@pytest.mark.parametrize("name", TABLES)
def test_pay_your_bid_charges_the_bids_for_each_token(name):
    auction = TABLES[name]
    both = bidding.stacked([bidding.revenue(), bidding.length()])
    paid, tokens = bidding.exact(auction, both).astype(float)
    np.testing.assert_allclose(paid, auction.bids.sum() * tokens, rtol=RTOL)


def test_a_reward_counts_tokens(mechanism):
    """The expected count of a token is the sum of its marginal probabilities."""
    auction = replace(TABLES["Markov"], mechanism=mechanism)
    q = np.exp(bidding.enumerate_texts(auction).log_q)
    counts, marginal = 0, q[0]
    for _ in range(T):
        counts, marginal = counts + marginal[2], marginal @ q
    reward = bidding.text_reward(1, lambda tokens, mask: (tokens == 2).sum(1))
    nothing = bidding.text_reward(1, lambda tokens, mask: 0)
    found = bidding.exact(auction, bidding.combined([1, -1], [reward, nothing]))
    np.testing.assert_allclose(float(found), float(counts), rtol=RTOL)


def test_central_moments_of_a_length():
    """A text ends with a probability of 1/4 at each of 3 tokens."""
    table = bidding.Table(np.log(np.full((2, 4), 0.25)), 3, end_token=0)
    auction = bidding.Auction(MECHANISMS[0], table, np.ones(2), np.ones(2))
    chances, lengths = np.array([4, 3, 9]) / 16, np.arange(1, 4)
    found = np.array(bidding.central_moments(auction, bidding.length()), float)
    offset = lengths - chances @ lengths
    due = [chances @ offset**2, chances @ offset**4]
    np.testing.assert_allclose(found, due, rtol=RTOL)


SMOOTH = bidding.stacked(
    [
        bidding.utility(0, "forward_kl"),
        bidding.welfare("reverse_kl"),
        bidding.revenue(),
        bidding.text_reward(1, lambda tokens, mask: (tokens == 2).any(1)),
    ]
)


class TestGradients:
    """Differences of shorter steps agree, and Euler's identities hold."""

    @pytest.mark.parametrize("of", ["bids", "values", "influence", "temperature"])
    def test_steps(self, mechanism, of):
        if (mechanism.payment, of) == ("clarke", "influence"):
            pytest.skip("Clarke payments need an influence of 1")
        auction = replace(TABLES["end token"], mechanism=mechanism)
        found, size = bidding.gradient(auction, SMOOTH, of)
        again, _ = bidding.gradient(auction, SMOOTH, of, step=0.03)
        assert found.shape == (4, *np.shape(auction.number(of)))
        assert (np.abs(found - again) <= 1e-11 * size).all()

    @pytest.mark.parametrize("rule", [0.5, -1.0])
    def test_steps_in_the_order(self, rule):
        mechanism = bidding.Mechanism(rule, "myerson", 1.0, "forward_kl")
        auction = replace(TABLES["end token"], mechanism=mechanism)
        found, size = bidding.gradient(auction, SMOOTH, "order")
        again, _ = bidding.gradient(auction, SMOOTH, "order", step=0.03)
        assert (size > 1e-3).all()
        assert (np.abs(found - again) <= 1e-11 * size).all()

    def test_a_mixture_knows_no_currency(self, mechanism):
        """`q` is of degree 0 in all bids and payments of degree 1."""
        auction = replace(TABLES["end token"], mechanism=mechanism)
        pair = bidding.stacked([bidding.welfare("reverse_kl"), bidding.revenue()])
        found, size = bidding.gradient(auction, pair, "bids")
        expected = [0, float(bidding.exact(auction, pair)[1])]
        error = np.abs(found @ auction.bids - expected)
        assert (error <= 1e-11 * size @ auction.bids).all()

    def test_welfare_is_linear_in_values(self, mechanism):
        auction = replace(TABLES["Markov"], mechanism=mechanism)
        welfare = bidding.welfare("forward_kl")
        found, _ = bidding.gradient(auction, welfare, "values")
        worth = float(bidding.exact(auction, welfare))
        np.testing.assert_allclose(auction.values @ found, worth, rtol=RTOL)

    @pytest.mark.parametrize("why", ["one token", "no contexts"])
    def test_myopic_is_all_where_nothing_comes_later(self, mechanism, why):
        auction = replace(instance(5, markov=False), mechanism=mechanism)
        if why == "one token":
            table = bidding.Table(TABLES["Markov"].table.log_probs, 1)
            auction = replace(auction, table=table)
        utility = bidding.utility(1, "reverse_kl")
        found, size = bidding.gradient(auction, utility, "bids")
        myopic, _ = bidding.gradient(auction, utility, "bids", myopic=True)
        assert (np.abs(found - myopic) <= 1e-12 * size).all()

    def test_myopic_leaves_later_contexts_out(self, mechanism):
        auction = replace(TABLES["Markov"], mechanism=mechanism)
        utility = bidding.utility(1, "reverse_kl")
        found, size = bidding.gradient(auction, utility, "bids")
        myopic, _ = bidding.gradient(auction, utility, "bids", myopic=True)
        assert (np.abs(found - myopic) > 1e-4 * size).all()

    def test_at_a_bid_of_zero(self):
        auction = replace(TABLES["Markov"], bids=np.array([1.0, 0.7, 0.0]))
        found, size = bidding.gradient(auction, SMOOTH, "bids", one_sided=True)
        args = (auction, SMOOTH, "bids")
        again, _ = bidding.gradient(*args, one_sided=True, step=0.02)
        assert (np.abs(found - again) <= 1e-8 * size).all()

    @pytest.mark.parametrize("valuation", VALUATIONS)
    @pytest.mark.parametrize("rule", ["linear", "log_linear", 0.5, -1.0])
    def test_truth_is_stationary_under_myerson_payments(self, rule, valuation):
        """For many tokens, too, where agents have no contexts."""
        auction = instance(5, markov=False)
        auction = replace(
            auction,
            mechanism=bidding.Mechanism(rule, "myerson", 1.0, valuation),
            bids=auction.values,
        )
        found, size = bidding.gradient(auction, bidding.utility(1, valuation), "bids")
        kinks = valuation == "total_variation" and rule != "linear"
        assert abs(found[1]) <= (1e-6 if kinks else 1e-10) * size[1]
