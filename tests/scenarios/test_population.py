import json

import numpy as np
import pytest
from scipy import stats
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.scenarios import kinds, population
from tokenauction_jax.scenarios.scenario import ScenarioError
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


TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }} {% endfor %}{{ x }}{{ y }}"
)
CHATS = """
query = "sea"
model = "MODEL"
chat_template_kwargs = { x = 1, y = [true, "z"] }

[[agents]]
name = "A"
prompt = "a {query}"
system = "be {query}"

[[agents]]
name = "B"
prompt = "b"
chat_template_kwargs = { x = false }
"""


@pytest.fixture
def chats(tmp_path):
    """A scenario of a tiny model with a chat template."""
    write_checkpoint(tmp_path / "model")
    config = {"eos_token": "<end>", "chat_template": TEMPLATE}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    path = tmp_path / "chats.toml"
    path.write_text(CHATS.replace("MODEL", str(tmp_path / "model")))
    return path


def prompts(**agents):
    """The texts that the agents of a scenario, and perhaps a reference, continue."""
    (built,) = population.build([Setting(kinds.ScenarioAgents(**agents), num_tokens=8)])
    (group,) = built.pool.groups
    rows = zip(group.tokens, group.lengths, strict=True)
    return [built.cast.tokenizer.decode(row[:n].tolist()) for row, n in rows]


def test_agents_have_system_prompts_and_variables_of_chat_templates(chats):
    first, second = "s:be sea u:a sea 1[True, 'z']", "u:b False[True, 'z']"
    assert prompts(scenario=str(chats)) == [first, second]
    of_all = {"chat_template_kwargs": {"x": 2}}
    found = prompts(scenario=str(chats), reference_prompt="r {query}", **of_all)
    assert found == [
        *("s:be sea u:a sea 2[True, 'z']", "u:b 2[True, 'z']", "u:r sea 2[True, 'z']"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x = false", "tools = []", "chat_template_kwargs has 'tools'"),
        ("x = false", "day = 2024-01-01", r"agents\[1\].chat_template_kwargs.*JSON"),
        ("{ x = false }", "3", r"agents\[1\].chat_template_kwargs: .*dictionary"),
        ('"be {query}"', '""', r"agents\[0\].system: .*at least 1"),
    ],
)
def test_wrong_variables_of_chat_templates_are_refused(chats, old, new, message):
    chats.write_text(chats.read_text().replace(old, new))
    with pytest.raises(ScenarioError, match=message):
        prompts(scenario=str(chats))


def test_a_model_that_knows_no_system_prompts_says_so(chats):
    with pytest.raises(ScenarioError, match=r"user and assistant only.*leave out"):
        prompts(scenario=str(chats), model="house")


def test_capped_bids_are_values_up_to_the_cap():
    drawn = np.array([[0.5, 2.0], [1.0, 0.0]], np.float32)
    bids = make_bids(kinds.CappedBids(cap=1.0), drawn)
    np.testing.assert_array_equal(bids, [[0.5, 1.0], [1.0, 0.0]])
    assert bids.dtype == np.float32
