"""Rollouts as texts, data frames and labelled arrays, against a plain loop."""

import jax
import numpy as np
import pytest
from toy_scenario import END, TABLE, Letters

import tokenauction_jax as ta
from tokenauction_jax import bidding

NAMES = ("Alpha", "Beta")
RULE = ta.linear()
MECHANISM = ta.Mechanism(RULE, ta.second_price(RULE))
FIRST = 7


def run(bids, mechanism=MECHANISM, table=TABLE):
    with np.errstate(divide="ignore"):
        pool = ta.agents.tabular(np.log(table), end_token=END)
    return ta.simulate(
        *(jax.random.key(0), mechanism, pool, bids),
        num_tokens=6,
        num_auctions=20,
        first_auction=FIRST,
    )


@pytest.fixture(scope="module")
def rollout():
    return run([1.0, 2.0])


@pytest.fixture(scope="module")
def paced():
    return run(ta.Bidders([bidding.constant(1.0), bidding.constant(3.0)], 4.0))


def rows(rollout, names):
    """A row a token, one by one."""
    arrays = {
        "payment": rollout.payments,
        "expected_payment": rollout.expected_payments,
    }
    if rollout.bids is not None:
        arrays["bid"] = rollout.bids
    for auction, mask in enumerate(np.asarray(rollout.mask)):
        for position in np.flatnonzero(mask):
            token = int(rollout.tokens[auction, position])
            yield {
                "auction": FIRST + auction,
                "position": position,
                "token": token,
                "piece": "" if token == END else Letters().pieces([token])[0],
                "log_prob": rollout.log_prob[auction, position],
                **{
                    f"{key}/{name}": array[auction, position, i]
                    for key, array in arrays.items()
                    if array is not None
                    for i, name in enumerate(names)
                },
                "valid": bool(rollout.valid[auction]),
            }


@pytest.mark.parametrize("kind", ["rollout", "paced"])
def test_frames_have_a_row_for_each_token(kind, request):
    rollout = request.getfixturevalue(kind)
    frame = rollout.to_pandas(NAMES, tokenizer=Letters(), first_auction=FIRST)
    expected = list(rows(rollout, NAMES))
    assert len(frame) == len(expected) == rollout.mask.sum() < rollout.mask.size
    for found, row in zip(frame.to_dict("records"), expected, strict=True):
        assert list(found) == list(row)
        assert found == row


def test_agents_are_numbered_and_pieces_need_a_tokenizer(rollout):
    frame = rollout.to_pandas()
    assert "piece" not in frame
    assert "bid/0" not in frame
    assert frame["payment/1"].sum() == pytest.approx(rollout.payments[..., 1].sum())
    assert frame["auction"].min() == 0


def test_undefined_tokens_are_left_out():
    """Nobody can produce what the other one wants, once the first token is drawn."""
    table = np.array([[[0.5, 0.5, 0, 0], [0, 1, 0, 0]] * 2, [[0.5, 0.5, 0, 0]] * 4])
    table[1, 1] = [1, 0, 0, 0]
    rule = ta.log_linear()
    rollout = run([1.0, 1.0], ta.Mechanism(rule, ta.pay_your_bid()), table)
    frame = rollout.to_pandas(NAMES)
    assert (~rollout.valid).any()
    assert len(frame) == rollout.mask.sum()
    lost = frame[~frame["valid"]]
    assert set(lost["auction"]) <= set(np.flatnonzero(~rollout.valid))
    assert np.isfinite(frame["log_prob"]).all()


@pytest.mark.parametrize("kind", ["rollout", "paced"])
def test_datasets_are_the_arrays(kind, request):
    rollout = request.getfixturevalue(kind)
    found = rollout.to_xarray(NAMES, first_auction=FIRST)
    assert dict(found.sizes) == {"auction": 20, "position": 6, "agent": 2}
    beta = found["payment"].sel(auction=FIRST + 3, agent="Beta")
    np.testing.assert_array_equal(beta, rollout.payments[3, :, 1])
    pairs = {"token": "tokens", "expected_payment": "expected_payments"}
    pairs |= {name: name for name in ("log_prob", "mask", "valid")}
    if kind == "paced":
        pairs |= {"bid": "bids", "exhausted": "exhausted"}
    assert set(found.data_vars) == {*pairs, "payment"}
    for name, place in pairs.items():
        np.testing.assert_array_equal(found[name], getattr(rollout, place))
    # Of tokens that are none, NaN: a mean over the others.
    paid = found["payment"].where(found["mask"]).sel(agent="Alpha").mean()
    mean = rollout.to_pandas(NAMES)["payment/Alpha"].mean()
    np.testing.assert_allclose(paid, mean, rtol=1e-5)


def test_texts_are_without_their_end(rollout):
    texts = rollout.texts(Letters())
    frame = rollout.to_pandas(tokenizer=Letters())
    assert len(texts) == 20
    for auction, text in enumerate(texts):
        assert "".join(frame.loc[frame["auction"] == auction, "piece"]) == text
        assert "$" not in text


@pytest.mark.parametrize("names", [["Alpha"], ["A", "A"], "AB", ["A", "B", "C"]])
def test_wrong_names_are_refused(rollout, names):
    for method in (rollout.to_pandas, rollout.to_xarray):
        with pytest.raises(ValueError, match="names must be 2 different ones"):
            method(names)


def test_auctions_are_numbered_by_integers(rollout):
    with pytest.raises(ValueError, match="first_auction must be an integer"):
        rollout.to_pandas(first_auction=-1)


def test_rollouts_of_a_vmap_are_refused(rollout):
    several = jax.tree.map(lambda x: x[None], rollout)
    with pytest.raises(ValueError, match="one by one"):
        several.to_pandas()
