import json
import shutil
import subprocess
import sys

import pytest
from tiny_checkpoint import write_checkpoint

import tokenauction_jax as ta
from tokenauction_jax.files import StoreError
from tokenauction_jax.scenarios import validation
from tokenauction_jax.studies import reading
from tokenauction_jax.studies.config import StudyError
from tokenauction_jax.studies.reading import validate_study


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return reading.read_study(path)


def test_built_in_studies_are_valid():
    rivals = {"rivals_at_equal_compute", "rivals_on_smollm2"}
    assert set(reading.builtin_studies()) == {"lambda", "misreport", "welfare"} | rivals
    for name in reading.builtin_studies():
        study = reading.read_study(name)
        assert study.name == name
        assert study.description


def test_factors_cross_with_the_last_varying_fastest():
    factors = {"values.sigma": [0.1, 0.5], "agents": {"num_agents": [2, 3]}}
    study = validate_study({"factors": factors})
    cells = study.cells()
    assert [tuple(cell.levels.values()) for cell in cells] == [
        *(("0.1", "2"), ("0.1", "3"), ("0.5", "2"), ("0.5", "3"))
    ]
    assert cells[2].setting.values.sigma == 0.5
    assert cells[2].setting.agents.num_agents == 2


def test_a_level_may_be_a_table_that_sets_several_keys():
    rules = [
        {"aggregation": "linear", "payment": "second_price"},
        {"aggregation": "power_mean", "order": 0.5, "payment": "pay_your_bid"},
    ]
    cells = validate_study({"factors": {"rule": rules}}).cells()
    assert [cell.label for cell in cells] == [
        "linear, second_price",
        "power_mean, order=0.5, pay_your_bid",
    ]
    assert cells[1].setting.rule.order == 0.5


def test_a_level_may_change_the_kind_of_a_section():
    kinds = [{"kind": "uniform", "high": 2.0}, {"kind": "gamma", "shape": 3.0}]
    cells = validate_study({"factors": {"values": kinds}}).cells()
    assert [type(cell.setting.values).__name__ for cell in cells] == [
        "UniformValues",
        "GammaValues",
    ]


def test_the_digest_is_of_the_meaning_not_of_the_text(tmp_path):
    one = read(tmp_path, "num_auctions = 10000\n[values]\nkind = 'log_normal'\n")
    other = read(tmp_path, "# the defaults, written otherwise\n")
    changed = read(tmp_path, "seed = 1\n")
    assert one.digest() == other.digest() != changed.digest()


def test_the_digest_covers_the_scenario_that_agents_are_from(tmp_path):
    scenario = tmp_path / "duel.toml"
    text = 'query = "q"\n[[agents]]\nname = "A"\nprompt = "a"\n'
    scenario.write_text(text)
    agents = {"kind": "scenario", "scenario": str(scenario)}
    before = validate_study({"agents": agents}).digest()
    scenario.write_text(text.replace('"a"', '"b"'))
    assert validate_study({"agents": agents}).digest() != before


DIGEST = """
import sys
from tokenauction_jax.studies.reading import read_study

print(read_study(sys.argv[1]).digest())
"""


def test_the_digest_is_of_the_models_that_run(tmp_path):
    """Their weights, tokenizer and template, wherever they lie; not of file names."""
    scenario = 'query = "q"\nmodel = "MODEL"\n[[agents]]\nname = "A"\nprompt = "a"\n'

    def digest(name, seed=0, edit=None):
        folder = tmp_path / name
        write_checkpoint(folder / "model", seed)
        if edit is not None:
            edit(folder / "model")
        text = scenario.replace("MODEL", str(folder / "model"))
        (folder / "duel.toml").write_text(text)
        study = "[agents]\nkind = 'scenario'\nscenario = 'duel.toml'\n"
        (folder / "study.toml").write_text(study)
        return reading.read_study(folder / "study.toml").digest()

    def swap_two_tokens(model):
        path = model / "tokenizer.json"
        content = json.loads(path.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
        path.write_text(json.dumps(content))

    def greet(model):
        template = "hello {% for m in messages %}{{ m['content'] }}{% endfor %}"
        path = model / "tokenizer_config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"chat_template": template}))

    first = digest("first")
    command = [sys.executable, "-c", DIGEST, str(tmp_path / "first" / "study.toml")]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == first == digest("moved")
    changed = [digest("weights", seed=1), digest("tokens", edit=swap_two_tokens)]
    changed.append(digest("template", edit=greet))
    assert len({first, *changed}) == 4


def test_variables_of_chat_templates_are_a_factor():
    levels = [{"enable_thinking": True}, {"enable_thinking": False}]
    agents = {"kind": "scenario", "scenario": "hawaii"}
    factors = {"agents.chat_template_kwargs": levels}
    study = validate_study({"agents": agents, "factors": factors})
    cells = study.cells()
    assert [cell.label for cell in cells] == [
        "enable_thinking=True",
        "enable_thinking=False",
    ]
    for cell, level in zip(cells, levels, strict=True):
        assert cell.setting.agents.read().chat_template_kwargs == level
    assert study.digest() != validate_study({"agents": agents}).digest()


def test_a_study_whose_model_was_replaced_is_not_gone_on_with(tmp_path):
    write_checkpoint(tmp_path / "model")
    scenario = 'query = "q"\nmodel = "MODEL"\n[[agents]]\nname = "A"\nprompt = "a"\n'
    scenario = scenario.replace("MODEL", str(tmp_path / "model"))
    (tmp_path / "duel.toml").write_text(scenario)
    text = "num_auctions = 8\nnum_tokens = 2\n[agents]\nkind = 'scenario'\n"
    (tmp_path / "study.toml").write_text(text + "scenario = 'duel.toml'\n")
    ta.studies.run(tmp_path / "study.toml", tmp_path / "out")
    ta.studies.resume(tmp_path / "out")
    shutil.rmtree(tmp_path / "model")
    write_checkpoint(tmp_path / "model", seed=1)
    with pytest.raises(StoreError, match="models = "):
        ta.studies.resume(tmp_path / "out")
    assert ta.studies.load(tmp_path / "out").num_auctions == 8


WRONG = """descripton = "x"
num_tokens = 0
[agents]
kind = "dirichlet"
concentraton = 1
[values]
kind = "lognormal"
[rule]
aggregation = "lin"
[factors]
agents.num_agents = [2, 2]
sed = [1]
seed = [
  1,
  "two",
]
"""


TOLD = (
    "line 1: descripton: unknown key, did you mean 'description'?",
    "line 2: num_tokens: input should be greater than or equal to 1, got 0",
    "line 5: agents.concentraton: unknown key, did you mean 'concentration'?",
    "line 7: values.kind: unknown kind 'lognormal', did you mean 'log_normal'?",
    "line 9: rule.aggregation: no 'lin' here, did you mean 'linear'?",
    "line 12: factors.sed: unknown factor, did you mean 'seed'?",
    "line 13: factors.seed[1]: input should be a valid integer, got 'two'",
)


def test_everything_wrong_is_told_at_once_with_its_line(tmp_path):
    with pytest.raises(StudyError) as caught:
        read(tmp_path, WRONG)
    told = str(caught.value)
    assert told.endswith("; ".join(TOLD[:5]) + "; and 2 more")
    assert len(told) < 500
    # What had no room is told once the rest is mended.
    with pytest.raises(StudyError) as caught:
        read(tmp_path, "\n" * 9 + WRONG.partition('"lin"\n')[2])
    assert str(caught.value).endswith("; ".join(TOLD[5:]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"factors": {"rule.aggregation": ["linear", "log_linear"]}}
            | {"rule": {"aggregation": "linear", "payment": "second_price"}},
            r"factors.rule.aggregation: .*monotone.*\(cell 'log_linear'\)",
        ),
        (
            {"factors": {"rule.payment": ["clarke", "clarke"]}},
            "is there twice",
        ),
        ({"factors": {"seed": []}}, "factors.seed: .*at least 1"),
        (
            {"values": {"kind": "fixed", "amounts": [1.0, 2.0]}},
            "2 numbers, expected",
        ),
        (
            {"values": {"kind": "fixed", "amounts": 0}},
            "amounts: must not all be",
        ),
        ({"values": {"kind": "uniform", "low": 3.0}}, "values.low: 3 is above high"),
        ({"values": {"kind": "share", "share": 2.0}}, "values.share: .*equal to 1"),
        ({"bids": {"kind": "shaded", "agents": [3]}}, "no agent 3, only 3"),
        ({"bids": {"kind": "shaded", "factor": 0}}, "leaves no auction"),
        (
            {"agents": {"kind": "table", "probs": [[0.5, 0.6], [1.0]]}},
            r"probs\[0\]: must sum to 1, got 1.1.*probs\[1\]: 1 numbers, expected 2",
        ),
        ({"agents": {"kind": "scenario", "scenario": "hawai"}}, "no scenario 'hawai'"),
        ({"stop": {"half_width": 0.1, "measure": "welfre"}}, "did you mean 'welfare'"),
        ({"stop": {"half_width": 0.1, "measure": "payment", "agent": 5}}, "an agent 5"),
        ({"stop": {"half_width": 0.1, "measure": "mention"}}, "only language models"),
        ({"num_auctions": True}, "num_auctions: .*integer"),
        ({"num_auctions": "many"}, "num_auctions: .*integer"),
        ({"name": "a b"}, "name: .*pattern"),
        ({"agents": {"kind": "zipf", "exponent": float("nan")}}, "exponent"),
        ({"factors": {"bids.factor": [1.0]}}, "factors.bids.factor: unknown factor"),
    ],
)
def test_wrong_studies_say_what_to_change(content, message):
    with pytest.raises(StudyError, match=message):
        validate_study(content)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(StudyError, match="no study 'welfar': did you mean 'welfare'"):
        reading.read_study("welfar")
    with pytest.raises(StudyError, match=r"cannot read .*at line 1"):
        read(tmp_path, "num_auctions = \n")


def test_lines_are_where_values_begin(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("a = 1\n\n# b\n[b]\nc = [\n  1,\n  2,\n]\n[[d]]\ne = 3\n[[d]]\n")
    _, lines = validation.read_toml(path)
    assert lines["a",] == 1
    assert lines["b", "c"] == lines["b", "c", 1] == 5
    assert lines["d", 0, "e"] == 10
    assert lines["d", 1] == 11
