"""Peers run the auctions that ours run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation, payments

import tokenauction_jax as ta
from benchmarks import auctions, language_models
from benchmarks.parts import step
from benchmarks.peers import numpy_step

N, V = 3, 12


def inputs(num_auctions, same=False):
    """Logits and bids; those of all auctions may be the same."""
    rng = np.random.default_rng(0)
    rows = 1 if same else num_auctions
    logits = 2 * rng.standard_normal((rows, N, V))
    bids = rng.gamma(2.0, size=(rows, N))
    shapes = (num_auctions, N, V), (num_auctions, N)
    pairs = zip((logits, bids), shapes, strict=True)
    return [np.ascontiguousarray(np.broadcast_to(*x), np.float32) for x in pairs]


def torch_step(rule):
    """A step in PyTorch, as the part runs it."""
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_auction

    auction, normalised = {
        "linear": (torch_auction.linear_second_price, torch.softmax),
        "log_linear": (torch_auction.log_linear_clarke, torch.log_softmax),
    }[rule]

    def run(logits, bids, rng):
        torch.manual_seed(int(rng.integers(2**31)))
        found = auction(normalised(torch.tensor(logits), 2), torch.tensor(bids))
        return [x.numpy() for x in found]

    return run


def our_step(logits, bids, rng):
    """A step of `ta.simulate`, as the part runs it."""
    rollout = ta.simulate(
        jax.random.key(int(rng.integers(2**31))),
        *(auctions.linear_second_price(), step.GivenLogits(jnp.asarray(logits)), bids),
        num_tokens=1,
    )
    found = rollout.tokens, rollout.payments, rollout.expected_payments
    return [np.asarray(x)[:, 0] for x in (*found, rollout.log_prob)]


@pytest.fixture(params=["ours", "plain", "tuned", "torch"])
def linear(request):
    """A step with linear aggregation and the second price."""
    if request.param == "torch":
        return torch_step("linear")
    return getattr(numpy_step, request.param, our_step)


def test_mean_payments_given_the_token(linear):
    logits, bids = inputs(200)
    token, _, mean, *rest = linear(logits, bids, np.random.default_rng(1))
    log_probs = aggregation.renormalize(logits)
    expected, _ = payments.second_price_given(bids, log_probs, token)
    np.testing.assert_allclose(mean, expected.astype(float), rtol=2e-4, atol=2e-6)
    for log_prob in rest:
        log_q = aggregation.linear(bids, log_probs)
        drawn = np.take_along_axis(log_q, token[:, None], 1)[:, 0]
        np.testing.assert_allclose(log_prob, drawn.astype(float), atol=1e-5)


def test_tokens_and_payments_follow_their_laws(linear):
    """Frequencies within 6 standard errors; payments by Kolmogorov-Smirnov, 1e-9."""
    logits, bids = inputs(100_000, same=True)
    token, paid, _, *_ = linear(logits, bids, np.random.default_rng(2))
    log_probs = aggregation.renormalize(logits[0])
    q = np.exp(aggregation.linear(bids[0], log_probs)).astype(float)
    frequency = np.bincount(token, minlength=V) / len(token)
    bound = 6 * np.sqrt(q * (1 - q) / len(token))
    np.testing.assert_array_less(np.abs(frequency - q), bound)
    common = q.argmax()
    for agent in range(N):
        sample = np.sort(paid[token == common, agent])
        args = bids[0], log_probs.astype(float), agent, common
        law = payments.payment_cdf(sample, *args).astype(float)
        rank = np.searchsorted(sample, sample, side="right") / len(sample)
        assert np.abs(rank - law).max() < np.sqrt(np.log(2e9) / (2 * len(sample)))


def test_log_linear_pays_clarke():
    logits, bids = inputs(200)
    _, paid, mean = torch_step("log_linear")(logits, bids, np.random.default_rng(1))
    expected, _ = payments.clarke_log_linear(bids, aggregation.renormalize(logits))
    np.testing.assert_allclose(paid, expected.astype(float), rtol=2e-3, atol=2e-5)
    np.testing.assert_array_equal(paid, mean)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("aggregation", ["linear", "log_linear"])
def test_the_loop_around_transformers_writes_our_texts(aggregation):
    """Agents with one prompt and their likeliest tokens leave nothing to chance."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks.peers import transformers_loop

    checkpoint = ta.agents.load_checkpoint("house")
    mechanism = {
        "linear": auctions.linear_second_price,
        "log_linear": auctions.log_linear_clarke,
    }[aggregation]()
    prompt, *_ = language_models.prompts(1)
    pool = ta.agents.from_language_model(
        *(checkpoint.model, checkpoint.tokenizer, [prompt] * 2), top_k=1
    )
    size = {"num_auctions": 3, "num_tokens": 8}
    ours = ta.simulate(jax.random.key(0), mechanism, pool, [1.0, 2.0], **size)
    run = transformers_loop.make_run(
        transformers_loop.load(checkpoint, "float32"),
        [checkpoint.tokenizer.encode_prompt(prompt)] * 2,
        [1.0, 2.0],
        aggregation=aggregation,
        temperature=1.0,
        top_k=1,
        **size,
    )
    np.testing.assert_array_equal(run(0), ours.tokens)
    assert ours.mask.all()
