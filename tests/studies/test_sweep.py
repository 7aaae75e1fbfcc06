"""A scenario as a study: what is estimated per token, and what is written."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_scenario import END, TABLE, run, scenario

from tokenauction_jax.files import ExistsError, StoreError
from tokenauction_jax.studies import plan, sweep

COMMITS = {"someone/tiny": "0123abc"}


def summary(found):
    return {(m.name, m.agent): m.estimate for m in found.measures}


@pytest.fixture(scope="module")
def swept():
    return run(scenario(), [0.25, 1.0])


def test_runs_are_rules_by_weights(swept):
    runs, results = swept
    assert [x.rule.name for x in runs] == ["linear"] * 2 + ["log_linear"] * 2
    np.testing.assert_allclose([x.share for x in runs], [0.25, 1.0] * 2)
    np.testing.assert_allclose(runs[0].bids, [1, 3])
    np.testing.assert_allclose(runs[1].bids, [4, 0])
    assert [len(x.auctions) for x in runs] == [40] * 4
    assert results.num_auctions == 40


def test_weights_follow_the_exponent_of_the_rule():
    rules = ["linear", {"aggregation": "linear", "influence": 2.0}]
    runs, _ = run(scenario(rules=rules, num_auctions=2, num_tokens=1), [0.2])
    np.testing.assert_allclose([x.share for x in runs], [0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(runs[1].bids[0] / runs[1].bids[1], 0.5, rtol=1e-6)


def test_blocks_do_not_change_the_auctions(swept, monkeypatch):
    monkeypatch.setattr(plan, "_LANGUAGE_MODEL_BLOCK", 16)
    parts, whole = run(scenario())[0][0], swept[0][0]
    assert list(map(list, parts.auctions["tokens"])) == list(
        map(list, whole.auctions["tokens"])
    )
    for name in ("payment/0", "welfare/total_variation"):
        np.testing.assert_allclose(parts.auctions[name], whole.auctions[name], 1e-5)


def test_what_is_kept_belongs_to_the_drawn_tokens(swept):
    q = [0.25, 0.75] @ TABLE
    ended = 0
    for _, row in swept[0][0].auctions.iterrows():
        tokens = list(row["tokens"])
        assert END not in tokens
        ended += row["length"] == len(tokens) + 1
        drawn = [*tokens, END] if row["length"] > len(tokens) else tokens
        np.testing.assert_allclose(row["log_prob"], np.log(q[drawn]).sum(), rtol=1e-5)
        entropy = -(q * np.log(q)).sum()
        np.testing.assert_allclose(row["entropy"], entropy, rtol=1e-5)
        # Who brought most of a token's probability, not who likes it best.
        brought = np.array([0.25, 0.75])[:, None] * TABLE[:, tokens] / q[tokens]
        attribution = [list(shares) for shares in row["attribution"]]
        np.testing.assert_allclose(attribution, brought.T.tolist(), rtol=1e-5)
        assert list(row["favoured_by"]) == brought.argmax(0).tolist()
        assert row["text"] == "".join(row["pieces"])
    assert 0 < ended < 40


def test_summary_against_the_definition(swept):
    first = swept[0][0]
    found, rows = summary(first), first.auctions
    n_tokens = rows["length"].sum()
    named = rows["text"].str.contains(r"(?i)\bA\b").mean()
    assert found["mention_rate", "A"].mean == pytest.approx(named)
    for i, name in enumerate("AB"):
        paid = rows[f"payment/{i}"].sum() / n_tokens
        np.testing.assert_allclose(found["payment", name].mean, paid, rtol=1e-5)
    revenue = found["payment", "A"].mean + found["payment", "B"].mean
    np.testing.assert_allclose(found["revenue", ""].mean, revenue, rtol=1e-5)
    q = [0.25, 0.75] @ TABLE
    welfare = -sum(w * abs(q - p).sum() / 2 for w, p in zip([2, 3], TABLE, strict=True))
    np.testing.assert_allclose(found["welfare", ""].mean, welfare, rtol=1e-5)
    assert found["undefined", ""].mean == 0
    assert found["infinite_welfare", ""].mean == 0


def test_infinite_welfare_is_counted_apart():
    # Under forward KL agent A's exclusive token is worth -inf to it once B is alone.
    table = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]])
    chosen = scenario(valuation="forward_kl", rules=["linear"])
    (mixed, alone), _ = run(chosen, [0.5, 0.0], table)
    assert summary(mixed)["infinite_welfare", ""].mean == 0
    assert np.isfinite(summary(mixed)["welfare", ""].mean)
    assert summary(alone)["infinite_welfare", ""].mean == 1
    assert np.isnan(summary(alone)["welfare", ""].mean)


def test_undefined_auctions_are_counted_and_left_out():
    table = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    (linear, log_linear), _ = run(scenario(), table=table)
    assert summary(linear)["undefined", ""].mean == 0
    found = summary(log_linear)
    assert found["undefined", ""].mean == 1
    assert np.isnan(found["revenue", ""].mean)
    assert found["mention_rate", "A"].n == 0


def test_one_auction_is_enough():
    (one, _), _ = run(scenario(num_auctions=1))
    assert len(one.auctions) == 1
    assert np.isnan(summary(one)["revenue", ""].low)


def test_a_folder_appears_whole(swept, tmp_path):
    chosen = scenario()
    sweep.write(tmp_path / "results", chosen, COMMITS, *swept)
    names = {file.name for file in (tmp_path / "results").iterdir()}
    assert names == {"texts.parquet", "summary.csv", "manifest.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["results"]
    manifest = json.loads((tmp_path / "results" / "manifest.json").read_text())
    assert manifest["commits"] == COMMITS
    assert "race" in manifest["sampler"]
    assert manifest["runs"][0]["payment_rule"] == "second_price"
    table = pq.read_table(tmp_path / "results" / "texts.parquet").to_pandas()
    assert len(table) == 160
    paid = np.stack(list(table["payments"]))
    np.testing.assert_allclose(paid[:, 1], table["payment/1"])


def test_runs_without_a_text_are_written_beside_others(tmp_path):
    """Each column has one type, whatever a run has in it."""
    table = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    chosen = scenario(num_auctions=3)
    sweep.write(tmp_path / "results", chosen, COMMITS, *run(chosen, table=table))
    found = pq.read_table(tmp_path / "results" / "texts.parquet").to_pandas()
    assert found["valid"].tolist() == [True] * 3 + [False] * 3
    assert [len(x) for x in found["tokens"]][3:] == [0] * 3


def test_rules_may_differ_in_their_payments_only():
    rules = ["linear", {"aggregation": "linear", "payment": "pay_your_bid"}]
    runs, results = run(scenario(rules=rules, num_auctions=2, num_tokens=1))
    assert [x.mechanism.payment.name for x in runs] == ["second_price", "pay_your_bid"]
    assert results.factors["rule"] == ["1: linear", "2: linear"]


def test_a_failed_write_leaves_nothing(swept, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep.files, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        sweep.write(tmp_path / "results", scenario(), COMMITS, *swept)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(swept, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    with pytest.raises(ExistsError, match="exists"):
        sweep.write(folder, scenario(), COMMITS, *swept)
    assert list(folder.iterdir()) == []


def test_progress_is_told():
    heard = []

    def listen(study, plan):
        return lambda progress: heard.append(int(progress.done.sum()))

    run(scenario(rules=["linear"]), listen=listen)
    # Two blocks of 32 and 8.
    assert heard[-1] == 40
    assert 32 in heard
