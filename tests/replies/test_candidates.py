"""Candidates against enumerated texts, and the laws of what is returned of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoder
from reference import aggregation
from reference import replies as reference

import tokenauction_jax as ta

SIZE, TOKENS, REFERENCE = 3, 2, 2
TEXTS = SIZE**TOKENS


def markov(seed=0, agents=3, zeros=()):
    """Markov tables `(n, V, V)`; `zeros` are (agent, token) that it never writes."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.ones(SIZE), (agents, SIZE))
    for agent, token in zeros:
        table[agent, :, token] = 0
    with np.errstate(divide="ignore"):
        return np.log(table / table.sum(-1, keepdims=True)).astype(np.float32)


def draw(table, weights, key=0, **options):
    """Candidates of tabular agents."""
    pool = ta.agents.tabular(table, end_token=options.pop("end_token", None))
    options = {"num_replies": 4, "num_tokens": TOKENS} | options
    return ta.replies.draw_candidates(jax.random.key(key), pool, weights, **options)


def number(tokens):
    """The number of a text among all, in their order."""
    return np.asarray(tokens) @ SIZE ** np.arange(TOKENS)[::-1]


def test_log_probabilities():
    table = markov(zeros=[(0, 1)])
    weights = np.array([0.5, 1.0, 0.0], np.float32)
    found = draw(table, weights, num_auctions=50)
    assert found.tokens.shape == found.mask.shape == (50, 4, TOKENS)
    assert found.mask.all()
    _, logs = reference.text_log_probs(table, TOKENS)
    texts = number(found.tokens)
    own = np.moveaxis(logs[:, texts], 0, -1)
    assert np.isneginf(own).any()
    np.testing.assert_allclose(found.log_probs, own.astype(float), atol=2e-6)
    mixture = np.asarray(aggregation.linear(weights, np.swapaxes(table, 0, 1)))
    _, of_mixture = reference.text_log_probs(mixture[None], TOKENS)
    expected = of_mixture[0, texts].astype(float)
    np.testing.assert_allclose(found.log_generator, expected, atol=2e-6)


def test_texts_that_end():
    """Log-probabilities are of what was written up to the end."""
    table = markov(1)
    found = draw(table, [0.0, 0.0, 1.0], num_auctions=30, num_tokens=5, end_token=1)
    assert not found.mask.all()
    for auction, reply in np.ndindex(30, 4):
        tokens = np.asarray(found.tokens[auction, reply])
        length = int(found.mask[auction, reply].sum())
        assert length == 5 or tokens[length - 1] == 1
        last = np.concatenate([[0], tokens[: length - 1]])
        own = table[:, last, tokens[:length]].sum(1)
        np.testing.assert_allclose(found.log_probs[auction, reply], own, atol=1e-5)
    importance = ta.replies.log_importance(found, REFERENCE)
    np.testing.assert_allclose(importance, 0, atol=2e-6)


def test_chunks_and_neighbours():
    table, weights = markov(2), np.array([1.0, 2.0, 0.5], np.float32)
    whole = draw(table, weights, num_auctions=7, first_auction=3)
    rows = np.tile(weights, (7, 1))
    parts = [
        draw(table, rows[:2], first_auction=3),
        draw(table, rows[2:], first_auction=5),
    ]
    for name in ("tokens", "mask", "log_probs", "log_generator"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(whole, name), joined, rtol=1e-6)
    # Neighbours of other weights change nothing, more auctions do not, either.
    rows[1:] = rows[1:, ::-1]
    other = draw(table, rows, first_auction=3)
    np.testing.assert_array_equal(other.tokens[0], whole.tokens[0])
    assert (other.tokens[1:] != whole.tokens[1:]).any()
    traced = jax.jit(
        lambda first: draw(table, weights, num_auctions=7, first_auction=first)
    )
    np.testing.assert_array_equal(traced(3).tokens, whole.tokens)
    # All replies of all auctions differ in their random numbers.
    fair = np.log(np.full((1, 2), 0.5, np.float32))
    long = draw(fair, [1.0], num_auctions=8, num_tokens=60).tokens
    assert len(np.unique(np.asarray(long).reshape(32, 60), axis=0)) == 32


def test_candidates_have_the_law_of_the_generator():
    """Counts of 20,000 replies; 9 scores beyond 5.5 deviations: odds of 4e-7."""
    table, weights = markov(3), np.array([1.0, 2.0, 0.5])
    found = draw(table, weights, num_auctions=2_000, num_replies=10)
    mixture = np.asarray(aggregation.linear(weights, np.swapaxes(table, 0, 1)))
    _, logs = reference.text_log_probs(mixture[None], TOKENS)
    law = np.exp(logs[0]).astype(float)
    counts = np.bincount(number(found.tokens).ravel(), minlength=TEXTS)
    deviation = np.sqrt(20_000 * law * (1 - law))
    assert (np.abs(counts - 20_000 * law) < 5.5 * deviation).all()


def test_language_models_score_what_they_draw():
    """As a model that reads prompt and reply at once, without a cache, does."""
    models, prompts = [tiny_decoder.make(seed=k) for k in (0, 1)], [[5, 6, 7], [8, 9]]
    pool = ta.agents.from_language_model(models, None, prompts)
    options = {"num_replies": 3, "num_tokens": 5, "num_auctions": 2}
    key = jax.random.key(0)
    found = ta.replies.draw_candidates(key, pool, [0.0, 1.0], **options)
    for auction, reply in np.ndindex(2, 3):
        text = found.tokens[auction, reply].tolist()
        for agent, (model, prompt) in enumerate(zip(models, prompts, strict=True)):
            answers = tiny_decoder.log_probs(model, prompt + text)[len(prompt) - 1 :]
            score = sum(float(answers[t, token]) for t, token in enumerate(text))
            own = found.log_probs[auction, reply, agent]
            np.testing.assert_allclose(own, score, atol=1e-4)
    np.testing.assert_allclose(ta.replies.log_importance(found, 1), 0, atol=1e-5)


def test_rewards():
    table, bids = markov(4), np.array([0.5, 2.0, 3.0], np.float32)
    found = draw(table, bids, num_auctions=5)
    rewards = ta.replies.log_ratio_rewards(bids, found, REFERENCE)
    own = np.moveaxis(np.asarray(found.log_probs, float), 2, 1)
    expected = bids[:, None] * (own - own[:, [REFERENCE]])
    np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rewards[:, REFERENCE], 0)
    by_auction = np.stack([bids * k for k in range(5)])
    rewards = ta.replies.log_ratio_rewards(by_auction, found, REFERENCE)
    scales = np.arange(5)[:, None, None]
    np.testing.assert_allclose(rewards, expected * scales, rtol=1e-5, atol=1e-6)


def test_replies_that_someone_cannot_write():
    table = markov(5, zeros=[(0, 1), (REFERENCE, 2)])
    found = draw(table, [0.0, 1.0, 0.0], num_auctions=40)
    impossible = (np.asarray(found.tokens) == 2).any(-1)
    importance = np.asarray(ta.replies.log_importance(found, REFERENCE))
    np.testing.assert_array_equal(np.isneginf(importance), impossible)
    with pytest.raises(ValueError, match="agent 0 bids but cannot write reply"):
        ta.replies.log_ratio_rewards([1.0, 1.0, 0.0], found, REFERENCE)

    def rewards(bids):
        return ta.replies.log_ratio_rewards(bids, found, REFERENCE)

    bids = jnp.array([0.0, 1.0, 0.0])
    silent = np.asarray(rewards(bids))
    assert np.isfinite(silent).all()
    assert (silent[:, 0] == 0).all()
    np.testing.assert_array_equal(np.moveaxis(silent, 1, 2)[impossible], 0)
    traced = np.asarray(jax.jit(rewards)(jnp.array([1.0, 1.0, 0.0])))
    vetoed = (np.asarray(found.tokens) == 1).any(-1) & ~impossible
    np.testing.assert_array_equal(np.isneginf(traced[:, 0]), vetoed)
    assert not np.isnan(traced).any()
    # A bid of 0 has its derivative where that is finite.
    smooth = draw(markov(5), [0.0, 1.0, 0.0], num_auctions=4)

    def worth(bids):
        return ta.replies.log_ratio_rewards(bids, smooth, REFERENCE).sum()

    ratio = (
        np.asarray(smooth.log_probs) - np.asarray(smooth.log_probs)[..., [REFERENCE]]
    )
    gradient = jax.grad(worth)(jnp.zeros(3))
    np.testing.assert_allclose(gradient, ratio.sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_a_pool_that_answers_nan_is_found_out():
    """After token 1; replies without it are as good as ever."""
    table = markov(7)
    table[:, 1] = np.nan
    pool = replace(ta.agents.tabular(markov(7)), log_probs=jnp.asarray(table))
    found = ta.replies.draw_candidates(
        jax.random.key(0),
        pool,
        [1.0, 1.0, 1.0],
        num_replies=9,
        num_tokens=2,
        num_auctions=4,
    )
    wrong = np.asarray(found.tokens)[..., 0] == 1
    assert 0 < wrong.sum() < wrong.size
    np.testing.assert_array_equal(np.isnan(found.log_generator), wrong)
    np.testing.assert_array_equal(np.isnan(found.log_probs).all(-1), wrong)
    log_weights = ta.replies.log_importance(found, REFERENCE)[wrong.any(1).argmax()]
    with pytest.raises(ValueError, match="log_weights must be finite or -inf, got nan"):
        ta.replies.best_of().log_prob(jnp.zeros((1, 9)), log_weights)


def optimum(logs, bids, tau):
    """`p_ref exp(r / tau) / Z` over all texts, and the rewards `(n, V^T)`."""
    rewards = np.asarray(bids)[:, None] * (logs - logs[REFERENCE])
    law = np.exp(aggregation.renormalize(logs[REFERENCE] + rewards.sum(0) / tau))
    return law.astype(float), rewards.astype(np.float32)


@jax.jit
def laws(rule, rewards, log_weights, samples):
    """The chance of each text to be returned, for each sample of texts."""

    def of_sample(texts):
        returned = jnp.exp(rule.log_prob(rewards[:, texts], log_weights[texts]))
        return jnp.zeros(TEXTS).at[texts].add(returned)

    return jax.vmap(of_sample)(samples)


def test_mosaic_tends_to_the_regularised_optimum():
    """The mean law over all samples of 2, 4 and 8 texts, which are enumerated.

    Its error falls as 1 / M, to leading order by `law (W - E W) / M`, with W the ratio
    of the optimum to the generator and its mean over the optimum.
    """
    bids, tau = np.array([0.6, 0.3, 0.0]), 2.0
    _, logs = reference.text_log_probs(markov(6), TOKENS)
    target, rewards = optimum(logs, bids, tau)
    log_generator = np.logaddexp(logs[0], logs[REFERENCE]) - np.log(2)
    log_weights = (logs[REFERENCE] - log_generator).astype(np.float32)
    generator = np.exp(log_generator).astype(float)
    errors = []
    for count in (2, 4, 8):
        samples, orders = reference.samples(TEXTS, count)
        chances = orders * generator[samples].prod(1)
        np.testing.assert_allclose(chances.sum(), 1, rtol=1e-6)
        found = laws(ta.replies.mosaic(tau), rewards, log_weights, samples)
        errors.append(chances @ np.asarray(found, float) - target)
    distances = [np.abs(error).sum() / 2 for error in errors]
    assert distances[2] > 1e-3
    assert 1.7 < distances[0] / distances[1] < 2.5
    assert 1.85 < distances[1] / distances[2] < 2.25
    weights = target / generator
    leading = -target * (weights - (target * weights).sum()) / 8
    np.testing.assert_allclose(errors[2], leading, atol=0.2 * np.abs(leading).max())


def test_mosaic_of_drawn_candidates_tends_to_the_optimum():
    """64 replies of 1,000 auctions: the error is that of 1 / M and of chance.

    9 means of independent auctions beyond 5.5 standard errors: odds of 4e-7.
    """
    table, bids, tau = markov(6), np.array([0.6, 0.3, 0.0], np.float32), 2.0
    _, logs = reference.text_log_probs(table, TOKENS)
    target, _ = optimum(logs, bids, tau)
    found = draw(table, [1.0, 0.0, 1.0], num_auctions=1_000, num_replies=64)
    rewards = ta.replies.log_ratio_rewards(bids, found, REFERENCE)
    log_weights = ta.replies.log_importance(found, REFERENCE)
    law = np.exp(jax.vmap(ta.replies.mosaic(tau).log_prob)(rewards, log_weights))
    texts = number(found.tokens)
    returned = np.stack([(law * (texts == k)).sum(1) for k in range(TEXTS)], 1)
    errors = returned.mean(0) - target
    chance = returned.std(0) / np.sqrt(1_000)
    # The bias at M = 8 is below .05; at 64 it is an eighth of that.
    assert (np.abs(errors) < 5.5 * chance + 0.05 / 8).all()
    assert (np.abs(errors - (np.exp(logs[REFERENCE]) - target)) > 0.02).any()


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([1.0, 0.0], {}, "weights has shape"),
        ([0.0, 0.0, 0.0], {}, "weights must have a positive sum"),
        ([1.0, -1.0, 0.0], {}, "weights must be finite and not negative"),
        ([1.0, np.nan, 0.0], {}, "weights must be finite and not negative"),
        ([1.0, 0.0, 0.0], {"num_replies": 0}, "num_replies must be an integer"),
        ([1.0, 0.0, 0.0], {"num_tokens": 0}, "num_tokens must be an integer"),
        ([1.0, 0.0, 0.0], {"num_auctions": 0}, "num_auctions must be an integer"),
        ([1.0, 0.0, 0.0], {"num_auctions": None}, "weights of shape .* num_auctions"),
        ([1.0, 0.0, 0.0], {"first_auction": -1}, "first_auction must be"),
        ([1.0, 0.0, 0.0], {"first_auction": 2**31}, "first_auction must be"),
    ],
)
def test_refusals(weights, options, message):
    with pytest.raises(ValueError, match=message):
        draw(markov(), np.array(weights), **({"num_auctions": 2} | options))


def test_other_refusals():
    found = draw(markov(), [1.0, 1.0, 1.0], num_auctions=2)
    for reference_agent in (3, -1, 0.5):
        with pytest.raises(ValueError, match="reference must be an integer"):
            ta.replies.log_importance(found, reference_agent)
    for bids, message in (
        ([1.0, 2.0], "bids has shape"),
        ([1.0, 2.0, -1.0], "bids must be finite and not negative"),
        (np.ones((3, 3)), "num_auctions is 2, but bids has 3 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            ta.replies.log_ratio_rewards(np.array(bids), found, REFERENCE)


def test_who_does_not_write_reads_all_at_once():
    """The same scores, of models with windows, other prompts, filters and adapters."""
    models = [tiny_decoder.make(seed=0), tiny_decoder.make(seed=1)]
    pool = ta.agents.from_language_model(
        [models[0], models[1], models[0]],
        None,
        [[5, 6, 7], [8], [9, 4]],
        temperature=[0.7, 1.0, 1.3],
    )
    weights = np.array([0.0, 1.0, 0.0], np.float32)
    options = {"num_replies": 3, "num_tokens": 5, "num_auctions": 2}
    found, together = (
        ta.replies.draw_candidates(
            jax.random.key(0), pool, weights, writers=writers, **options
        )
        for writers in (None, [0, 1, 2])
    )
    np.testing.assert_array_equal(found.tokens, together.tokens)
    np.testing.assert_allclose(found.log_probs, together.log_probs, atol=2e-4)
    np.testing.assert_allclose(found.log_generator, found.log_probs[..., 1], atol=2e-4)
    traced = jax.jit(
        lambda w: ta.replies.draw_candidates(
            jax.random.key(0), pool, w, writers=[1], **options
        )
    )(weights)
    np.testing.assert_allclose(traced.log_probs, together.log_probs, atol=2e-4)
