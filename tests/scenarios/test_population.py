import numpy as np
import pytest
from scipy import stats

from tokenauction_jax.scenarios import kinds, population
from tokenauction_jax.scenarios.settings import Setting
from tokenauction_jax.scenarios.values import draw_values, make_bids


def values(kind, num_agents=2, first=0, size=4000, seed=0):
    return draw_values(kind, seed, num_agents, first, size)


DISTRIBUTIONS = {
    "uniform": (kinds.UniformValues(low=1.0, high=3.0), stats.uniform(1, 2)),
    "log_normal": (
        kinds.LogNormalValues(median=2.0, sigma=0.7),
        stats.lognorm(0.7, scale=2),
    ),
    "gamma": (kinds.GammaValues(mean=3.0, shape=2.0), stats.gamma(2, scale=1.5)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_values_have_their_law_and_correlation(name, correlation):
    kind, law = DISTRIBUTIONS[name]
    kind = type(kind)(**vars(kind) | {"correlation": correlation})
    drawn = values(kind)
    # False alarms: 1e-4 for each of four agents, five standard errors for the ranks.
    for agent in range(2):
        assert stats.kstest(drawn[:, agent], law.cdf).pvalue > 1e-4
    rank = stats.spearmanr(drawn[:, 0], drawn[:, 1]).statistic
    expected = 6 / np.pi * np.arcsin(correlation / 2)
    assert abs(rank - expected) < 5 / np.sqrt(4000)


def test_values_belong_to_the_auction_and_the_agent():
    kind = kinds.LogNormalValues()
    whole = values(kind, size=50)
    np.testing.assert_array_equal(values(kind, first=20, size=10), whole[20:30])
    np.testing.assert_array_equal(values(kind, num_agents=4, size=50)[:, :2], whole)
    assert (values(kind, size=50, seed=1) != whole).all()


def test_fixed_and_shared_values():
    assert values(kinds.FixedValues(amounts=2.0), size=2).tolist() == [
        [2, 2],
        [2, 2],
    ]
    assert values(kinds.FixedValues(amounts=(1.0, 3.0)), size=1).tolist() == [[1, 3]]
    shared = values(kinds.SharedValues(0.5, total=4.0), num_agents=3, size=1)
    assert shared.tolist() == [[2, 1, 1]]


def test_bids():
    drawn = np.array([[1.0, 2.0, 4.0]], np.float32)

    def bids(kind):
        return make_bids(kind, drawn).tolist()

    assert bids(kinds.TruthfulBids()) == [[1, 2, 4]]
    assert bids(kinds.ShadedBids(factor=0.5)) == [[0.5, 1, 2]]
    assert bids(kinds.ShadedBids(factor=3.0, agents=(1,))) == [[1, 6, 4]]
    assert bids(kinds.FixedBids(amounts=(3.0, 2.0, 1.0))) == [[3, 2, 1]]


def test_cells_with_the_same_agents_share_their_pool():
    cells = [Setting(seed=0), Setting(seed=1), Setting(kinds.ZipfAgents())]
    built = population.build(cells)
    assert built[0].pool is built[1].pool
    assert built[0].pool is not built[2].pool


def test_a_reference_prompt_adds_a_model_that_is_no_bidder():
    agents = kinds.ScenarioAgents("hawaii", reference_prompt="Write. {query}")
    (built,) = population.build([Setting(agents, num_tokens=8)])
    assert built.num_agents == 2
    assert built.pool.num_agents == 3
    assert built.has_reference
    assert built.agent_names == ["Alpha Airlines", "Beta Resort"]
