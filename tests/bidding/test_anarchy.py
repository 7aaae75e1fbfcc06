"""What welfare is lost at some bids: closed answers, enumeration, and studies."""

import bidding_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bidding_cases import PLAIN, instance, name, under
from reference import bidding, contests
from scipy import stats

import tokenauction_jax as ta
from tokenauction_jax import measures

# One run of this file in a million alarms falsely: it has fewer scores than a hundred.
RATE = 1e-6 / 100
NORMAL = stats.norm.isf(RATE / 2)
KEY = 0
TV = ta.total_variation()
CONTEST = ta.Mechanism(ta.linear(), ta.pay_your_bid())
VALUED = [*cases.VALUATIONS]


def lost(mechanism, pool, bids, values, valuation=TV, num_tokens=1, **options):
    return ta.bidding.price_of_anarchy(
        *(options.pop("key", jax.random.key(KEY)), mechanism, pool, bids),
        values=values,
        valuation=valuation,
        num_tokens=num_tokens,
        **options,
    )


def assert_certain(found):
    assert found.ratio_error == found.loss_error == 0
    assert found.undefined == found.infinite == 0


class TestContests:
    """In money of their own token, agents bid until part of it goes to waste."""

    @pytest.mark.parametrize("values", [(1.0, 1.0), (3.0, 1.0), (0.2, 7.0)])
    def test_pair(self, values):
        """Costs of `2 w_1 w_2 / (w_1 + w_2)`, of which the lower value has to be."""
        pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
        found = lost(CONTEST, pool, contests.pair(values), values)
        low, high = sorted(values)
        np.testing.assert_allclose(found.ratio, 2 * high / (low + high), rtol=1e-6)
        cost = 2 * high * low / (low + high)
        np.testing.assert_allclose(found.welfare, -cost, rtol=1e-6)
        np.testing.assert_allclose(found.optimum, -low, rtol=1e-6)
        assert_certain(found)

    @pytest.mark.parametrize("values", [(3.0, 2.0, 1.5), (1.0, 3.0, 4.0, 2.5)])
    def test_many(self, values):
        """Those that stay out lose their whole value, in the optimum, too."""
        bids = contests.unequal(values)
        pool = ta.agents.tabular(jnp.log(jnp.eye(len(values))))
        found = lost(CONTEST, pool, bids, values)
        inside = np.array(values)[bids > 0]
        m = len(inside)
        cost = m * (m - 1) / (1 / inside).sum() + sum(values) - inside.sum()
        least = sum(values) - max(values)
        np.testing.assert_allclose(found.ratio, cost / least, rtol=1e-6)
        np.testing.assert_allclose(found.loss, cost - least, rtol=1e-5)

    def test_general_distributions(self):
        """Of two agents both costs are those of point masses times the distance."""
        log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 2))
        values = np.array([1.0, 2.5])
        bids = contests.general(values, log_probs)
        found = lost(CONTEST, ta.agents.tabular(log_probs), bids, values)
        np.testing.assert_allclose(found.ratio, 2 * 2.5 / 3.5, rtol=1e-5)
        distance = np.abs(np.exp(log_probs[0]) - np.exp(log_probs[1])).sum() / 2
        np.testing.assert_allclose(found.optimum, -distance, rtol=1e-5)


EFFICIENT = [
    (bidding.Mechanism("linear", "clarke"), "forward_kl"),
    (bidding.Mechanism("log_linear", "clarke"), "reverse_kl"),
]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("num_tokens", [1, 3])
@pytest.mark.parametrize(("mechanism", "valuation"), EFFICIENT, ids=name)
def test_rules_that_maximise_welfare_lose_nothing(mechanism, valuation, num_tokens):
    auction = under(instance(9, (3, 4, 4), num_tokens), mechanism)
    args = (cases.mechanism_of(mechanism), cases.pool_of(auction.table))
    options = (cases.VALUATIONS[valuation], num_tokens)
    found = lost(*args, auction.values, auction.values, *options, num_auctions=20)
    assert found.ratio == 1
    assert found.loss == 0
    assert_certain(found)
    # Under other bids something is lost.
    bids = auction.values * np.array([2.0, 1, 1])
    assert lost(*args, bids, auction.values, *options, num_auctions=20).ratio > 1.001


def test_agents_that_agree_lose_nothing():
    """Both costs are 0, and so is what is lost."""
    p = np.random.default_rng(0).dirichlet(np.ones(5))
    pool = ta.agents.tabular(np.log(np.stack([p, p, p])))
    for valuation in cases.VALUATIONS.values():
        found = lost(CONTEST, pool, [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], valuation)
        assert found.ratio == 1
        assert found.loss == 0
        assert_certain(found)


def test_agents_of_no_value_lose_nothing():
    pool = ta.agents.tabular(jnp.log(jnp.array([[0.5, 0.5, 0], [0, 0.3, 0.7]])))
    for valuation in cases.VALUATIONS.values():
        found = lost(CONTEST, pool, [1.0, 2.0], [0.0, 0.0], valuation)
        assert (found.ratio, found.loss, found.optimum) == (1, 0, 0)
        assert_certain(found)


MARKOV = under(instance(0, (3, 3, 3), 3, end_token=2, start=1), PLAIN[0])


@pytest.mark.sweep(1)
@pytest.mark.parametrize("valuation", VALUED)
def test_is_what_studies_measure(valuation):
    """Text by text, of the same auctions."""
    args = (CONTEST, cases.pool_of(MARKOV.table), MARKOV.bids, MARKOV.values)
    found = lost(*args, cases.VALUATIONS[valuation], 3, num_auctions=64)
    rows = (jnp.tile(jnp.asarray(x, jnp.float32), (64, 1)) for x in args[2:])
    run = jax.jit(
        lambda key, pool, bids, values: (
            measures.run_texts(
                *(key, CONTEST, pool, bids, values, 0),
                num_tokens=3,
                reference="uniform",
            ).measures
        )
    )
    seen = np.asarray(run(jax.random.key(KEY), args[1], *rows))
    keys = [column.key for column in measures.columns(3)]
    for measure, x in (
        ("optimum_shortfall", found.loss),
        ("welfare", found.welfare),
    ):
        own = seen[:, keys.index(f"{measure}/{valuation}")]
        np.testing.assert_allclose(x, own.mean(), rtol=1e-5)
    own = seen[:, keys.index(f"optimum_shortfall/{valuation}")]
    np.testing.assert_allclose(found.loss_error, own.std(ddof=1) / 8, rtol=1e-4)
    np.testing.assert_allclose(found.welfare + found.loss, found.optimum, rtol=1e-5)
    np.testing.assert_allclose(found.ratio, found.welfare / found.optimum, rtol=1e-5)


RUNS, AUCTIONS = 200, 200


@pytest.fixture(scope="module")
def runs():
    """Many runs, to hold errors against their spread."""
    pool = cases.pool_of(MARKOV.table)

    @jax.jit
    @jax.vmap
    def run(key):
        args = (CONTEST, pool, MARKOV.bids, MARKOV.values, TV, 3)
        return lost(*args, key=key, num_auctions=AUCTIONS)

    return run(jax.random.split(jax.random.key(1), RUNS))


@pytest.mark.parametrize("which", ["ratio", "loss"])
def test_errors_are_the_spread(runs, which):
    found = np.asarray(getattr(runs, which), float)
    stated = np.square(getattr(runs, f"{which}_error")).mean()
    score = (RUNS - 1) * found.var(ddof=1) / stated
    assert stats.chi2.ppf(RATE / 2, RUNS - 1) < score
    assert score < stats.chi2.isf(RATE / 2, RUNS - 1)


def test_means_are_those_of_all_texts(runs):
    """Along the path of the auction, where the optimum is of each token alone."""

    @ta.record
    class Optimum(ta.bidding.Objective):
        def per_token(self, outcome):
            return ta.optimal_welfare(TV, outcome.values, outcome.log_probs)

    args = (CONTEST, cases.pool_of(MARKOV.table), MARKOV.bids)
    options = {"values": MARKOV.values, "num_tokens": 3}
    had, most = (
        float(ta.bidding.exact(*args, objective, **options))
        for objective in (ta.bidding.welfare(TV), Optimum())
    )
    dues = {"loss": most - had, "welfare": had, "optimum": most}
    for which, due in dues.items():
        found = np.asarray(getattr(runs, which), float)
        error = found.std(ddof=1) / np.sqrt(RUNS)
        assert abs(found.mean() - due) <= NORMAL * error + 1e-5
    # What the delta method leaves out is of the order of one over the texts.
    ratio, error = np.asarray(runs.ratio, float), np.asarray(runs.ratio_error)
    slack = NORMAL * error.mean() / np.sqrt(RUNS) + 1 / AUCTIONS
    assert abs(ratio.mean() - had / most) <= slack


def test_infinite_costs_are_counted():
    """Under forward KL an agent that is left out is infinitely unhappy."""
    pool = ta.agents.tabular(jnp.log(jnp.eye(2)))
    found = lost(CONTEST, pool, [0.0, 1.0], [1.0, 1.0], ta.forward_kl())
    assert (found.ratio, found.loss, found.infinite) == (jnp.inf, jnp.inf, 1)
    np.testing.assert_allclose(found.optimum, -2 * np.log(2), rtol=1e-6)
    # Under reverse KL there is no outcome that both can stand.
    found = lost(CONTEST, pool, [0.5, 1.0], [1.0, 1.0], ta.reverse_kl())
    assert jnp.isnan(found.ratio)
    assert found.infinite == 1
    assert found.optimum == -jnp.inf


def test_undefined_auctions_are_counted():
    auction = cases.apart(PLAIN[2])
    args = (cases.mechanism_of(auction.mechanism), cases.pool_of(auction.table))
    found = lost(*args, auction.bids, auction.values, TV, 4, num_auctions=100)
    assert 20 < found.undefined < 80
    assert jnp.isfinite(found.ratio)


def test_refusals():
    pool = ta.agents.tabular(jnp.log(jnp.eye(2)))

    @ta.record
    class Regret:
        name = "regret"

        def value(self, log_q, log_p):
            return -jnp.abs(jnp.exp(log_q) - jnp.exp(log_p)).max()

    with pytest.raises(ValueError, match=r"optimum is known for .* not for 'regret'"):
        lost(CONTEST, pool, [1.0, 1.0], [1.0, 1.0], Regret())
    with pytest.raises(ValueError, match="valuation must follow Valuation"):
        lost(CONTEST, pool, [1.0, 1.0], [1.0, 1.0], "total_variation")
    with pytest.raises(ValueError, match="need num_auctions"):
        lost(CONTEST, pool, [1.0, 1.0], [1.0, 1.0], num_tokens=2)


@pytest.mark.slow
def test_constant_policies_are_bids():
    pool = ta.agents.markov(jax.random.key(1), 2, 3, 1.0)
    bidders = ta.Bidders([ta.bidding.constant(1.0), ta.bidding.constant(2.0)])
    found, wanted = (
        lost(CONTEST, pool, bids, [2.0, 1.0], num_tokens=2, num_auctions=20)
        for bids in (bidders, [1.0, 2.0])
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, wanted
    )
