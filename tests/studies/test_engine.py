"""The same numbers however a study is cut, spread and interrupted."""

import functools
import os

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_study

import tokenauction_jax as ta
from tokenauction_jax.measures import Column
from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.values import draw_values
from tokenauction_jax.statistics.moments import Statistics
from tokenauction_jax.studies import engine, results
from tokenauction_jax.studies.plan import make_plan, precise_enough
from tokenauction_jax.studies.reading import read_study, validate_study

pytestmark = pytest.mark.usefixtures("optimized")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def study(folder):
    return tiny_study.write(folder)


@pytest.fixture(scope="module")
def whole(folder, study):
    """Uninterrupted, one block a chunk, on one device."""
    return tiny_study.run(study, folder / "whole", devices=jax.devices()[:1])


def row(table, **labels):
    """The one row with these labels."""
    agree = [table[name] == label for name, label in labels.items()]
    (place,) = np.flatnonzero(np.logical_and.reduce(agree))
    return table.iloc[place]


def auctions(found):
    order = ["cell", "auction"]
    return found.auctions.sort_values(order).reset_index(drop=True)


def tables(found):
    found.write_tables()
    return {
        path.name: path.read_bytes()
        for path in sorted((found.folder.path / "tables").iterdir())
    }


def test_every_auction_of_every_cell_ran(whole):
    assert whole.num_auctions == 2500
    assert whole.finished
    told = "<Results of 'tiny': cells: 4, auctions in each: 2,500, finished>"
    assert repr(whole) == told
    assert len(whole.auctions) == 4 * 2500
    assert (whole.summary["n"] == 2500).all()
    assert not whole.summary["infinite"].any()


def test_texts_are_those_that_simulate_draws(whole, study):
    """Auction 2,047 of the study is auction 2,047 of `ta.simulate`."""
    rows = whole.auctions
    rows = rows[(rows["cell"] == 0) & rows["auction"].between(2040, 2059)]
    setting = read_study(study).cells()[0].setting
    values = draw_values(setting.values, setting.seed, 2, 2040, 20)
    rollout = ta.simulate(
        jax.random.key(setting.seed),
        setting.rule.build(),
        ta.agents.dirichlet(2, 5, 1.0),
        values,
        num_tokens=3,
        first_auction=2040,
    )
    assert np.stack(rows["tokens"]).tolist() == rollout.tokens.tolist()
    for agent in range(2):
        paid = rollout.payments[..., agent].sum(1)
        np.testing.assert_allclose(rows[f"payment/{agent}"], paid, rtol=1e-5)


@pytest.fixture(scope="module")
def one_chunk(folder, study):
    """All three blocks in a chunk, one after another."""
    return tiny_study.run(study, folder / "one-chunk", blocks_per_chunk=3)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("devices", [2, 8])
def test_devices_change_no_bit(folder, study, one_chunk, devices):
    """Two take two blocks and then one twice; eight have more than there are."""
    name, some = f"devices-{devices}", jax.devices()[:devices]
    before = engine.run_blocks._cache_size()
    found = tiny_study.run(study, folder / name, blocks_per_chunk=3, devices=some)
    pd.testing.assert_frame_equal(auctions(found), auctions(one_chunk))
    assert tables(found) == tables(one_chunk)
    # One program of each cell, not one of each device.
    assert engine.run_blocks._cache_size() == before + 2


def test_one_block_of_each_program_goes_first(folder, study, monkeypatch):
    """Threads that need the same program would wait until it is compiled."""
    begun = []

    def run(workers, place, blocks):
        begun.append((place, *blocks))
        return run_blocks(workers, place, blocks)

    run_blocks = engine._Workers._run_blocks
    monkeypatch.setattr(engine._Workers, "_run_blocks", run)
    monkeypatch.setattr(engine, "num_threads", lambda _: 1)
    tiny_study.run(study, folder / "order", blocks_per_chunk=3)
    # Cells 0 and 1 have one payment, cells 2 and 3 the other.
    firsts = [(0, 0), (2, 0)]
    others = [(cell, block) for cell in range(4) for block in range(3)]
    assert begun == firsts + [x for x in others if x not in firsts]


def test_chunks_of_more_blocks_change_no_token_and_no_payment(folder, study, whole):
    found = tiny_study.run(study, folder / "chunks", blocks_per_chunk=2)
    assert found.folder.num_parts() == 2
    pd.testing.assert_frame_equal(auctions(found), auctions(whole))
    # Merged in another grouping, statistics agree to rounding.
    numbers = found.summary.select_dtypes("number")
    expected = whole.summary[numbers.columns]
    np.testing.assert_allclose(numbers, expected, rtol=1e-9, atol=1e-12)


def test_resumed_studies_end_with_the_same_bytes(folder, study, whole):
    place = folder / "resumed"
    for parts in (1, 2):
        assert tiny_study.run(study, place, stop_after=parts) is None
        assert results.load(place).folder.num_parts() == parts
        assert not results.load(place).finished
        assert f"{1024 * parts:,}, of 2,500>" in repr(results.load(place))
    found = tiny_study.run(study, place)
    assert tables(found) == tables(whole)
    pd.testing.assert_frame_equal(auctions(found), auctions(whole))


def test_cells_of_one_rule_run_the_same_auctions(whole):
    """A/A: the payment changes neither the text nor what it is worth."""
    rows = whole.differences
    rows = rows[(rows["factor"] == "rule.payment") & (rows["measure"] == "welfare")]
    assert (rows["mean"] == 0).all()
    assert (rows["low"] == 0).all()
    assert (rows["high"] == 0).all()


def test_differences_are_paired(whole):
    by_cell = {
        cell: rows.sort_values("auction")["welfare/forward_kl"].to_numpy(np.float64)
        for cell, rows in whole.auctions.groupby("cell")
    }
    welfare = {"measure": "welfare", "valuation": "forward_kl"}
    found = row(whole.differences, factor="values.sigma", cell=1, **welfare)
    difference = by_cell[1] - by_cell[0]
    half = 1.961 * difference.std(ddof=1) / np.sqrt(2500)
    assert found["mean"] == pytest.approx(difference.mean(), rel=1e-6)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=1e-3)
    pair = row(whole.difference(1, 0), **welfare)
    assert pair["mean"] == pytest.approx(found["mean"], rel=1e-6)
    assert pair["high"] == pytest.approx(found["high"], rel=1e-6)
    covariance = whole.covariance("welfare", "forward_kl")
    expected = np.cov(by_cell[0], by_cell[1])[0, 1]
    assert covariance[0, 1] == pytest.approx(expected, rel=1e-5)
    low, high = whole.covariance_interval("welfare", "forward_kl")
    assert (low < covariance).all()
    assert (covariance < high).all()
    variance = row(whole.summary, cell=0, **welfare)
    assert variance["std_low"] < covariance[0, 0] ** 0.5 < variance["std_high"]


def test_realised_and_conditional_payments_have_one_mean(whole):
    for agent in ("0", "1"):
        labels = {"cell": 0, "agent": agent}
        realised = row(whole.summary, measure="payment", **labels)
        conditional = row(whole.summary, measure="expected_payment", **labels)
        gap = abs(realised["mean"] - conditional["mean"])
        # Five standard errors of the noisier one: false alarms below 6e-7.
        assert gap < 5 * realised["std"] / 50
    ratios = whole.variance_ratios
    second = ratios[ratios["rule.payment"] == "second_price"]
    # A mean given the token varies less; Clarke's payments do not depend on it.
    assert (second["ratio"] > 1.05).all()
    assert (
        (second["low"] < second["ratio"]) & (second["ratio"] < second["high"])
    ).all()
    assert (ratios[ratios["rule.payment"] == "clarke"]["ratio"] == 1).all()


def test_results_load_as_pandas_polars_and_xarray(whole):
    frame = whole.to_pandas()
    assert whole.to_polars().height == len(frame)
    dataset = whole.to_xarray()
    assert dataset["welfare"].dims == (
        *("rule.payment", "values.sigma", "valuation", "statistic"),
    )
    cell = dataset["welfare"].sel(
        {"rule.payment": "clarke", "values.sigma": 0.1, "valuation": "reverse_kl"}
    )
    row = frame[(frame["cell"] == 3) & (frame["measure"] == "welfare")].iloc[2]
    assert float(cell.sel(statistic="mean")) == row["mean"]
    assert dataset["payment"].sel(agent="1").notnull().all()


def test_an_unknown_measure_is_named(whole):
    with pytest.raises(ValueError, match="no measure 'welfre': there are welfare/"):
        whole.covariance("welfre")


CLOSED = """
num_auctions = 4096
num_tokens = 2
[agents]
kind = "table"
probs = [[0.9, 0.1], [0.2, 0.8]]
[values]
kind = "fixed"
amounts = [2.0, 1.0]
"""


def test_two_agents_and_two_tokens_match_the_exact_values(folder):
    path = folder / "closed.toml"
    path.write_text(CLOSED)
    found = tiny_study.run(path, folder / "closed", blocks_per_chunk=4)
    table = found.summary.set_index(["measure", "valuation", "agent"])
    p, w = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([2.0, 1.0])
    q = w @ p / 3
    distance = np.abs(p - q).sum(1) / 2
    divergence = (p * np.log(p / q)).sum(1)
    reverse = (q * np.log(q / p)).sum(1)

    def phi(x):
        return np.log1p(x) - x / (1 + x)

    price = 0.7 * np.array([1 * phi(2.0), 2 * phi(0.5)])
    exact = {
        ("welfare", "total_variation", ""): -w @ distance,
        ("welfare", "forward_kl", ""): -w @ divergence,
        ("welfare", "reverse_kl", ""): -w @ reverse,
        # The optimum is the first agent's distribution, at a welfare of -0.7.
        ("optimum_shortfall", "total_variation", ""): w @ distance - 0.7,
        ("optimum_shortfall", "forward_kl", ""): 0,
        ("minimum_welfare", "total_variation", ""): -max(w * distance),
        ("nash_welfare", "", ""): np.log(1 - distance).sum(),
    }
    per_token = {
        ("weight", "", "0"): 2 / 3,
        ("entropy", "", ""): -(q @ np.log(q)),
        ("robustly_gains", "", "0"): 1,
    }
    per_text = {key: 2 * value for key, value in exact.items()}
    for key, value in (per_text | per_token).items():
        # The same in every text, up to float32.
        assert table.loc[key, "mean"] == pytest.approx(value, abs=3e-6), key
    for agent, expected in enumerate(2 * price):
        for measure in ("payment", "expected_payment"):
            row = table.loc[(measure, "", str(agent))]
            # Five standard errors: false alarms 6e-7 each.
            assert abs(row["mean"] - expected) < 5 * row["std"] / 64
    for name in ("total_variation", "forward_kl", "reverse_kl"):
        row = table.loc[("realized_welfare", name, "")]
        gap = abs(row["mean"] - table.loc[("welfare", name, "")]["mean"])
        assert gap < 5 * row["std"] / 64


STOP = """
num_auctions = 60000
num_tokens = 1
keep_auctions = 0
[agents]
num_agents = 2
vocab_size = 3
concentration = 1.0
[stop]
measure = "revenue"
half_width = 0.01
"""


def test_a_study_stops_once_it_is_precise_enough(folder):
    path = folder / "stop.toml"
    path.write_text(STOP)
    found = tiny_study.run(path, folder / "stop")
    assert found.stopped_early
    assert found.finished
    assert found.sequential
    assert found.num_auctions % 1024 == 0
    # Of the same mean, and less variable.
    row = found.summary.set_index("measure").loc["expected_revenue"]
    assert (row["high"] - row["low"]) / 2 <= 0.01
    # Not precise enough one chunk earlier.
    parts = range(found.folder.num_parts() - 1)
    chunks = [found.folder.read_part(k) for k in parts]
    before = functools.reduce(Statistics.merge, chunks)
    assert before.num_auctions == found.num_auctions - 1024
    assert not precise_enough(found.study, found.plan, before)
    # Wider than an interval that may be looked at only once.
    fixed = 1.96 * row["std"] / np.sqrt(row["n"])
    assert (row["high"] - row["low"]) / 2 > 1.2 * fixed
    # It is done: nothing more runs.
    again = tiny_study.run(path, folder / "stop")
    assert again.num_auctions == found.num_auctions
    assert again.folder.sessions()[-1]["auctions"] == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="not on this system")
def test_no_more_threads_than_a_scheduler_gives_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})
    assert [engine.num_threads(devices) for devices in (1, 2, 8)] == [3, 2, 1]


UNDEFINED = """
num_auctions = 100
num_tokens = 2
[agents]
kind = "dirichlet"
num_agents = 2
vocab_size = 4
[sampling]
top_k = 2
[rule]
aggregation = "log_linear"
"""


def test_failed_auctions_are_counted_and_left_out(folder):
    path = folder / "undefined.toml"
    path.write_text(UNDEFINED)
    found = tiny_study.run(path, folder / "undefined")
    undefined = int((~found.auctions["valid"]).sum())
    # Two agents with two tokens each share none in one auction out of six.
    assert 5 < undefined < 40
    assert (found.summary["undefined"] == undefined).all()
    assert row(found.summary, measure="revenue")["n"] == 100 - undefined
    forward = row(found.summary, measure="welfare", valuation="forward_kl")
    # An agent whose token the other vetoes values the outcome at minus infinity.
    assert forward["infinite"] > 0
    assert forward["n"] + forward["infinite"] == 100 - undefined


def test_columns_are_the_union_of_the_cells(folder):
    path = folder / "union.toml"
    path.write_text(
        "num_auctions = 50\nnum_tokens = 1\n[agents]\nvocab_size = 3\n"
        "[factors]\nagents.num_agents = [3, 1]\n"
    )
    found = tiny_study.run(path, folder / "union")
    agents = found.summary[found.summary["measure"] == "payment"].groupby("cell")
    assert agents["agent"].apply(list).tolist() == [["0", "1", "2"], ["0"]]
    assert Column("payment", agent=2) in found.columns
    compared = found.differences[found.differences["measure"] == "payment"]
    assert compared["agent"].tolist() == ["0"]


def test_plans_follow_from_the_study_alone():
    study = validate_study({"agents": {"vocab_size": 50_000}, "num_auctions": 10_000})
    cells = population.build([cell.setting for cell in study.cells()])
    assert make_plan(study, cells).block == 32
