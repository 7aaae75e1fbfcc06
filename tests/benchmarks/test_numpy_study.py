"""The NumPy peers of a study against the reference measures."""

import numpy as np
import pytest
from reference import measures, payments

from benchmarks.peers import numpy_study, numpy_study_plain


@pytest.fixture
def study():
    """The tuned peer."""
    return numpy_study


@pytest.fixture
def plain():
    """The peer from the definitions."""
    return numpy_study_plain


@pytest.fixture(params=[numpy_study, numpy_study_plain], ids=["tuned", "plain"])
def peer(request):
    """Each of them."""
    return request.param


def table(kind, agents=3, vocabulary=8):
    """Log-probabilities `(n, V, V)`."""
    rng = np.random.default_rng(1)
    size = (agents, vocabulary)
    if kind == "peaked":
        p = rng.dirichlet(np.full(vocabulary, 0.05), size)
    else:
        p = rng.dirichlet(np.ones(vocabulary), size)
    if kind == "zeros":  # few agents have all tokens; token 2 has nobody
        p[rng.uniform(size=p.shape) < 0.3] = 0
        p[..., 0] += 0.1
        p[..., 2] = 0
    if kind == "disjoint":
        p *= np.arange(vocabulary) % agents == np.arange(agents)[:, None, None]
        p[..., :agents] += 0.1 * np.eye(agents)[:, None]
    if kind == "equal":
        p[:] = p[0]
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum(-1, keepdims=True))


def draw(
    peer, log_probs, auctions, num_tokens, dtype=np.float64, values=None, bids=None
):
    """Bids, values, texts and realised payments of a small chunk, and measures."""
    rng = np.random.default_rng(2)
    n, vocabulary = log_probs.shape[:2]
    if values is None:
        values = np.exp(0.5 * rng.standard_normal((n, auctions)))
    values = values.astype(dtype)
    bids = values if bids is None else bids.astype(dtype)
    if peer is numpy_study_plain:
        rows = log_probs.astype(dtype).swapaxes(0, 1)
        found, tokens, paid = peer.measure_texts(
            rows, bids.T, values.T, num_tokens, rng
        )
        found = {key: value.T for key, value in found.items()}
        return bids, values, found, tokens, paid.swapaxes(1, 2)
    work = peer.Workspace(n, vocabulary, auctions, num_tokens, dtype)
    agents = peer.table_agents(log_probs.astype(dtype))
    texts = peer.measure_texts(agents, bids, values, rng, work)
    return bids, values, *texts


def reference(log_probs, bids, values, tokens, paid, auction):
    """The measures of one text by definition."""
    bids, values = bids[:, auction].astype(float), values[:, auction].astype(float)
    rows = [0, *tokens[:-1, auction]]
    return measures.text_measures(
        [
            {
                "bids": bids,
                "values": values,
                "log_probs": log_probs[:, row],
                "aggregation": "linear",
                "token": token,
                "realized": paid[t, :, auction],
                "conditional": payments.second_price_given(
                    bids, log_probs[:, row], token
                )[0],
                "reference": "mean",
            }
            for t, (row, token) in enumerate(zip(rows, tokens[:, auction], strict=True))
        ]
    )


def check(log_probs, texts, tolerance):
    """Compares the measures of all texts with the reference."""
    bids, values, found, tokens, paid = texts
    for auction in range(values.shape[1]):
        expected = reference(log_probs, bids, values, tokens, paid, auction)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(
                found[key][..., auction], value, tolerance, tolerance, err_msg=str(key)
            )


@pytest.mark.parametrize(
    ("kind", "agents"),
    [
        ("smooth", 3),
        ("smooth", 2),
        ("smooth", 4),
        ("peaked", 3),
        ("zeros", 3),
        ("disjoint", 3),
        ("equal", 3),
    ],
)
def test_the_peer_measures_what_the_reference_measures(peer, kind, agents):
    log_probs = table(kind, agents)
    auctions = 14 if kind == "smooth" else 8
    check(log_probs, draw(peer, log_probs, auctions, 4), 1e-9)


def test_bids_need_not_be_the_values(peer):
    log_probs, rng = table("smooth"), np.random.default_rng(8)
    bids = rng.lognormal(size=(3, 8))
    check(log_probs, draw(peer, log_probs, 8, 4, bids=bids), 1e-9)


def test_equal_values_tie_every_optimum(peer):
    log_probs, values = table("smooth"), np.ones((3, 4))
    values[0, 2:] = 2.0  # the first agent weighs as much as the others together
    check(log_probs, draw(peer, log_probs, 4, 4, values=values), 1e-9)


def test_float32_agrees_with_float64(peer):
    log_probs = table("smooth", vocabulary=64)
    texts = draw(peer, log_probs, 3, 4, np.float32)
    check(log_probs, texts, 1e-4)
    for key, value in texts[2].items():
        assert value.dtype == np.float32 or key == "length", key


def test_preferences_where_the_quick_test_fails(study, plain):
    """`q` past `p`: then some prefer `r`."""
    rng = np.random.default_rng(7)
    p = rng.dirichlet(np.ones(4), (3, 40))
    r = rng.dirichlet(np.ones(4), (3, 40))
    way = rng.choice([-0.2, 0, 0.5, 1, 1.3], (3, 40, 1))  # from p to r
    q = np.abs(p + way * (r - p))
    gains, loses = np.zeros((2, 3, 40))
    study.prefer(q - p, q - r, np.empty_like(p), gains, loses)
    kept = plain.robustly_prefers(q, r, p), plain.robustly_prefers(r, q, p)
    preferences = set()
    for i, k in np.ndindex(3, 40):
        logs = [np.log(array[i, k]) for array in (q, r, p)]
        gained = measures.robustly_prefers(*logs)
        lost = not gained and measures.robustly_prefers(logs[1], logs[0], logs[2])
        assert (gains[i, k], loses[i, k]) == (gained, lost)
        assert (kept[0][i, k], kept[1][i, k] and not gained) == (gained, lost)
        preferences.add((gained, lost))
    assert preferences == {(True, False), (False, True), (False, False)}


def test_probabilities_that_underflow(peer):
    """Where no token is likely for all agents, the sum for reverse KL is tiny."""
    log_probs = np.full((2, 4, 4), -1000.0)
    log_probs[0, :, 0] = log_probs[1, :, 1] = 0
    check(log_probs, draw(peer, log_probs, 4, 3), 1e-9)


def test_payments_follow_their_law(peer):
    """Kolmogorov-Smirnov against `payment_cdf`, false-alarm rate 1e-9 each."""
    log_probs, draws = table("smooth", vocabulary=4)[:, 0], 100_000
    bids = np.array([1.5, 0.7, 2.0])
    rng, rest = np.random.default_rng(3), bids * (1 - np.eye(3))
    mixtures = np.vstack([bids, rest]) @ np.exp(log_probs)
    q, *r = mixtures / [[bids.sum()], *rest.sum(1, keepdims=True)]
    for token in range(4):
        p = np.exp(log_probs[:, token])
        if peer is numpy_study:
            ratio = np.tile((p / q[token])[:, None], (1, 1, draws))
            paid = peer.payments(bids[:, None], ratio, rng)[0][0]
        else:
            p, own = np.tile(p, (draws, 1)), np.array(r)[:, token]
            paid = peer.payments(bids[None], p, q[token], own, rng)[0].T
        for agent in range(3):
            sample = np.sort(paid[agent])
            law = payments.payment_cdf(sample, bids, log_probs, agent, token)
            rank = np.searchsorted(sample, sample, side="right") / draws
            gap = np.abs(rank - law.astype(float)).max()
            assert gap < np.sqrt(np.log(2e9) / (2 * draws))


@pytest.mark.parametrize("vocabulary", [5, 200])
def test_tokens_follow_the_aggregate(peer, vocabulary):
    log_probs, draws = table("zeros", vocabulary=vocabulary), 100_000
    bids, chunk = np.array([1.5, 0.7, 2.0]), 2000
    q = np.exp(measures.aggregate("linear", bids, log_probs[:, 0])).astype(float)
    rng = np.random.default_rng(4)
    many, tokens = np.tile(q, (chunk, 1)), np.empty((draws // chunk, chunk), int)
    for out in tokens:
        if peer is numpy_study:
            work = peer.Workspace(3, vocabulary, chunk, 1, np.float64)
            peer.draw(work, many, rng.random(chunk), out)
        else:
            out[:] = peer.draw(many, rng)
    tokens = tokens.ravel()
    frequency = np.bincount(tokens, minlength=vocabulary) / draws
    bound = 6 * np.sqrt(q * (1 - q) / draws)
    np.testing.assert_array_less(np.abs(frequency - q), bound + 1e-12)


def test_the_peers_agree_on_a_cell(study, plain):
    """Means within 6 standard errors."""
    log_probs = table("smooth", agents=4)
    ours, theirs = (
        module.run(log_probs, 3000, 4, np.random.default_rng(seed), chunk=700)
        for seed, module in enumerate((study, plain))
    )
    ours, theirs = ours.summary(), theirs.summary()
    assert ours.keys() == theirs.keys()
    for key, (mean, variance) in ours.items():
        other, other_variance = theirs[key]
        error = np.sqrt((variance + other_variance) / 3000)
        assert (np.abs(mean - other) <= 6 * error + 1e-9).all(), key


def test_moments_and_quantiles(study):
    log_probs = table("zeros")
    rng = np.random.default_rng(5)
    moments = study.run(log_probs, 3000, 4, rng, chunk=700)
    assert (moments.count + moments.infinite == 3000).all()
    sample = np.random.default_rng(6).lognormal(size=(2, 5000)) - 1
    sample[0, :5] = [np.inf, -np.inf, np.nan, 1.0, 2.0]
    kept = study.Moments()
    for part in np.split(sample, 5, axis=1):
        kept.add({"a": part[0], ("b", "c"): part[1:]})
    finite = sample[0][np.isfinite(sample[0])]
    summary = kept.summary()
    np.testing.assert_allclose(summary["a"], [[finite.mean()], [finite.var(ddof=1)]])
    np.testing.assert_allclose(summary["b", "c"][0], sample[1].mean())
    np.testing.assert_array_equal(kept.infinite, [3, 0])
    for level in (0.01, 0.5, 0.99):
        expected = np.quantile(finite, level, method="inverted_cdf")
        np.testing.assert_allclose(kept.quantile(level)[0], expected, rtol=4e-3)
