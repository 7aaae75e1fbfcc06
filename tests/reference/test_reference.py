"""The reference formulas against the definitions they stand for."""

import numpy as np
import pytest
from scipy import integrate

from reference import aggregation, definitions, instances, payments, valuations

INFLUENCES = (0.5, 1.0, 2.0, 3.7)


def auctions(count, agents=3, vocabulary=7, **kwargs):
    batch = instances.batch(7, count, agents, vocabulary, **kwargs)
    return zip(batch.bids, batch.log_probs, batch.agent, batch.token, strict=True)


def phi(x):
    return np.log1p(x) - x / (1 + x)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_second_price_is_the_integral_over_critical_bids(influence):
    # The definition subtracts q_s - r: lambda must stay above 1e-10 or so.
    decades = {0.5: 8, 1.0: 8, 2.0: 4, 3.7: 2}[influence]
    for bids, log_probs, agent, token in auctions(6, decades=decades):
        pays, _ = payments.second_price(bids, log_probs, influence)
        given, _ = payments.second_price_given(bids, log_probs, token, influence)
        args = (bids, log_probs, agent, influence)
        expected = definitions.second_price(*args)
        np.testing.assert_allclose(float(pays[agent]), expected, rtol=1e-6, atol=1e-22)
        expected = definitions.second_price(*args, token=token)
        np.testing.assert_allclose(float(given[agent]), expected, rtol=1e-6, atol=1e-22)


def test_second_price_has_the_closed_form_at_influence_one():
    ratio = 10.0 ** np.arange(-3, 9)
    np.testing.assert_allclose(
        payments.mean_critical_bid(ratio * 2.5, 2.5).astype(float),
        2.5 * phi(ratio),
        rtol=1e-10,
    )
    tiny = 10.0 ** np.arange(-8, -3)
    series = tiny**2 / 2 - 2 * tiny**3 / 3 + 3 * tiny**4 / 4
    price = payments.mean_critical_bid(tiny, 1.0).astype(float)
    np.testing.assert_allclose(price, series, rtol=1e-10)


def test_the_stable_coupling_has_the_stated_payment_law():
    """Draws the coupling itself and compares payments with `payment_cdf`."""
    rng = np.random.default_rng(0)
    bids = np.array([1.5, 0.7, 2.0])
    log_probs = np.log(rng.dirichlet(np.ones(4), size=3))
    p = np.exp(log_probs[0])
    r = np.exp(aggregation.linear(aggregation.without(bids, 0), log_probs))
    r = r.astype(float)
    share, others, draws = bids[0] / bids.sum(), bids[1:].sum(), 200_000
    gain = np.maximum(p - r, 0)
    token = rng.choice(4, size=draws, p=r / r.sum())
    with np.errstate(divide="ignore"):
        switch = rng.uniform(size=draws) / np.maximum(1 - p[token] / r[token], 0)
    moved = switch <= share
    token = np.where(moved, rng.choice(4, size=draws, p=gain / gain.sum()), token)
    with np.errstate(invalid="ignore"):
        paid = np.where(moved, others * switch / (1 - switch), 0.0)
    q = np.exp(aggregation.linear(bids, log_probs)).astype(float)
    frequency = np.bincount(token, minlength=4) / draws
    np.testing.assert_allclose(frequency, q, atol=6 * np.sqrt(0.25 / draws))
    for y in range(4):
        sample = np.sort(paid[token == y])
        law = payments.payment_cdf(sample, bids, log_probs, 0, y).astype(float)
        rank = np.searchsorted(sample, sample, side="right") / sample.size
        # Dvoretzky-Kiefer-Wolfowitz at a false-alarm rate of 1e-9.
        assert np.abs(rank - law).max() < np.sqrt(np.log(2e9) / (2 * sample.size))


@pytest.mark.parametrize("rule", ["linear", "log_linear"])
def test_clarke_is_the_loss_of_the_others(rule):
    formula = getattr(payments, f"clarke_{rule}")
    for bids, log_probs, agent, _ in auctions(40):
        expected = definitions.clarke(bids, log_probs, agent, rule)
        pays, scales = formula(bids, log_probs)
        tolerance = 1e-9 * expected + 1e-14 * float(scales[agent])
        assert abs(float(pays[agent]) - expected) <= tolerance


@pytest.mark.parametrize(
    ("rule", "valuation"),
    [
        ("linear", "total_variation"),
        ("linear", "forward_kl"),
        ("log_linear", "reverse_kl"),
        (1.0, "total_variation"),
        (1.0, "forward_kl"),
        (0.0, "reverse_kl"),
    ],
)
def test_myerson_identity(rule, valuation):
    """Orders 1 and 0 are `linear` and `log_linear`."""
    for bids, log_probs, agent, _ in auctions(12, decades=3):
        if np.delete(bids, agent).sum() == 0:
            continue
        if valuation == "reverse_kl":  # without the price of a veto
            log_probs = np.maximum(log_probs, -30.0)
        found = definitions.myerson(bids, log_probs, agent, rule, valuation)
        if valuation == "total_variation":
            formula = payments.second_price
        elif valuation == "forward_kl":
            formula = payments.clarke_linear
        else:
            formula = payments.clarke_log_linear
        expected = float(formula(bids, log_probs)[0][agent])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("influence", [0.5, 2.0, 3.7])
def test_myerson_follows_the_influence(influence):
    for bids, log_probs, agent, _ in auctions(12, decades=3):
        if np.delete(bids, agent).sum() == 0:
            continue
        args = (bids, log_probs, agent, "linear", "total_variation", influence)
        expected = payments.second_price(bids, log_probs, influence)[0][agent]
        found = definitions.myerson(*args)
        np.testing.assert_allclose(found, float(expected), rtol=1e-9, atol=1e-15)


def test_myerson_by_another_quadrature():
    """Where `q` crosses `p` the total variation has kinks."""
    rng = np.random.default_rng(0)
    for order in (-1.0, 0.0, 0.5):
        log_probs = np.log(rng.dirichlet(np.ones(4), 3))
        args = (log_probs, 0, order, "total_variation")

        def x(own, args=args):
            return float(definitions.value(np.array([own, 0.7, 1.1]), *args))

        area, _ = integrate.quad(x, 0, 2, epsabs=1e-10, limit=2000)
        found = definitions.myerson(np.array([2.0, 0.7, 1.1]), *args)
        np.testing.assert_allclose(found, 2 * x(2.0) - area, rtol=1e-5)


def test_the_clarke_price_of_a_veto_does_not_vanish_with_the_bid():
    log_probs = np.log(np.array([[0.5, 0.5, 1e-300], [0.2, 0.3, 0.5]]))
    log_probs[0, 2] = -np.inf
    pays, _ = payments.clarke_log_linear(np.array([1e-6, 2.0]), log_probs)
    np.testing.assert_allclose(float(pays[0]), -2.0 * np.log(0.5), rtol=1e-5)
    found = definitions.myerson(
        np.array([0.5, 2.0]), log_probs, 0, "log_linear", "reverse_kl"
    )
    pays, _ = payments.clarke_log_linear(np.array([0.5, 2.0]), log_probs)
    np.testing.assert_allclose(found, float(pays[0]) + 2 * np.log(0.5), rtol=1e-6)


def test_golden_example():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]])
    q = np.exp(aggregation.linear([1, 2, 2], log_probs)).astype(float)
    np.testing.assert_allclose(q, [0.56, 0.44], rtol=1e-15)
    assert not np.isfinite(aggregation.log_linear([1, 2, 2], log_probs)).any()


def test_log_linear_is_not_monotone():
    """The first token of the published counterexample overshoots both agents."""
    log_probs = np.log([[0.058137, 0.941852, 1.1e-5], [0.128133, 1.4e-5, 0.871853]])
    bids = [[share, 1 - share] for share in np.linspace(0, 1, 101)]
    first = np.exp([aggregation.log_linear(b, log_probs)[0] for b in bids])
    assert first.max() > 0.2


@pytest.mark.parametrize("order", [-1e-6, 1e-6])
def test_power_means_are_continuous_at_order_zero(order):
    for bids, log_probs, _, _ in auctions(10):
        log_probs = np.maximum(log_probs, -20.0)
        near = aggregation.aggregate(bids, log_probs, order)
        limit = aggregation.log_linear(bids, log_probs)
        np.testing.assert_allclose(near.astype(float), limit.astype(float), atol=1e-3)


def test_derivative():
    found = definitions.derivative(np.exp, 0.3, 1e-2)
    np.testing.assert_allclose(float(found), np.exp(0.3), rtol=1e-14)
    found = definitions.derivative(np.exp, 0.0, 1e-2, one_sided=True)
    np.testing.assert_allclose(float(found), 1.0, rtol=1e-10)


def test_valuations():
    log_p, log_q = np.log([0.8, 0.2]), np.log([0.5, 0.5])
    assert float(valuations.total_variation(log_q, log_p)) == pytest.approx(-0.3)
    kl = 0.8 * np.log(1.6) + 0.2 * np.log(0.4)
    assert float(valuations.forward_kl(log_q, log_p)) == pytest.approx(-kl)
    kl = 0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    assert float(valuations.reverse_kl(log_q, log_p)) == pytest.approx(-kl)
    assert float(valuations.reverse_kl(log_q, [0.0, -np.inf])) == -np.inf
    assert float(valuations.reverse_kl([0.0, -np.inf], [0.0, -np.inf])) == 0
    assert float(valuations.entropy(log_q)) == pytest.approx(np.log(2))
