"""The reward for mentions is the measure of studies, in every transformation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_scenario import Letters

import tokenauction_jax as ta
from tokenauction_jax import bidding, measures
from tokenauction_jax.scenarios.population import Cast
from tokenauction_jax.studies import samples

KEY = 0
WORDS = ("Alpha", "beta", "air", "end")


class Words:
    """A tokenizer whose padding and end token name somebody, too."""

    end_tokens = (3,)

    def decode(self, tokens):
        return " ".join(WORDS[token] for token in tokens)


READER = Words()
# Agent 0 prefers "Alpha", agent 1 others; a row for each last token.
ROWS = [[[0.6, 0.1, 0.2, 0.1], [0.1, 0.5, 0.2, 0.2]]]
ROWS += [[[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]]]
TABLE = np.log(np.swapaxes(np.tile(ROWS, (2, 1, 1)), 0, 1))
POOL = ta.agents.tabular(TABLE, end_token=3, start=1)
MECHANISM = ta.Mechanism(ta.linear(), ta.pay_your_bid())
TEXT = {"values": [1.0, 1.0], "num_tokens": 3}


def texts(reader, size, seed=0, most=12):
    """Random tokens `(A, T)` and masks, some of which end before the cap."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, size, (300, most))
    lengths = rng.integers(0, most + 1, 300)
    mask = np.arange(most) < lengths[:, None]
    ends = (rng.random(300) < 0.5) & (lengths > 0)
    tokens[ends, lengths[ends] - 1] = reader.end_tokens[0]
    return np.where(mask, tokens, 0).astype(np.int32), mask


def studied(reader, phrases, tokens, mask):
    """What a study says of the same texts."""
    cell = types.SimpleNamespace(
        cast=Cast(None, reader, [phrases]),
        setting=types.SimpleNamespace(has_texts=True),
    )
    valid, nothing = np.ones(len(tokens), bool), np.zeros((len(tokens), 0))
    done = measures.Texts(nothing, valid, mask.sum(axis=1), tokens, None)
    return samples.all_measures(cell, done, samples.decode(cell, done))[:, 0]


@pytest.mark.parametrize(
    ("reader", "size", "phrases"),
    [
        (READER, 4, ["ALPHA AIR", "air air"]),
        (READER, 4, ["alph"]),
        (Letters(), 4, ["b", "$"]),
        ("house", 2048, ["a", "the", "s", "an"]),
    ],
    ids=("words", "parts", "letters", "house"),
)
def test_is_what_studies_measure(reader, size, phrases):
    if reader == "house":
        reader = ta.agents.load_checkpoint(reader).tokenizer
    tokens, mask = texts(reader, size)
    found = jax.jit(bidding.mentions(reader, phrases, 2.5))(tokens, mask)
    due = studied(reader, phrases, tokens, mask)
    assert (due.min() < due.max()) or phrases == ["alph"]
    np.testing.assert_array_equal(found, 2.5 * due)


def test_texts_of_the_house_model():
    checkpoint = ta.agents.load_checkpoint("house")
    pool = ta.agents.from_language_model(
        checkpoint.model,
        checkpoint.tokenizer,
        ["Write an ad for Alpha Airlines.", "Write an ad for Beta Resort."],
        temperature=0.5,
    )
    rollout = ta.simulate(
        *(jax.random.key(0), MECHANISM, pool, [1.0, 1.0]),
        num_tokens=12,
        num_auctions=32,
    )
    reward = bidding.mentions(checkpoint.tokenizer, ["Alpha Airlines"])
    found = reward(rollout.tokens, rollout.mask)
    args = map(np.asarray, (rollout.tokens, rollout.mask))
    due = studied(checkpoint.tokenizer, ["Alpha Airlines"], *args)
    assert 0 < due.mean() < 1
    np.testing.assert_array_equal(found, due)


def test_neither_padding_nor_the_end_names():
    """Token 0 is "Alpha", and what follows a text is 0."""
    reward = bidding.mentions(READER, ["alpha", "end"])
    tokens = jnp.array([[1, 3, 0], [1, 2, 0], [0, 3, 0], [2, 1, 3], [0, 0, 0]])
    lengths = np.array([2, 3, 2, 3, 0])
    found = reward(tokens, np.arange(3) < lengths[:, None])
    np.testing.assert_array_equal(found, [0, 1, 1, 0, 0])


def test_transformations():
    """Batches under `vmap` and `lax.map`, amounts as an array."""
    tokens, mask = (x.reshape(6, 50, 12) for x in texts(READER, 4))
    amounts = jnp.linspace(0.5, 2, 50)

    def score(tokens, mask, amounts):
        return bidding.mentions(READER, ["alpha air"], amounts)(tokens, mask)

    due = [score(*pair, amounts) for pair in zip(tokens, mask, strict=True)]
    mapped = jax.vmap(score, (0, 0, None))
    np.testing.assert_array_equal(jax.jit(mapped)(tokens, mask, amounts), due)
    np.testing.assert_array_equal(mapped(tokens, mask, amounts), due)
    one_by_one = jax.lax.map(lambda x: score(*x, amounts), (tokens, mask))
    np.testing.assert_array_equal(one_by_one, due)
    # Only tokens in one axis, only amounts in another.
    each = jax.vmap(score, (None, None, 0))(tokens[0], mask[0], jnp.arange(3.0))
    np.testing.assert_array_equal(each, np.outer(np.arange(3), due[0] > 0))


def alpha(amount):
    """The same reward, of tokens."""
    return lambda tokens, mask: amount * (mask & (tokens == 0)).any(axis=1)


def worth(amount, reward=None, function=bidding.exact, **options):
    reward = reward or bidding.mentions(READER, ["alpha"], amount)
    objective = bidding.text_reward(0, reward) + 0.5 * bidding.revenue()
    args = () if function is bidding.exact else (jax.random.key(KEY),)
    args += (MECHANISM, POOL, [0.5, 1.0], objective)
    return function(*args, **TEXT, **options)


def test_of_tables_exactly():
    found, slope = jax.value_and_grad(worth)(3.0)
    due = worth(3.0, alpha(3.0))
    np.testing.assert_allclose(found, due, rtol=1e-6)
    np.testing.assert_allclose(slope, (due - worth(0.0, alpha(0.0))) / 3, rtol=1e-5)


def test_the_derivative_of_sampled_texts_is_exact():
    """Worth is linear in the amount, whatever is drawn."""

    @jax.value_and_grad
    def sampled(amount):
        return worth(amount, function=bidding.expected, num_auctions=500)

    found, slope = sampled(3.0)
    np.testing.assert_allclose(found - 3 * slope, sampled(0.0)[0], rtol=1e-5)
    rollout = ta.simulate(
        *(jax.random.key(KEY), MECHANISM, POOL, [0.5, 1.0]),
        num_tokens=3,
        num_auctions=500,
    )
    due = alpha(1.0)(rollout.tokens, rollout.mask).mean()
    np.testing.assert_allclose(slope, due, rtol=1e-5)


def test_one_amount_an_auction():
    """Also where one token of a table decides, and nothing else is drawn."""
    amounts, bids = jnp.linspace(0, 2, 40), [0.5, 1.0]
    objective = bidding.text_reward(0, bidding.mentions(READER, ["alpha"], amounts))
    found = bidding.value_and_grad(
        *(jax.random.key(KEY), MECHANISM, POOL, bids, objective),
        **TEXT | {"num_tokens": 1},
        num_auctions=40,
    )
    rollout = ta.simulate(
        *(jax.random.key(KEY), MECHANISM, POOL, bids), num_tokens=1, num_auctions=40
    )
    due = (amounts * (rollout.tokens[:, 0] == 0)).mean() - 0.5
    np.testing.assert_allclose(found.value, due, rtol=1e-5)


def aim(reward):
    """What each agent wants."""
    return lambda agent: bidding.text_reward(agent, reward)


SEARCHES = ["best_response", pytest.param("equilibrium", marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("function", SEARCHES)
def test_searches_are_those_of_the_same_reward(function):
    options = TEXT | {"num_tokens": 2, "num_auctions": 50}
    args = [jax.random.key(KEY), MECHANISM, POOL]
    if function == "best_response":
        args += [[0.5, 1.0], 0]
    else:
        options |= {"num_steps": 2}
    rewards = bidding.mentions(READER, ["alpha"], 3.0), alpha(3.0)
    found, due = (
        getattr(bidding, function)(*args, valuation=aim(reward), **options)
        for reward in rewards
    )
    jax.tree.map(np.testing.assert_array_equal, found, due)


def test_equal_rewards_share_a_program():
    traces = []

    @jax.jit
    def score(reward, tokens, mask):
        traces.append(reward)
        return reward(tokens, mask)

    tokens, mask = texts(READER, 4)
    for amount in (1.0, 2.0):
        # A list of its own each time.
        score(bidding.mentions(READER, ["alpha", "air"], amount), tokens, mask)
    assert len(traces) == 1
    score(bidding.mentions(READER, ["air"]), tokens, mask)
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokenizer": None}, "tokenizer must be that of the pool's .* got None"),
        ({"phrases": []}, r"phrases must be a list of words or names, got \[\]"),
        ({"phrases": "Alpha"}, "phrases must be a list .* got 'Alpha'"),
        ({"phrases": ["Alpha", " "]}, "phrases must be a list"),
        ({"phrases": None}, "phrases must be a list"),
        ({"amount": -1.0}, "amount must be finite and not negative, got -1"),
        ({"amount": np.inf}, "amount must be finite and not negative, got inf"),
        ({"amount": [1.0, np.nan]}, "amount must be finite and not negative"),
        ({"amount": [[1.0]]}, r"amount has shape \(1, 1\), expected \(\) or \(A,\)"),
    ],
)
def test_refusals(change, match):
    given = {"tokenizer": READER, "phrases": ["Alpha"], "amount": 1.0}
    with pytest.raises(ValueError, match=match):
        bidding.mentions(**given | change)


def test_amounts_of_other_texts_are_refused():
    with pytest.raises(ValueError, match=r"amount has shape \(3,\), expected one .*64"):
        worth(jnp.ones(3))
