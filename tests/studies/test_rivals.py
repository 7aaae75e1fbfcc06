"""Studies of auctions of whole texts beside auctions of tokens."""

import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax import measures
from tokenauction_jax.reports import figures
from tokenauction_jax.scenarios.population import load_cast
from tokenauction_jax.scenarios.scenario import read_scenario
from tokenauction_jax.studies import StudyError
from tokenauction_jax.studies.reading import validate_study

PROBS = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]
RULES = [
    "linear",
    "mosaic(2)",
    {"mechanism": "best_of", "generator": "bids", "forward_passes": 20},
    {"mechanism": "none", "generator": "mean"},
    {"mechanism": "mosaic", "tau": 0.5, "num_replies": 4},
    {"mechanism": "segment", "segment_tokens": 2, "relevance": [0.5, 0.25]},
]
TAU, TOKENS = 1.5, 3


@pytest.fixture(scope="module")
def results(one_device):
    study = ta.studies.Study(
        agents={"kind": "table", "probs": PROBS},
        values=[1.0, 2.0],
        num_tokens=TOKENS,
        num_auctions=64,
        tau=TAU,
        factors={"rule": RULES},
    )
    return ta.studies.run(study)


def test_measures_are_those_of_the_texts(results):
    """By their definitions, from the texts and what was paid."""
    logs, values = np.log(np.array(PROBS)), np.array([1.0, 2.0])
    log_mean = np.log(np.mean(PROBS, axis=0))
    kept = results.auctions
    assert len(kept) == 64 * len(RULES)
    for row in kept.to_dict("records"):
        tokens = [int(x) for x in row["tokens"]]
        ratio = logs[:, tokens].sum(1) - log_mean[tokens].sum()
        payments = np.array([row["payment/0"], row["payment/1"]])
        gained = values * ratio
        wanted = {
            "log_ratio/0": ratio[0],
            "log_likelihood": log_mean[tokens].sum(),
            "log_ratio_welfare": gained.sum(),
            "minimum_log_ratio_welfare": gained.min(),
            "log_ratio_utility/1": gained[1] - payments[1],
            "revenue": payments.sum(),
            "regularized_welfare": gained.sum() - TAU * row["divergence"],
            "length": TOKENS,
        }
        found = [row[key] for key in wanted]
        np.testing.assert_allclose(found, list(wanted.values()), atol=2e-5)
    counts = kept.groupby("cell")[["drawn_tokens", "forward_passes"]].first()
    # 20 passes are three candidates of three tokens that two agents read.
    assert counts["drawn_tokens"].tolist() == [3, 48, 9, 3, 12, 3]
    assert counts["forward_passes"].tolist() == [6, 96, 18, 6, 24, 3]
    assert not kept[kept.cell == 3].revenue.any()


def test_measures_that_a_mechanism_has_not(results):
    summary = results.summary
    cells = [set(summary[summary.cell == i].measure) for i in range(len(RULES))]
    tokens, replies, _, none, _, segments = cells
    assert segments == none
    assert tokens - none == {"robustly_gains", "robustly_loses"}
    assert none - replies >= {"welfare", "entropy", "weight", "log_prob"}
    assert replies == {
        name for name, x in measures.MEASURES.items() if x.scope == "text"
    } - {"mention"}
    compared = results.differences
    assert set(compared[compared.level == "mosaic(2)"].measure) == replies
    # Of no auction, the welfare of the uniform mixture: equal values would choose it.
    assert set(compared[compared.level == "none, mean"].measure) == none
    assert not kept_attribution(results, 1)
    assert kept_attribution(results, 0)


def kept_attribution(results, cell):
    kept = results.auctions
    return any(len(x) for x in kept[kept.cell == cell].favoured_by)


def test_the_report_shows_welfare_by_compute(results, tmp_path):
    names = [chart.name for chart in figures.charts(results)]
    assert names[:2] == ["compute", "welfare"]
    chart = next(x for x in figures.charts(results) if x.name == "compute")
    welfare, revenue = chart.figure.axes
    assert welfare.get_xlabel() == "forward passes (passes per text)"
    assert "log-ratios" in welfare.get_ylabel()
    assert "revenue" in revenue.get_ylabel()
    legend = [text.get_text() for text in chart.figure.legends[0].get_texts()]
    assert legend == [
        *("linear", "mosaic(2)", "best_of, bids", "none, mean", "mosaic, tau=0.5"),
        "segment, segment_tokens=2, relevance=[0.5, …",
    ]
    page = ta.reports.write_report(results, tmp_path / "report")
    assert "Welfare and revenue by compute" in page.read_text()


def test_chunks_change_nothing(one_device, tmp_path):
    study = {
        "agents": {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4},
        "num_tokens": 2,
        "num_auctions": 1500,
        "factors": {"rule": ["best_of", {"mechanism": "mosaic", "num_replies": 2}]},
    }
    whole = ta.studies.run(study)
    parts = ta.studies.run(study, tmp_path / "study", blocks_per_chunk=1)
    assert parts.plan.num_chunks > whole.plan.num_chunks
    for column in ("mean", "n", "undefined"):
        np.testing.assert_allclose(
            whole.summary[column], parts.summary[column], rtol=1e-9, equal_nan=True
        )


@ta.record
class Shortest:
    """A text auction of a user's: the candidate of fewest zeros, for nothing."""

    auction: object
    name = "shortest"

    def write(self, key, pool, bids, **options):
        return self.auction.write(key, pool, bids, **options)


@ta.record
class First:
    """A rule of a user's on replies: the first one."""

    price: float

    def log_prob(self, rewards, log_weights):
        return ta.replies.best_of().log_prob(0 * rewards, log_weights)

    def sample(self, key, rewards, log_weights):
        return ta.replies.best_of().sample(key, 0 * rewards, log_weights)

    def expected(self, rewards, log_weights):
        return 0 * rewards[:, 0] + self.price

    def realized(self, rewards, log_weights, reply):
        return self.expected(rewards, log_weights)


def test_rules_of_ones_own(one_device, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import tokenauction_jax as ta\n"
        "rule = ta.replies.mosaic(3.0)\n"
        "auction = ta.replies.reply_auction(rule, num_replies=2)\n"
    )
    rules = [
        First(0.25),
        Shortest(ta.replies.no_auction("mean")),
        {"mechanism": f"{file}:rule", "num_replies": 2},
        {"mechanism": f"{file}:auction"},
    ]
    study = ta.studies.Study(
        agents={"kind": "table", "probs": PROBS},
        num_tokens=2,
        num_auctions=32,
        factors={"rule": rules},
    )
    found = ta.studies.run(study).auctions
    first, shortest, by_rule, by_auction = (found[found.cell == i] for i in range(4))
    np.testing.assert_allclose(first.revenue, 0.5)
    assert not shortest.revenue.any()
    columns = ["revenue", "log_ratio_welfare", "divergence"]
    np.testing.assert_array_equal(by_rule[columns], by_auction[columns])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rule": "mosaik"}, "no 'mosaik' here, did you mean 'mosaic"),
        ({"rule": {"mechanism": "mosaik"}}, r"did you mean 'mosaic\(1\)'"),
        ({"rule": {"mechanism": "mosaic", "tau": 0.0}}, "rule.tau: .*got 0"),
        ({"rule": {"mechanism": "mosaic(0)"}}, "tau: .*got 0"),
        ({"rule": {"mechanism": "best_of", "tau": 1.0}}, "best_of"),
        ({"rule": {"mechanism": "mosaic(2)", "tau": 1.0}}, "mosaic"),
        ({"rule": {"mechanism": "mosaic", "num_replies": 0}}, "rule.num_replies"),
        ({"rule": {"mechanism": "none", "num_replies": 4}}, "has one reply"),
        ({"rule": {"mechanism": "mosaic", "M": 4}}, "rule.M: unknown key, keys are"),
        (
            {"rule": {"mechanism": "best_of", "num_replies": 4, "forward_passes": 99}},
            "has either num_replies or forward_passes",
        ),
        (
            {"rule": {"mechanism": "best_of", "forward_passes": 95}},
            "forward_passes is 95, one candidate takes 96",
        ),
        (
            {"rule": {"mechanism": "best_of", "generator": "all"}},
            "rule.generator: no 'all' here, choices are",
        ),
        (
            {"rule": {"mechanism": "segment", "relevance": [0.5, 0.5]}},
            "relevance: 2 numbers, expected one or 3",
        ),
        (
            {"rule": {"mechanism": "segment", "relevance": 0.0}},
            "relevance must not all be 0",
        ),
        ({"rule": {"mechanism": "segment", "num_replies": 4}}, "num_replies: unknown"),
        ({"rule": "segmnt"}, "did you mean 'segment'"),
        ({"rule": {"aggregation": "linear", "tau": 2.0}}, "rule.tau: unknown key"),
        (
            {"rule": "best_of", "bids": {"kind": "equilibrium"}},
            "equilibria are found of rules of single tokens only",
        ),
        (
            {"rule": "best_of", "stop": {"half_width": 0.1, "measure": "welfare"}},
            "'best_of' has no welfare",
        ),
        ({"rule": "best_of", "tau": 0.0}, "tau: .*got 0"),
        (
            {
                "rule": {"mechanism": "best_of", "num_replies": 60_000},
                "num_auctions": 2**31 - 1,
            },
            r"over 2\*\*32 replies in all",
        ),
    ],
)
def test_what_is_wrong(content, message):
    with pytest.raises(StudyError, match=message) as caught:
        validate_study(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_bids_of_rivals_are_not_optimised():
    with pytest.raises(ta.optimisation.OptimisationError, match="only rules of single"):
        ta.optimisation.run({"rule": "best_of"})


def test_the_reference_of_a_scenario_is_mentioned_by_nobody():
    cast = load_cast(read_scenario("hawaii"), "Write an ad. {query}")
    assert cast.pool.num_agents == len(cast.mentions) + 1
