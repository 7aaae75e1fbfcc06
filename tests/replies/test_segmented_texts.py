"""Texts of segments: their law by enumeration, and what belongs to which auction."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoder
from reference import segments as reference

import tokenauction_jax as ta

SIZE, TOKENS, PER_SEGMENT = 3, 3, 2
BIDS = np.array([1.0, 2.0, 0.5], np.float32)
RELEVANCE = np.array([[0.5, 0.2, 1.0], [0.1, 0.8, 0.6]], np.float32)


def markov(seed=0, agents=3, zeros=()):
    """Markov tables `(n, V, V)`; `zeros` are (agent, token) that it never writes."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.ones(SIZE), (agents, SIZE))
    for agent, token in zeros:
        table[agent, :, token] = 0
    with np.errstate(divide="ignore"):
        return np.log(table / table.sum(-1, keepdims=True)).astype(np.float32)


def write(table, bids=BIDS, key=0, end_token=None, **options):
    """Texts of tabular agents."""
    pool = ta.agents.tabular(table, end_token=end_token)
    defaults = {"segment_tokens": PER_SEGMENT, "num_tokens": TOKENS}
    return ta.replies.write_segments(
        jax.random.key(key), pool, bids, **(defaults | options)
    )


def text_law(table, places, replacement):
    """The law of all texts `(V^T,)` over both segments' winners."""
    scores = BIDS * RELEVANCE.astype(float)
    law = np.zeros((SIZE,) * TOKENS)
    p = np.exp(table.astype(float))
    texts = list(itertools.product(range(SIZE), repeat=TOKENS))
    for first, chance in zip(*reference.orders(scores[0], places), strict=True):
        left = scores[1].copy()
        if not replacement:
            left[list(first)] = 0
        if not left.any():
            left = scores[1]
        for second, then in zip(*reference.orders(left, places), strict=True):
            early = p[list(first)].mean(0)
            late = p[list(second)].mean(0)
            for x, y, z in texts:
                law[x, y, z] += chance * then * early[0, x] * early[x, y] * late[y, z]
    return law.ravel()


@pytest.mark.sweep(2)
@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("places", [1, 2, 3])
def test_texts_have_their_law(places, replacement):
    """Counts of 20,000 texts; 27 scores beyond 5.5 deviations: odds of 1e-6."""
    table, count = markov(zeros=[(0, 1)]), 20_000
    texts = write(
        table,
        relevance=RELEVANCE,
        num_ads=places,
        replacement=replacement,
        num_auctions=count,
    )
    law = text_law(table, places, replacement)
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-6)
    numbers = np.asarray(texts.rollout.tokens) @ SIZE ** np.arange(TOKENS)[::-1]
    counts = np.bincount(numbers, minlength=law.size)
    deviation = np.sqrt(count * law * (1 - law)) + 1e-9
    assert (np.abs(counts - count * law) < 5.5 * deviation).all()
    # Prices are those of their means.
    gap = np.asarray(texts.prices - texts.expected, float)
    error = gap.std(0) / np.sqrt(count) + 1e-9
    assert (np.abs(gap.mean(0)) < 5.5 * error).all()


def test_segments_are_auctions_of_those_left():
    table = markov(1)
    texts = write(table, relevance=RELEVANCE, replacement=False, num_auctions=40)
    winners = np.asarray(texts.winners)[..., 0]
    assert (winners[:, 0] != winners[:, 1]).all()
    left = np.tile(RELEVANCE, (40, 1, 1))
    left[np.arange(40), 1, winners[:, 0]] = 0
    expected = jax.jit(
        jax.vmap(jax.vmap(ta.replies.segment().expected, (None, 0)), (None, 0))
    )(BIDS, left)
    np.testing.assert_allclose(texts.expected, expected, rtol=1e-5)
    shares = np.asarray(texts.shares)
    np.testing.assert_array_equal(shares, np.eye(3)[winners])
    # What is paid lies at the first tokens, and adds up to the text's payments.
    paid = np.asarray(texts.rollout.payments)
    np.testing.assert_array_equal(paid[:, [0, 2]], texts.prices)
    assert (paid[:, 1] == 0).all()
    np.testing.assert_allclose(paid.sum(1), texts.payments, rtol=1e-6)
    expected = np.asarray(texts.rollout.expected_payments)
    np.testing.assert_array_equal(expected[:, [0, 2]], texts.expected)


def test_when_all_have_won_all_take_part_anew():
    """Two of three agents bid; they take turns, in any order of each pair."""
    texts = write(
        markov(1),
        np.array([1.0, 0.0, 2.0], np.float32),
        segment_tokens=1,
        num_tokens=6,
        replacement=False,
        num_auctions=40,
    )
    winners = np.asarray(texts.winners)[..., 0]
    pairs = np.sort(winners.reshape(-1, 3, 2), axis=-1)
    np.testing.assert_array_equal(pairs, np.broadcast_to([0, 2], pairs.shape))
    assert len({tuple(row) for row in winners.tolist()}) > 4
    # The second of each pair has no rival.
    prices = np.asarray(texts.prices)
    assert (prices[:, 1::2] == 0).all()
    assert (prices[:, ::2].sum(-1) > 0).all()
    # Fewer than the places: one wins alone, then all again.
    texts = write(markov(1), num_ads=2, replacement=False, num_auctions=40)
    winners = np.asarray(texts.winners)
    assert (winners[:, 0] >= 0).all()
    assert (winners[:, 1, 1] == -1).all()
    assert (np.sort(np.c_[winners[:, 0], winners[:, 1, 0]]) == np.arange(3)).all()
    np.testing.assert_array_equal(
        np.asarray(texts.shares)[:, 1], np.eye(3)[winners[:, 1, 0]]
    )


def test_who_has_won_rests_even_if_it_was_irrelevant_to_the_others():
    """Relevance by segment: where only a former winner is relevant, it writes again."""
    relevance = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    texts = write(
        markov(),
        relevance=relevance,
        segment_tokens=1,
        replacement=False,
        num_auctions=40,
    )
    winners = np.asarray(texts.winners)[..., 0]
    assert (winners[:, :2] == 0).all()
    assert np.isin(winners[:, 2], (1, 2)).all()


def test_texts_that_end():
    """Segments beyond the end are neither reached nor charged."""
    texts = write(
        markov(2), num_tokens=7, end_token=1, num_auctions=60, replacement=False
    )
    lengths = np.asarray(texts.rollout.mask).sum(1)
    assert len(set(lengths.tolist())) > 3
    reached = np.arange(4) * PER_SEGMENT < lengths[:, None]
    np.testing.assert_array_equal(texts.reached, reached)
    assert (np.asarray(texts.winners)[~reached] == -1).all()
    assert (np.asarray(texts.winners)[reached] >= 0).all()
    for x in (texts.prices, texts.expected, texts.shares):
        x = np.asarray(x)
        assert (x[~reached] == 0).all()
        assert (x[reached] >= 0).all()
    assert (np.asarray(texts.shares)[reached].sum(-1) == 1).all()
    np.testing.assert_allclose(
        texts.payments, np.asarray(texts.rollout.payments).sum(1), rtol=1e-6
    )


def test_chunks_and_neighbours():
    table = markov(3)
    options = {"num_ads": 2, "replacement": False}
    rows = np.tile(BIDS, (6, 1))
    whole = write(table, num_auctions=6, first_auction=3, **options)
    parts = [
        write(table, rows[:3], first_auction=3, **options),
        write(table, rows[3:], first_auction=6, **options),
    ]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert jax.tree.structure(joined) == jax.tree.structure(whole)
    for x, y in zip(*map(jax.tree.leaves, (whole, joined)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    # Neighbours of other bids change nothing.
    rows[1:] = rows[1:, ::-1]
    other = write(table, rows, first_auction=3, **options)
    np.testing.assert_array_equal(other.rollout.tokens[0], whole.rollout.tokens[0])
    np.testing.assert_allclose(other.prices[0], whole.prices[0], rtol=1e-6)
    assert (other.winners[1:] != whole.winners[1:]).any()


def test_randomness_belongs_to_segments():
    table = markov(3)
    short = write(table, num_auctions=40)
    # More segments change nothing of the first ones.
    long = write(table, num_tokens=60, num_auctions=40)
    np.testing.assert_array_equal(long.winners[:, :2], short.winners)
    np.testing.assert_array_equal(long.rollout.tokens[:, :3], short.rollout.tokens)
    # Auctions and segments differ in their random numbers.
    winners = np.asarray(long.winners)[..., 0]
    assert len(np.unique(winners, axis=0)) == 40
    assert len(np.unique(winners.T, axis=0)) == 30
    assert len(np.unique(long.prices)) == 40 * 30 + 1


def test_whole_as_one_program():
    table = markov(4)

    @jax.jit
    def traced(bids, relevance, first):
        return write(table, bids, relevance=relevance, first_auction=first)

    rows = np.tile(BIDS, (6, 1))
    found, expected = (
        traced(rows, RELEVANCE, 2),
        write(table, rows, relevance=RELEVANCE, first_auction=2),
    )
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)

    def paid(bids):
        return write(table, bids).expected[0, 0].sum()

    slope = jax.grad(paid)(jnp.asarray(rows))
    revenue = jax.grad(lambda b: ta.replies.segment().expected(b, jnp.ones(3)).sum())
    np.testing.assert_allclose(slope[0], revenue(jnp.asarray(BIDS)), rtol=1e-4)
    assert (np.asarray(slope)[1:] == 0).all()
    # An auction that has a segment without any score stops there.
    undefined = RELEVANCE.copy()
    undefined[1] = 0
    found = traced(rows, undefined, 2)
    assert not np.asarray(found.rollout.valid).any()
    np.testing.assert_array_equal(np.asarray(found.rollout.mask).sum(1), 2)
    np.testing.assert_array_equal(found.reached, np.tile([True, False], (6, 1)))
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(found))


def test_meshes():
    """8 devices, each with its own auctions, hold what one does."""
    table = markov(5)
    expected = write(table, num_auctions=16, num_ads=2)
    mesh = jax.make_mesh((8,), ("auctions",), (jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        found = write(table, num_auctions=16, num_ads=2)
        assert len(found.rollout.tokens.sharding.device_set) == 8
        assert len(found.winners.sharding.device_set) == 8
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_observers():
    """They see shares in place of bids; what they sum is of tokens that were drawn."""

    def seen(shares, log_probs, log_q, token, number):
        return {"shares": shares, "log_prob": log_probs[:, token], "number": number}

    texts = write(
        markov(6),
        num_auctions=40,
        observe=seen,
        accumulate=seen,
        observe_args=(jnp.arange(40.0),),
    )
    shown = np.asarray(texts.rollout.observations["shares"])
    np.testing.assert_array_equal(shown[:, ::2], texts.shares)
    own = np.take_along_axis(
        np.asarray(texts.rollout.observations["log_prob"]),
        shown.argmax(-1)[..., None],
        2,
    )[..., 0]
    np.testing.assert_allclose(own, texts.rollout.log_prob, atol=1e-6)
    numbers = texts.rollout.totals["number"]
    np.testing.assert_allclose(numbers, 3 * np.arange(40))
    assert texts.rollout.bids is None


def test_random_tables():
    pool = ta.agents.dirichlet(num_agents=3, vocab_size=5, concentration=1.0)
    texts = ta.replies.write_segments(
        jax.random.key(0), pool, BIDS, segment_tokens=2, num_tokens=4, num_auctions=5
    )
    assert texts.rollout.tokens.shape == (5, 4)
    assert np.asarray(texts.rollout.valid).all()


def test_language_models():
    """A segment's tokens are those of its winner, which has read the whole text."""
    models, prompts = [tiny_decoder.make(seed=k) for k in (0, 1)], [[5, 6, 7], [8, 9]]
    pool = ta.agents.from_language_model(models, None, prompts)
    texts = ta.replies.write_segments(
        jax.random.key(0),
        pool,
        [1.0, 2.0],
        segment_tokens=2,
        num_tokens=6,
        num_auctions=4,
        replacement=False,
    )
    winners = np.asarray(texts.winners)[..., 0]
    assert len(np.unique(winners, axis=0)) > 1
    for auction in range(4):
        text = texts.rollout.tokens[auction].tolist()
        answers = [
            tiny_decoder.log_probs(model, prompt + text)[len(prompt) - 1 :]
            for model, prompt in zip(models, prompts, strict=True)
        ]
        own = [
            float(answers[winners[auction, t // 2]][t, x]) for t, x in enumerate(text)
        ]
        np.testing.assert_allclose(texts.rollout.log_prob[auction], own, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bids": [1.0, 2.0]}, "bids has shape"),
        ({"bids": [1.0, -2.0, 1.0]}, r"bids must be .*, got -2.0 at \[1\]"),
        ({"bids": [0.0, 0.0, 0.0]}, r"bids \* relevance must have a positive sum"),
        ({"relevance": [1.0, 2.0]}, "relevance has shape"),
        ({"relevance": np.ones((3, 3))}, r"one row for each of 2 segments, \(2, 3\)"),
        ({"relevance": [1.0, -2.0, 1.0]}, "relevance must be finite and not negative"),
        ({"relevance": [[1, 1, 1], [0, 0, 0]]}, "must have a positive sum in every"),
        ({"segment_tokens": 0}, "segment_tokens must be an integer"),
        ({"num_tokens": 0}, "num_tokens must be an integer"),
        ({"num_ads": 0}, "num_ads must be an integer"),
        ({"num_auctions": 0}, "num_auctions must be an integer"),
        ({"num_auctions": None}, "bids of shape .* need num_auctions"),
        ({"first_auction": -1}, "first_auction must be an integer"),
    ],
)
def test_refusals(options, message):
    options = {"num_auctions": 2} | options
    bids = np.array(options.pop("bids", BIDS))
    if "relevance" in options:
        options["relevance"] = np.array(options["relevance"])
    with pytest.raises(ValueError, match=message):
        write(markov(), bids, **options)


def test_a_pool_that_answers_nan_is_found_out():
    table = markov(7)
    table[:, 1] = np.nan
    pool = replace(ta.agents.tabular(markov(7)), log_probs=jnp.asarray(table))
    texts = ta.replies.write_segments(
        jax.random.key(0), pool, BIDS, segment_tokens=1, num_tokens=3, num_auctions=40
    )
    broken = (np.asarray(texts.rollout.tokens)[:, :2] == 1).any(1)
    np.testing.assert_array_equal(~np.asarray(texts.rollout.valid), broken)
    assert np.isfinite(np.asarray(texts.payments)).all()
