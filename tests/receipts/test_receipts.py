"""Receipts of single texts, and that a replay finds whatever is not right in one."""

import dataclasses
import functools
import json
import math
import operator

import jax
import mutations
import numpy as np
import pytest
import tiny_study
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import write_checkpoint

import tokenauction_jax as ta
from tokenauction_jax import receipts
from tokenauction_jax.files import ExistsError
from tokenauction_jax.receipts import ReceiptError, issue
from tokenauction_jax.receipts.receipt import BY_AGENT, INPUTS, Receipt, leaves
from tokenauction_jax.receipts.replay import compare
from tokenauction_jax.scenarios.scenario import Sampling, validate_scenario
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.reading import read_study

pytestmark = pytest.mark.usefixtures("one_device")
AUCTION = 2
# What only a checksum knows: all else can be another one's, elsewhere.
UNCHECKED = ("environment", "checksums")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    model = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
    agents = [
        {"name": "Alpha", "prompt": "{query} Alpha!", "bid": 1.0},
        {"name": "Beta", "prompt": "{query} Beta.", "bid": 3.0, "value": 2.0},
    ]
    content = {"query": "Where to?", "model": model, "agents": agents}
    return validate_scenario(content | {"num_auctions": 4, "num_tokens": 5})


@pytest.fixture(scope="module")
def receipt(scenario):
    return receipts.of_scenario(scenario, auction=AUCTION)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study that did not run yet."""
    path = tiny_study.write(tmp_path_factory.mktemp("study"))
    read, folder = read_study(path), Folder(path.parent / "run")
    folder.create(read, make_plan(read, read.populations), path)
    return folder.path


def changed(value):
    """Another value of the same type, as an editor would type it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        # In the last digit that float32 has.
        return float(np.nextafter(np.float32(value), np.float32(np.inf)))
    if isinstance(value, str):
        return {"-inf": 0.0}.get(value, value + "x")
    if value is None:
        return 1.0
    return {"x": "1"} if isinstance(value, dict) else [1]


def mutated(content, name):
    """The content with another value at a place, such as ``tokens.0.token``."""
    named = {".".join(map(str, x)): x for x in mutations.places(content)}
    value = functools.reduce(operator.getitem, named[name], content)
    return mutations.with_value(content, named[name], changed(value))


def assert_consistent(receipt):
    """What holds of every receipt of a linear auction."""
    frame = receipt.to_pandas()
    q = np.exp(frame["log_prob"])
    brought = {
        name: frame[f"weight/{name}"] * np.exp(frame[f"log_p/{name}"])
        for name in receipt.agents
    }
    np.testing.assert_allclose(sum(brought.values()), q, rtol=1e-5)
    for name, bid in zip(receipt.agents, receipt.bids, strict=True):
        np.testing.assert_allclose(
            frame[f"weight/{name}"], bid / sum(receipt.bids), rtol=1e-6
        )
        np.testing.assert_allclose(
            frame[f"attribution/{name}"], brought[name] / q, rtol=1e-5
        )
        for kind in ("payment", "expected_payment"):
            np.testing.assert_allclose(
                frame[f"total_{kind}/{name}"], frame[f"{kind}/{name}"].cumsum()
            )


def test_a_receipt_is_consistent(receipt):
    assert len(receipt.tokens) > 1
    assert_consistent(receipt)
    assert receipt.environment["backend"] == "cpu"
    assert (receipt.seed, receipt.num_tokens) == (0, 5)
    assert receipt.bids == (1.0, 3.0)
    assert receipt.dtype == "float32"


def test_receipts_of_a_study(study):
    """Of tables, whose tokens are numbers."""
    cell = 2
    found = receipts.of_cell(study, cell=cell, auction=5)
    drawn = read_study(study / "study.toml").populations[cell]
    rollout = ta.simulate(
        *(jax.random.key(0), drawn.mechanism, drawn.pool, drawn.draw(4, 2)[1]),
        num_tokens=3,
        first_auction=4,
    )
    frame, among = found.to_pandas(), rollout.to_pandas(first_auction=4)
    among = among[among["auction"] == 5].reset_index()
    assert found.payment_rule == "clarke"
    assert list(frame["token"]) == list(among["token"])
    for name in ("log_prob", "payment/1", "expected_payment/0"):
        np.testing.assert_allclose(frame[name], among[name], rtol=1e-5)
    assert_consistent(found)
    assert found.text is None
    assert found.tokens[0].piece is None
    assert receipts.replay(Receipt.from_dict(found.to_dict())).agrees
    (first, *_) = receipts.replay(
        Receipt.from_dict(mutated(found.to_dict(), "setting.seed"))
    ).differences
    assert str(first).startswith("setting.seed (1) was changed")


def test_studies_that_no_file_can_name():
    study = ta.studies.Study(agents=ta.agents.dirichlet(2, 5, 1.0), num_tokens=2)
    with pytest.raises(ReceiptError, match="not as objects"):
        receipts.of_cell(study)
    with pytest.raises(ReceiptError, match="cell is 1: give one from 0 to 0"):
        receipts.of_cell(study, cell=1)


def test_receipts_survive_json(receipt, tmp_path):
    path = tmp_path / "receipt.json"
    receipt.write(path)
    assert receipts.read(path) == receipt
    assert Receipt.from_dict(receipt.to_dict()) == receipt
    with pytest.raises(ExistsError):
        receipt.write(path)
    # As JavaScript writes numbers.
    text = path.read_text().replace(".0,", ",").replace(".0\n", "\n")
    other = tmp_path / "other.json"
    other.write_text(text)
    assert text != path.read_text()
    assert receipts.read(other).unsealed() == []


def test_infinite_numbers_survive_json(receipt):
    impossible = dataclasses.replace(receipt.tokens[0], log_p=(-math.inf, math.nan))
    changed = dataclasses.replace(receipt, tokens=(impossible,)).sealed()
    text = json.dumps(changed.to_dict(), allow_nan=False)
    found = Receipt.from_dict(json.loads(text))
    assert found.tokens[0].log_p[0] == -math.inf
    assert math.isnan(found.tokens[0].log_p[1])
    assert found.unsealed() == []


def test_an_undefined_auction_has_a_receipt(scenario):
    """Agents that share no token, under the log-linear rule."""
    one = Sampling(temperature=0.01, top_k=1)
    agents = tuple(dataclasses.replace(x, sampling=one) for x in scenario.agents)
    chosen = dataclasses.replace(scenario, agents=agents)
    found = receipts.of_scenario(chosen, rule="log_linear")
    assert not found.valid
    assert len(found.tokens) < 5
    assert receipts.replay(found).agrees
    assert 'id="undefined"' in found.to_html()
    assert list(found.to_pandas())[:4] == ["position", "token", "piece", "log_prob"]


def test_wrong_arguments(scenario):
    for arguments, message in [
        ({"rule": "liner"}, "no rule 'liner' here: there are linear, log_linear"),
        ({"auction": -1}, "auction is -1"),
        ({"auction": 2**32}, "auction is 4294967296"),
        ({"share": 1.5}, "should be less than or equal to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            receipts.of_scenario(scenario, **arguments)


def test_a_right_receipt_agrees_bit_for_bit(receipt):
    found = receipts.replay(Receipt.from_dict(receipt.to_dict()))
    assert found.agrees
    assert found.exact
    assert found.elsewhere == ()


def places(receipt):
    return [name for name, _ in leaves(receipt.to_dict())]


def test_every_edited_value_is_found(receipt):
    """Every leaf, one at a time; where nothing else tells, by its checksum."""
    content = receipt.to_dict()
    own = Receipt.from_dict(content)
    count = 0
    for name in places(receipt):
        if name in ("setting", "format"):  # Then it is no receipt.
            continue
        wrong = Receipt.from_dict(mutated(content, name))
        section, _, rest = name.partition(".")
        # Where a part of the configuration was edited, a replay runs nothing.
        inputs = section in INPUTS
        found = receipts.replay(wrong) if inputs else compare(wrong, own)
        assert not found.agrees, name
        first = found.differences[0]
        if section == "tokens":
            position, field, *_ = rest.split(".")
            assert (first.position, first.field) == (int(position), field)
            assert first.receipt != first.replayed
        elif section == "checksums":
            assert first.edited
        else:
            assert first.field.startswith(name.rstrip(".0123456789")), name
        count += 1
    assert count > 150


@given(st.data())
def test_edited_checksums_do_not_hide_numbers(receipt, data):
    """Who edits the checksums, too, is found by the replay, to the last digit."""
    names = [x for x in places(receipt) if x.partition(".")[0] not in UNCHECKED]
    names = [x for x in names if x.partition(".")[0] not in INPUTS and x != "format"]
    name = data.draw(st.sampled_from(names))
    content = mutated(receipt.to_dict(), name)
    found = compare(Receipt.from_dict(content).sealed(), receipt)
    first = found.differences[0]
    assert not first.edited
    assert first.receipt != first.replayed
    assert {difference.field for difference in found.differences} <= {
        name,
        f"{name}.x",
        first.field,
    }


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("scenario.seed", "seed"),
        ("scenario.agents.1.bid", "bids"),
        ("scenario.agents.0.prompt", "digests.agents"),
        ("auction", "log_prob"),
    ],
)
def test_a_forged_configuration_does_not_give_its_numbers(receipt, place, field):
    content = mutated(receipt.to_dict(), place)
    if place.endswith("prompt"):  # As long as it was, for the same program.
        content["scenario"]["agents"][0]["prompt"] = "{query} Alpha?"
    found = receipts.replay(Receipt.from_dict(content).sealed())
    assert field in {difference.field for difference in found.differences}


def test_tokens_that_were_left_out(receipt):
    shorter = dataclasses.replace(receipt, tokens=receipt.tokens[:-1])
    for wrong in (shorter, shorter.sealed()):
        found = compare(wrong, receipt)
        first = found.differences[0]
        assert first.position == len(receipt.tokens) - 1
        assert "is nothing in the receipt" in str(first)


def test_elsewhere_numbers_agree_to_a_tolerance(receipt):
    """Whatever computed otherwise: tokens must be the same, and nothing edited."""
    environment = dict(receipt.environment) | {"processor": "another"}
    other = dataclasses.replace(receipt, environment=environment).sealed()
    assert compare(other, receipt).agrees
    assert compare(other, receipt).elsewhere == ("processor",)
    assert not compare(other, receipt).exact
    near = mutated(other.to_dict(), "tokens.1.log_prob")
    assert compare(Receipt.from_dict(near).sealed(), receipt).agrees
    (edited,) = compare(Receipt.from_dict(near), receipt).differences
    assert str(edited) == "token 1 was changed: it does not have its checksum"
    for place, step in [("log_prob", 0.01), ("payments.1", 0.01), ("weights.0", 0.01)]:
        content = other.to_dict()
        name, _, agent = place.partition(".")
        values = content["tokens"][1]
        if agent:
            values[name][int(agent)] += step
        else:
            values[name] += step
        wrong = Receipt.from_dict(content).sealed()
        (first,) = compare(wrong, receipt).differences
        assert (first.position, first.field) == (1, name)
        assert compare(wrong, receipt, tolerance=0.02).agrees
    token = mutated(other.to_dict(), "tokens.0.token")
    assert not compare(Receipt.from_dict(token).sealed(), receipt, 1e9).agrees


def test_other_versions_may_lay_out_agents_otherwise(receipt):
    digests = dict(receipt.digests) | {"agents": "x"}
    other = dataclasses.replace(receipt, digests=digests)
    (first,) = compare(other.sealed(), receipt).differences
    assert first.field == "digests.agents"
    environment = dict(receipt.environment) | {"versions": {"jax": "0.8"}}
    other = dataclasses.replace(other, environment=environment)
    assert compare(other.sealed(), receipt).agrees


def test_differences_are_told_in_a_line(receipt):
    content = receipt.to_dict()
    content["tokens"][1]["payments"][1] = 9.5
    content["bids"][0] = 2.0
    first, second = compare(Receipt.from_dict(content), receipt).differences
    assert str(first) == "bids of Alpha is 2.0 in the receipt and 1.0 in the replay"
    paid = receipt.tokens[1].payments[1]
    assert str(second) == (
        f"token 1: payments of Beta is 9.5 in the receipt and {paid!r} in the replay"
    )


def test_the_tolerance_is_a_number(receipt):
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(ReceiptError, match="tolerance is"):
            receipts.replay(receipt, tolerance=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("bids"), "bids: Field required"),
        (lambda x: x.update(format="tokenauction receipt 2"), "another version"),
        (lambda x: x.update(more=1), "more: "),
        (lambda x: x.update(scenario=None), "a scenario or a setting"),
        (lambda x: x["bids"].pop(), "a bid an agent"),
        (lambda x: x["tokens"][1]["weights"].pop(), "tokens.1 does not have 2 agents"),
        (lambda x: x["tokens"][0].pop("log_p"), "tokens.0.log_p: Field required"),
        (lambda x: x.update(seed="0"), "seed: "),
        (lambda x: x.update(seed=True), "seed: "),
    ],
)
def test_what_is_no_receipt(receipt, change, message):
    content = receipt.to_dict()
    change(content)
    with pytest.raises(ReceiptError, match=message):
        Receipt.from_dict(content)


def test_configurations_that_cannot_run(receipt):
    """A forger's, whose checksums are right."""
    content = receipt.to_dict()
    content["scenario"]["agents"] = []
    with pytest.raises(ValueError, match="agents"):
        receipts.replay(Receipt.from_dict(content).sealed())
    content = receipt.to_dict() | {"scenario": None, "setting": {"seed": -1}}
    with pytest.raises(ReceiptError, match="seed"):
        receipts.replay(Receipt.from_dict(content).sealed())


def test_the_columns_of_a_frame(receipt):
    frame = receipt.to_pandas()
    columns = [f"{name}/{agent}" for name in BY_AGENT for agent in ("Alpha", "Beta")]
    assert list(frame) == ["position", "token", "piece", "log_prob", *columns]
    assert len(frame) == len(receipt.tokens)
    assert frame["payment/Beta"].dtype == np.float64
    empty = dataclasses.replace(receipt, tokens=()).to_pandas()
    assert list(empty) == list(frame)


def test_the_replay_runs_the_auction(receipt, monkeypatch):
    """And not just the checksums."""
    ran = []
    monkeypatch.setattr(issue, "again", lambda x: ran.append(x) or receipt)
    assert receipts.replay(receipt).agrees
    assert ran == [receipt]
