"""The segment auction against its definition, and what it promises advertisers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import segments as reference
from reference.compare import assert_within, gradients

import tokenauction_jax as ta
from tokenauction_jax.mechanism import keys
from tokenauction_jax.replies import exponential_race

PLACES = (1, 2, 3)


def ads(seed, count, span=2.0):
    """Bids and relevance, whose products are up to `span` powers of ten apart."""
    rng = np.random.default_rng([seed, count])
    bids = 10 ** rng.uniform(-span / 2, span / 2, count)
    return bids.astype(np.float32), rng.uniform(0.05, 1, count).astype(np.float32)


@jax.jit
def every_method(rule, bids, relevance):
    return (
        jnp.exp(rule.log_prob(bids, relevance)),
        rule.win_prob(bids, relevance),
        rule.expected(bids, relevance),
        rule.conditional(bids, relevance),
    )


def new_keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@jax.jit
def allocate_many(rule, many, bids, relevance):
    return jax.vmap(rule.allocate, (0, None, None))(many, bids, relevance)


def check_against_definition(bids, relevance, places):
    first, wins, paid, price = every_method(ta.replies.segment(places), bids, relevance)
    scores = np.asarray(bids, np.longdouble) * relevance
    law, _ = reference.win_probs(scores, 1)
    assert_within(first, law, 1e-5 * law + 1e-35)
    law, _ = reference.win_probs(scores, places)
    assert_within(wins, law, 1e-5 * law + 1e-35)
    mean = reference.expected(bids, relevance, places)
    assert_within(paid, mean, 1e-5 * mean + 1e-35)
    given = np.divide(mean, law, out=np.zeros_like(mean), where=law > 0)
    likely = law > 1e-30
    np.testing.assert_allclose(
        np.asarray(price, float)[likely], given[likely].astype(float), rtol=2e-5
    )


@pytest.mark.sweep(4)
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_laws_and_prices(count, places):
    for seed in range(4):
        check_against_definition(*ads(seed, count), places)


@pytest.mark.parametrize("places", PLACES)
def test_extreme_ratios(places):
    """Scores of 1e-8 to 1e8 and of 0."""
    for bids in ([1e-8, 1, 1e8, 1e4], [1e8, 1e-8, 1e-8, 0], [1e8, 1e8, 1e-8, 2e-8]):
        bids = np.array(bids, np.float32)
        check_against_definition(bids, np.ones(4, np.float32), places)


@pytest.mark.slow
@pytest.mark.parametrize("places", [1, 2, 3, 4])
@pytest.mark.parametrize("span", [8.0, 16.0, 24.0])
def test_extreme_ratios_at_random(span, places):
    for seed in range(20):
        check_against_definition(*ads(seed, 5, span), places)


@jax.jit
def token_auction(bids):
    """Of point masses: the law, mean payments, and prices of a win, `(n,)` each."""
    rule, masses = ta.linear(), jnp.log(jnp.eye(bids.size))
    payment = ta.second_price(rule)
    given = jax.vmap(payment.conditional, (None, None, 0))
    return (
        jnp.exp(rule.log_prob(bids, masses)),
        payment.expected(bids, masses),
        jnp.diag(given(bids, masses, jnp.arange(bids.size))),
        # As the quadrature for several places has them.
        exponential_race.mean_threshold(bids, 1),
    )


@pytest.mark.parametrize("span", [1.0, 16.0])
def test_one_place_is_the_token_auction_of_point_masses(span):
    for seed in range(5):
        bids, relevance = ads(seed, 4, span)
        first, wins, paid, price = every_method(ta.replies.segment(), bids, relevance)
        law, *amounts = token_auction(bids * relevance)
        np.testing.assert_allclose(first, law, rtol=1e-5)
        np.testing.assert_allclose(wins, law, rtol=1e-5)
        mean, given, integral = (np.asarray(x) / relevance for x in amounts)
        np.testing.assert_allclose(paid, mean, rtol=1e-5)
        np.testing.assert_allclose(price, given, rtol=1e-5)
        np.testing.assert_allclose(paid, integral, rtol=1e-5)


@pytest.mark.parametrize("places", PLACES)
def test_draws(places):
    """100,000 draws: 12 means beyond 5.5 standard errors have odds of 5e-7."""
    bids, relevance = ads(1, 4)
    rule, draws = ta.replies.segment(places), 100_000
    many = new_keys(draws, places)
    winners, prices = allocate_many(rule, many, bids, relevance)
    first, wins, paid, _ = (
        np.asarray(x, float) for x in every_method(rule, bids, relevance)
    )
    placed = np.asarray(winners)[:, :, None] == np.arange(4)
    for drawn, law in ((placed[:, 0], first), (placed.any(1), wins), (prices, paid)):
        drawn = np.asarray(drawn, float)
        error = drawn.std(0) / np.sqrt(draws) + 1e-12
        assert (np.abs(drawn.mean(0) - law) < 5.5 * error).all()
    assert placed.any(1)[np.asarray(prices) > 0].all()
    assert (np.asarray(prices) <= bids).all()
    # Whole orders: 24 at most beyond 5.5 deviations, odds of 1e-6.
    orders, chances = reference.orders(bids * relevance, places)
    codes = np.asarray(winners) @ 4 ** np.arange(places)
    for order, chance in zip(orders, chances.astype(float), strict=True):
        count = (codes == np.array(order) @ 4 ** np.arange(places)).sum()
        deviation = np.sqrt(draws * chance * (1 - chance))
        assert abs(count - draws * chance) < 5.5 * deviation


def test_a_price_is_the_least_bid_that_wins():
    """With the noise held fixed: a little more wins, a little less does not."""
    bids, relevance = ads(2, 4)
    sample = jax.jit(
        lambda rule, bids: jax.vmap(rule.sample, (0, 0, None))(
            new_keys(200), bids, relevance
        )
    )
    for places in PLACES:
        rule = ta.replies.segment(places)
        winners, prices = allocate_many(rule, new_keys(200), bids, relevance)
        for factor, agent in itertools.product((1.001, 0.999), range(4)):
            paid = np.asarray(prices)[:, agent]
            moved = np.tile(bids, (200, 1))
            moved[:, agent] = np.where(paid > 0, factor * paid, bids[agent])
            has_place = (np.asarray(sample(rule, moved)) == agent).any(1)
            assert (has_place[paid > 0] == (factor > 1)).all()
            had = (np.asarray(winners) == agent).any(1)
            assert (has_place == had)[paid == 0].all()


def test_rare_winners():
    """An ad of one score in 200,000 of 4e6 draws; 5.5 deviations have odds of 4e-8."""
    scores = jnp.array([5e-6, 1.0])
    rule = ta.replies.segment()

    def wins(key):
        many = jax.random.split(key, 100_000)
        return (jax.vmap(rule.sample, (0, None, None))(many, scores, jnp.ones(2))) == 0

    batches = jax.random.split(jax.random.key(3), 40)
    count = int(jax.jit(lambda x: jax.lax.map(wins, x))(batches).sum())
    assert abs(count - 20) < 5.5 * np.sqrt(20)


def test_clocks_reach_both_tails(monkeypatch):
    """The rarest words of 32 bits: near 2^-65, and as far above."""
    for word, expected in ((0, 2.0**-65), (1, 65 * np.log(2))):
        words = jnp.full(1, word, jnp.uint32), jnp.zeros(1, jnp.uint32)
        monkeypatch.setattr(keys, "random_words", lambda key, size, w=words: w)
        clock = exponential_race.draw_clocks(jax.random.key(0), jnp.ones(1))
        np.testing.assert_allclose(clock, [expected], rtol=1e-5)


@pytest.mark.parametrize("places", PLACES)
def test_truth_is_dominant_and_free_of_risk(places):
    """10,000 misreports of 4 agents, from 1e-4 to 1e4 times their values."""
    values, relevance = (jnp.asarray(x) for x in ads(3, 4))
    rule = ta.replies.segment(places)
    factors = jnp.asarray(10 ** np.linspace(-4, 4, 2_500), jnp.float32)

    @jax.jit
    def utilities(agent):
        def of_report(report):
            bids = values.at[agent].set(report)
            worth = values[agent] * rule.win_prob(bids, relevance)[agent]
            return relevance[agent] * (worth - rule.expected(bids, relevance)[agent])

        reports = values[agent] * jnp.append(factors, 1)
        return jax.lax.map(of_report, reports, batch_size=500)

    for agent in range(4):
        found = np.asarray(utilities(agent), float)
        worth = values[agent] * relevance[agent]
        assert found[-1] > 0
        assert (found <= found[-1] + 1e-6 * worth).all()
        # Silence is worth next to nothing.
        assert found[0] < 0.9 * found[-1]


def test_who_cannot_win_pays_nothing():
    bids = jnp.array([0.0, 1.0, 2.0, 3.0])
    relevance = jnp.array([0.5, 0.0, 0.5, 0.1])
    many = new_keys(100)
    for places in PLACES:
        rule = ta.replies.segment(places)
        winners, prices = allocate_many(rule, many, bids, relevance)
        winners = np.asarray(winners)
        assert not np.isin(winners, (0, 1)).any()
        assert (np.asarray(prices)[:, :2] == 0).all()
        # Two can win; places beyond stay empty, and are free.
        assert ((winners >= 0).sum(1) == min(places, 2)).all()
        assert (winners[:, 2:] == -1).all()
        found = every_method(rule, bids, relevance)
        assert all((np.asarray(x)[:2] == 0).all() for x in found)
        if places > 1:
            np.testing.assert_allclose(found[1], [0, 0, 1, 1], rtol=1e-6)
            np.testing.assert_array_equal(found[2], 0)
            assert (np.asarray(prices) == 0).all()


@pytest.mark.parametrize("places", [1, 2])
def test_transformations(places):
    rule = ta.replies.segment(places)
    bids, relevance = (np.stack(x) for x in zip(ads(0, 3), ads(1, 3), strict=True))
    together = jax.vmap(every_method, (None, 0, 0))(rule, bids, relevance)
    drawn = jax.jit(jax.vmap(rule.allocate))(new_keys(2), bids, relevance)
    for k in range(2):
        alone = every_method(rule, bids[k], relevance[k])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_allclose(x[k], y, rtol=1e-6)
        winners, prices = rule.allocate(new_keys(2)[k], bids[k], relevance[k])
        assert winners.dtype == jnp.int32
        np.testing.assert_array_equal(drawn.winners[k], winners)
        np.testing.assert_allclose(drawn.prices[k], prices, rtol=1e-6)
        again = rule.sample(new_keys(2)[k], bids[k], relevance[k])
        np.testing.assert_array_equal(again, winners)
        again = rule.realized(new_keys(2)[k], bids[k], relevance[k])
        np.testing.assert_array_equal(again, prices)


@pytest.mark.parametrize("places", [1, 2])
def test_derivatives(places):
    bids, relevance = (x.astype(float) for x in ads(4, 3))
    weights = np.array([1.0, -0.5, 2.0])
    rule = ta.replies.segment(places)

    def paid(bids, relevance):
        return rule.expected(bids, relevance) @ weights

    def placed(bids, relevance):
        return rule.win_prob(bids, relevance) @ weights

    def chances(bids, relevance):
        return reference.win_probs(bids * relevance, places)[0] @ weights

    def means(bids, relevance):
        return reference.expected(bids, relevance, places) @ weights

    def central(along, x, step):
        step *= x
        return (along(x + step) - along(x - step)) / (2 * step)

    for ours, theirs in ((paid, means), (placed, chances)):
        found = jax.jit(jax.grad(ours, (0, 1)))(
            *(jnp.asarray(x, jnp.float32) for x in (bids, relevance))
        )
        expected = gradients(theirs, central, bids, relevance, step=1e-5)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    # From a bid of 0 the chance of a place rises at once, and payments do not.
    bids[0] = 0
    slope = jax.jit(jax.jacfwd(rule.win_prob))(
        *(jnp.asarray(x, jnp.float32) for x in (bids, relevance))
    )[:, 0]
    raised = np.array([1e-7, *bids[1:]], np.longdouble)
    change = reference.win_probs(raised * relevance, places)[0]
    change = change - reference.win_probs(bids * relevance, places)[0]
    np.testing.assert_allclose(slope, (change / 1e-7).astype(float), rtol=1e-5)
    slope = jax.jit(jax.jacfwd(rule.expected))(
        *(jnp.asarray(x, jnp.float32) for x in (bids, relevance))
    )[:, 0]
    assert np.isfinite(slope).all()
    assert slope[0] == 0


def test_derivative_of_a_drawn_price():
    """It moves with the bid of the ad that came next, and with no other."""
    bids, relevance = (jnp.asarray(x) for x in ads(5, 3))
    rule = ta.replies.segment()
    winners, prices = rule.allocate(jax.random.key(4), bids, relevance)
    slopes = jax.jacobian(
        lambda bids: rule.realized(jax.random.key(4), bids, relevance)
    )(bids)
    row = np.asarray(slopes)[winners[0]]
    assert (np.delete(slopes, winners[0], 0) == 0).all()
    assert (row != 0).sum() == 1
    after = int(np.argmax(row != 0))
    assert after != winners[0]
    np.testing.assert_allclose(row[after], prices[winners[0]] / bids[after], rtol=1e-5)


def test_float64():
    with jax.enable_x64(True):
        for places in (1, 2):
            bids, relevance = (x.astype(float) for x in ads(6, 5, 16.0))
            rule = ta.replies.segment(places)
            _, wins, found, _ = every_method(rule, bids, relevance)
            assert wins.dtype == found.dtype == jnp.float64
            law, _ = reference.win_probs(bids.astype(np.longdouble) * relevance, places)
            np.testing.assert_allclose(wins, law.astype(float), rtol=2e-7)
            mean = reference.expected(bids, relevance, places).astype(float)
            np.testing.assert_allclose(found, mean, rtol=2e-7)
            prices = allocate_many(rule, new_keys(2), bids, relevance).prices
            assert prices.dtype == jnp.float64


def test_shares_maximise_logarithmic_social_welfare():
    values, relevance = (jnp.asarray(x) for x in ads(7, 4))
    shares = jnp.exp(ta.replies.segment().log_prob(values, relevance))
    rows = jnp.tile(shares, (1_000, 1))
    welfare = ta.replies.log_social_welfare

    # On the simplex all partial derivatives are alike at the optimum.
    slopes = jax.grad(welfare, 2)(values, relevance, shares)
    np.testing.assert_allclose(slopes, slopes.mean(), rtol=1e-5)
    rng = np.random.default_rng(0)
    others = jnp.asarray(rng.dirichlet(np.ones(4), 1_000), jnp.float32)
    mixed = rows + 0.05 * (others - rows)
    for laws in (others, mixed):
        found = jax.vmap(welfare, (None, None, 0))(values, relevance, laws)
        assert (found <= welfare(values, relevance, shares) + 1e-5).all()


def test_welfare():
    values, relevance = np.array([2.0, 1.0, 0.0]), np.array([0.5, 0.25, 1.0])
    shares = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.75, 0.25, 0.0]])
    many = np.tile(values, (3, 1)), np.tile(relevance, (3, 1)), shares
    logs = ta.replies.log_social_welfare(*many)
    expected = (
        np.log(0.5) + 0.25 * np.log(0.25),
        -np.inf,
        np.log(0.75) + np.log(0.25) / 4,
    )
    np.testing.assert_allclose(logs, expected, rtol=1e-6)
    found = ta.replies.social_welfare(*many)
    np.testing.assert_allclose(found, [0.5625, 1.0, 0.8125], rtol=1e-6)
    found = ta.replies.minimum_social_welfare(*many)
    np.testing.assert_allclose(found, [0, 0, 0], atol=0)
    two = [x[:2] for x in (values, relevance, shares[2])]
    assert float(ta.replies.minimum_social_welfare(*two)) == 0.0625
    slopes = jax.grad(ta.replies.log_social_welfare, 2)(
        *map(jnp.asarray, (values, relevance, shares[2]))
    )
    assert np.isfinite(slopes).all()
    with pytest.raises(ValueError, match="shares has shape"):
        ta.replies.social_welfare(values, relevance, shares)
    with pytest.raises(ValueError, match="relevance has shape"):
        ta.replies.social_welfare(values, relevance[:2], shares[0])


@pytest.mark.parametrize(
    ("bids", "relevance", "message"),
    [
        ([1.0, 2.0], [1.0], "relevance has shape"),
        ([[1.0, 2.0]], [1.0, 1.0], "bids has shape"),
        ([], [], "at least one ad"),
        ([1.0, -2.0], [1.0, 1.0], "bids must be finite and not negative, got -2"),
        ([1.0, np.nan], [1.0, 1.0], "bids must be finite and not negative"),
        ([1.0, 2.0], [1.0, -0.5], r"relevance must be .*, got -0.5 at \[1\]"),
        ([1.0, 2.0], [1.0, np.inf], "relevance must be finite and not negative"),
        ([1.0, 0.0], [0.0, 1.0], "must have a positive sum"),
        ([1e-20, 1.0], [1e-20, 1.0], r"bids \* relevance must be 0 or from 1e-30"),
        ([1e20, 1.0], [1e20, 1.0], r"bids \* relevance must be"),
    ],
)
def test_refusals(bids, relevance, message):
    bids, relevance = np.array(bids), np.array(relevance)
    for places in (1, 2):
        rule = ta.replies.segment(places)
        with pytest.raises(ValueError, match=message):
            rule.expected(bids, relevance)
        with pytest.raises(ValueError, match=message):
            rule.allocate(jax.random.key(0), bids, relevance)


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize(
    ("bids", "relevance"),
    [
        ([1.0, -2.0], [1.0, 1.0]),
        ([1.0, np.nan], [1.0, 1.0]),
        ([1.0, 2.0], [-1.0, 1.0]),
        ([1.0, 2.0], [1.0, np.inf]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([1e20, 1.0], [1e20, 1.0]),
    ],
)
def test_nobody_wins_what_is_undefined(bids, relevance, places):
    rule = ta.replies.segment(places)
    bids, relevance = np.array(bids, np.float32), np.array(relevance, np.float32)
    first, wins, paid, price = every_method(rule, bids, relevance)
    assert (first == 0).all()
    assert (wins == 0).all()
    assert np.isnan(paid).all()
    assert np.isnan(price).all()
    many = new_keys(2)
    winners, prices = allocate_many(rule, many, bids, relevance)
    assert (winners == -1).all()
    assert np.isnan(prices).all()


@pytest.mark.parametrize("places", [0, -1, 1.5, True, "2"])
def test_places_are_counted(places):
    with pytest.raises(ValueError, match="num_ads must be an integer of at least 1"):
        ta.replies.segment(places)


def test_more_places_never_hurt():
    bids, relevance = ads(8, 4)
    found = [
        every_method(ta.replies.segment(places), bids, relevance)
        for places in range(1, 5)
    ]
    for fewer, more in itertools.pairwise(found):
        assert (np.asarray(more[1]) >= np.asarray(fewer[1])).all()
        assert (np.asarray(more[3]) <= np.asarray(fewer[3])).all()
