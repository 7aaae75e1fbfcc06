"""Studies of rules, valuations, agents, values and bids of one's own."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import tokenauction_jax as ta
from tokenauction_jax.files import StoreError
from tokenauction_jax.scenarios.scenario import read_scenario
from tokenauction_jax.studies import Level, Study, StudyError, engine, reading

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])


@ta.record
class Softened:
    """Linear aggregation that keeps a share of the uniform distribution."""

    uniform: float
    name = "softened"
    monotone = True

    def weights(self, bids):
        return bids / bids.sum()

    def log_prob(self, bids, log_probs):
        mixed = self.weights(bids) @ jnp.exp(log_probs)
        return jnp.log((1 - self.uniform) * mixed + self.uniform / mixed.size)


@ta.record
class Flat:
    """Every agent pays the same."""

    price: float
    name = "flat"

    def expected(self, bids, log_probs):
        return jnp.full_like(bids, self.price)

    def conditional(self, bids, log_probs, token):
        return self.expected(bids, log_probs)

    def realized(self, key, bids, log_probs, token):
        return self.expected(bids, log_probs)


@ta.record
class Squared:
    """Minus the squared distance."""

    scale: float
    name = "squared"

    def value(self, log_q, log_p):
        return -self.scale * ((jnp.exp(log_q) - jnp.exp(log_p)) ** 2).sum()


@ta.record
class Rotating:
    """Agents whose tables move by one token after each token."""

    log_probs: jnp.ndarray
    end_token = None

    @property
    def num_agents(self):
        return self.log_probs.shape[0]

    @property
    def vocab_size(self):
        return self.log_probs.shape[1]

    def init(self, num_auctions, *, key=None, first_auction=0, num_tokens=None):
        return jnp.zeros((), jnp.int32)

    def step(self, state, tokens):
        rolled = jnp.roll(self.log_probs, state, axis=1)
        shape = (*tokens.shape, *rolled.shape)
        return state + 1, jnp.broadcast_to(rolled[None], shape)


def half(values):
    return values / 2


def study(**changes):
    about = {
        "agents": Rotating(jnp.log(jnp.asarray(P, jnp.float32))),
        "rule": ta.Mechanism(Softened(0.1), Flat(0.25)),
        "valuation": Squared(3.0),
        "values": np.array([2.0, 1.0]),
        "bids": half,
        "num_tokens": 2,
        "num_auctions": 40,
        "keep_auctions": 40,
    }
    return Study(**about | changes)


@pytest.fixture(scope="module")
def found():
    return ta.studies.run(study())


def mean(results, measure, valuation="", agent=""):
    table = results.summary.set_index(["measure", "valuation", "agent"])
    return table.loc[(measure, valuation, agent), "mean"]


def test_everything_may_be_ones_own(found):
    q = 0.9 * np.array([2, 1]) @ P / 3 + 0.1 / 3
    squared = -3 * ((q - P) ** 2).sum(1)
    # The sums of squares do not see how the tables are rotated.
    tokens, values = 2, np.array([2.0, 1.0])
    assert mean(found, "welfare", "squared") == pytest.approx(
        tokens * values @ squared, rel=1e-5
    )
    assert mean(found, "minimum_welfare", "squared") == pytest.approx(
        tokens * (values * squared).min(), rel=1e-5
    )
    alone = -3 * ((P[0] - P[1]) ** 2).sum()
    best = max(values[1] * alone, values[0] * alone) * tokens
    shortfall = best - tokens * values @ squared
    assert mean(found, "single_agent_shortfall", "squared") == pytest.approx(
        shortfall, rel=1e-4
    )
    assert mean(found, "revenue") == pytest.approx(tokens * 2 * 0.25)
    utility = tokens * (values[0] * squared[0] - 0.25)
    assert mean(found, "utility", "squared", "0") == pytest.approx(utility, rel=1e-5)
    assert mean(found, "infinite_tokens", "squared") == 0
    # The built-in ones are measured all the same.
    distance = np.abs(q - P).sum(1) / 2
    assert mean(found, "welfare", "total_variation") == pytest.approx(
        -tokens * values @ distance, rel=1e-5
    )
    assert not len(
        found.summary.query("valuation == 'squared'").merge(
            pd.DataFrame({"measure": ["optimum_shortfall", "realized_welfare"]})
        )
    )
    kept = found.auctions
    assert np.stack(list(kept["bids"])).tolist() == [[1.0, 0.5]] * 40
    assert found.study.valuation == "squared"


def test_texts_are_those_of_simulate(found):
    chosen = reading.check_study(study()).cells()[0].setting
    rollout = ta.simulate(
        jax.random.key(chosen.seed),
        chosen.rule.build(),
        chosen.agents.pool,
        [1.0, 0.5],
        num_tokens=2,
        num_auctions=40,
    )
    assert np.stack(list(found.auctions["tokens"])).tolist() == rollout.tokens.tolist()


def test_a_folder_holds_what_memory_does(found, tmp_path):
    written = ta.studies.run(study(), tmp_path / "mine")
    pd.testing.assert_frame_equal(written.summary, found.summary)
    loaded = ta.studies.load(tmp_path / "mine")
    pd.testing.assert_frame_equal(loaded.summary, found.summary)
    assert not (tmp_path / "mine" / "study.toml").exists()
    assert loaded.study == written.study
    page = ta.reports.write_report(loaded, tmp_path / "page")
    assert "squared" in page.read_text("utf-8")


def test_a_study_of_objects_is_resumed_with_them(found, tmp_path):
    class Interrupted(Exception):
        pass

    def listen(chosen, plan):
        def stop(progress):
            if progress.done.any():
                raise Interrupted

        return stop

    folder = tmp_path / "mine"
    with pytest.raises(Interrupted):
        ta.studies.run(study(), folder, listen=listen)
    with pytest.raises(StoreError, match="built in Python: resume it there"):
        ta.studies.resume(folder)
    for changes in (
        {"rule": ta.Mechanism(Softened(0.2), Flat(0.25))},
        {"rule": ta.Mechanism(ta.linear(), Flat(0.25))},
        {"agents": Rotating(jnp.log(jnp.asarray(P[::-1], jnp.float32)))},
        {"valuation": Squared(2.0)},
        {"values": [2.0, 3.0]},
        {"bids": lambda values: values / 3},
    ):
        with pytest.raises(StoreError, match="another configuration"):
            ta.studies.resume(folder, study=study(**changes))
    resumed = ta.studies.resume(folder, study=study())
    pd.testing.assert_frame_equal(resumed.summary, found.summary)


def test_levels_may_be_objects_and_may_be_named():
    mechanisms = [
        Level("soft", ta.Mechanism(Softened(0.5), ta.pay_your_bid())),
        ta.Mechanism(Softened(0.1), ta.pay_your_bid()),
        ta.Mechanism(ta.linear(), ta.second_price(ta.linear())),
        "log_linear",
    ]
    chosen = study(factors={"rule": mechanisms, "bids": [half, [1.0, 1.0]]})
    results = ta.studies.run(chosen)
    assert results.factors == {
        "rule": [
            "soft",
            "softened(uniform=0.1), pay_your_bid",
            "linear, second_price",
            "log_linear",
        ],
        "bids": ["half", "fixed, amounts=[1, 1]"],
    }
    gains = results.differences.query("factor == 'rule' and measure == 'entropy'")
    # Less of the uniform distribution leaves less entropy.
    assert (gains[gains["level"].str.startswith("softened")]["high"] < 0).all()


def test_arrays_have_a_row_for_each_auction():
    rows = np.random.default_rng(0).uniform(1, 2, (40, 2)).astype(np.float32)
    results = ta.studies.run(study(values=rows, bids=2 * rows))
    np.testing.assert_array_equal(np.stack(list(results.auctions["values"])), rows)
    np.testing.assert_array_equal(np.stack(list(results.auctions["bids"])), 2 * rows)


def test_functions_see_each_auction_once_and_only_those_that_count():
    def values(numbers):
        assert numbers.max() < 40
        return np.stack([numbers + 1.0, numbers + 2.0], axis=1)

    kept = ta.studies.run(study(values=values)).auctions
    drawn = np.stack(list(kept["values"]))
    np.testing.assert_array_equal(drawn[:, 0], np.arange(40) + 1)


def test_numbers_of_a_rule_are_leaves(found):
    """Another number of the same rule compiles nothing."""
    before = engine.run_blocks._cache_size()
    ta.studies.run(study(rule=ta.Mechanism(Softened(0.3), Flat(0.5))))
    assert engine.run_blocks._cache_size() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"values": np.ones((39, 2))},
            r"values.amounts: has shape \(39, 2\)",
        ),
        (
            {"values": [[1.0, -1.0]] * 40},
            "must be 0, or from .*, got -1 for agent 1 in row 0",
        ),
        ({"bids": np.zeros((40, 2))}, "must not all be zero in row 0"),
        ({"values": [1.0, 2.0, 3.0]}, "3 numbers, expected one or 2"),
        ({"agents": 3}, "should be an AgentPool"),
        ({"rule": 3}, "rule: input should be"),
        ({"rule": "linaer"}, "no 'linaer' here, did you mean 'linear'"),
        ({"rule": {"aggregation": Softened(0.1)}}, "no default payment"),
        ({"valuation": ta.linear()}, "valuation: should be a Valuation or"),
        ({"factors": {"rule": [half]}}, r"factors.rule\[0\]"),
        ({"factors": {"rulle": ["linear"]}}, "did you mean 'rule'"),
        ({"sampling": {"top_k": 3}}, "filters by itself"),
        ({"agents": {"kind": "pool", "pool": 1}}, "should be an AgentPool"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_objects_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        ta.studies.run(study(**changes))


def test_functions_that_fail_are_named():
    def broken(values):
        return values[:, :1]

    with pytest.raises(ValueError, match=r"broken returned has shape \(40, 1\)"):
        ta.studies.run(study(bids=broken))

    def failing(numbers):
        raise KeyError("x")

    with pytest.raises(ValueError, match="values: failing raised KeyError"):
        ta.studies.run(study(values=failing))


FILE = """
import jax.numpy as jnp
import tokenauction_jax as ta


@ta.record
class Softened:
    uniform: float = 0.25
    name = "softened"
    monotone = True

    def weights(self, bids):
        return bids / bids.sum()

    def log_prob(self, bids, log_probs):
        mixed = self.weights(bids) @ jnp.exp(log_probs)
        return jnp.log((1 - self.uniform) * mixed + self.uniform / mixed.size)


@ta.record
class Squared:
    name = "squared"

    def value(self, log_q, log_p):
        return -((jnp.exp(log_q) - jnp.exp(log_p)) ** 2).sum()


def price(rule):
    return ta.pay_your_bid()


def pool():
    return ta.agents.tabular(jnp.log(jnp.array([[0.7, 0.3], [0.2, 0.8]])))
"""
TOML = """
num_auctions = 30
num_tokens = 2
agents = "mine.py:pool"
valuation = "mine.py:Squared"

[factors]
rule = [
  { aggregation = "mine.py:Softened", payment = "mine.py:price" },
  { aggregation = "linear", payment = "myerson(mine.py:Squared)" },
  "linear",
]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.py").write_text(FILE)
    (tmp_path / "work" / "own.toml").write_text(TOML)
    return tmp_path / "work"


def test_files_refer_to_objects_beside_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = ta.studies.run("work/own.toml", "out")
    assert results.factors["rule"] == [
        "mine.py:Softened, mine.py:price",
        "linear, myerson(mine.py:Squared)",
        "linear",
    ]
    revenue = results.summary.query("measure == 'revenue'").set_index("cell")["mean"]
    values = results.auctions.query("cell == 0")["values"]
    paid = 2 * np.stack(list(values)).sum(1).mean()
    assert revenue[0] == pytest.approx(paid, rel=1e-5)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    lines = [line for line in manifest["config"] if "mine.py" in line]
    assert len(lines) >= 2
    assert all(digest in line or ".name" in line for line in lines)
    assert any(digest in line for line in manifest["config"])
    # Another place of the same files is the same study; another source is not.
    moved = folder.rename(tmp_path / "moved")
    again = reading.read_study(moved / "own.toml")
    assert again.digest() == manifest["digest"]
    with pytest.raises(StudyError, match=r"mine.py"):
        ta.studies.resume("out")
    moved.rename(tmp_path / "work")
    assert ta.studies.resume("out").finished
    (tmp_path / "work" / "mine.py").write_text(FILE.replace("0.25", "0.5"))
    with pytest.raises(StoreError, match="another configuration"):
        ta.studies.resume("out")


def test_missing_objects_are_told_with_the_line(folder):
    text = TOML.replace("mine.py:Softened", "mine.py:Softend")
    (folder / "own.toml").write_text(text)
    with pytest.raises(StudyError, match=r"line 8: .*has no attribute 'Softend'"):
        reading.read_study(folder / "own.toml")
    (folder / "own.toml").write_text(TOML.replace("mine.py:pool", "mine.py:pol"))
    with pytest.raises(StudyError, match=r"line 4: agents.pool: .*no attribute 'pol'"):
        reading.read_study(folder / "own.toml")


def test_scenarios_take_rules_of_ones_own(folder):
    (folder / "duel.toml").write_text(
        'query = "q"\nvaluation = "mine.py:Squared"\nrules = ["linear", '
        '{ aggregation = "mine.py:Softened", payment = "mine.py:price" }]\n'
        '[[agents]]\nname = "A"\nprompt = "a"\n'
    )
    read = read_scenario(str(folder / "duel.toml"))
    assert read.rules[1].build().aggregation.uniform == 0.25
