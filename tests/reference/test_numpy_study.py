"""The NumPy peer of `benchmarks/` against the reference measures."""

import sys
from pathlib import Path

import numpy as np
import pytest

from reference import measures, payments

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def study():
    """The module beside its sibling, as in a run from `benchmarks/`."""
    sys.path.insert(0, FOLDER)
    try:
        import numpy_study

        yield numpy_study
    finally:
        sys.path.remove(FOLDER)


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


def draw(study, log_probs, auctions, num_tokens, dtype=np.float64, values=None):
    """Tables, values, texts and realised payments of a small chunk, and measures."""
    rng = np.random.default_rng(2)
    tables = study.Tables(log_probs, dtype)
    space = study.Workspace(log_probs.shape[-1], dtype)
    if values is None:
        values = np.exp(0.5 * rng.standard_normal((len(log_probs), auctions)))
    values = values.astype(dtype)
    shares = values / values.sum(0)
    rows, tokens = study.draw_texts(tables, shares, num_tokens, rng)
    at = rows * tables.vocabulary + tokens
    p = tables.token_p.take(at, axis=1)
    ratio = p / (p * shares[:, None]).sum(0)
    state = rng.bit_generator.state
    paid, _ = study.payments(values, shares, ratio, rng)
    rng.bit_generator.state = state
    found = study.measure_texts(tables, values, rows, tokens, rng, space)
    return values, rows, tokens, paid, found


def reference(log_probs, values, rows, tokens, paid, auction):
    """The measures of one text by definition."""
    bids = values[:, auction].astype(float)
    return measures.text_measures(
        [
            {
                "bids": bids,
                "values": bids,
                "log_probs": log_probs[:, row],
                "aggregation": "linear",
                "token": token,
                "realized": paid[:, t, auction],
                "conditional": payments.second_price_given(
                    bids, log_probs[:, row], token
                )[0],
                "reference": "mean",
            }
            for t, (row, token) in enumerate(
                zip(rows[:, auction], tokens[:, auction], strict=True)
            )
        ]
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
def test_the_peer_measures_what_the_reference_measures(study, kind, agents):
    log_probs = table(kind, agents)
    auctions = 14 if kind == "smooth" else 8
    values, rows, tokens, paid, found = draw(study, log_probs, auctions, 4)
    for auction in range(auctions):
        expected = reference(log_probs, values, rows, tokens, paid, auction)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(
                found[key][..., auction], value, 1e-9, 1e-9, err_msg=str(key)
            )


def test_equal_values_tie_every_optimum(study):
    log_probs, values = table("smooth"), np.ones((3, 4))
    values[0, 2:] = 2.0  # the first agent weighs as much as the others together
    values, rows, tokens, paid, found = draw(study, log_probs, 4, 4, values=values)
    for auction in range(4):
        expected = reference(log_probs, values, rows, tokens, paid, auction)
        key = ("optimum_shortfall", "total_variation")
        np.testing.assert_allclose(found[key][auction], expected[key], atol=1e-9)


def test_float32_agrees_with_float64(study):
    log_probs = table("smooth", vocabulary=64)
    values, rows, tokens, paid, found = draw(study, log_probs, 3, 4, np.float32)
    for auction in range(3):
        expected = reference(log_probs, values, rows, tokens, paid, auction)
        for key, value in expected.items():
            assert found[key].dtype == np.float32 or key == "length", key
            np.testing.assert_allclose(
                found[key][..., auction], value, 1e-4, 1e-4, err_msg=str(key)
            )


def test_preferences_where_the_quick_test_fails(study):
    """Shares that do not sum to one put `q` past `p`: then some prefer `r`."""
    rng = np.random.default_rng(7)
    p = rng.dirichlet(np.ones(4), 3)
    equal = np.tile(p[:1], (3, 1))  # r is p
    p = np.stack([p, equal, equal + 0.01 * rng.normal(size=(3, 4))])
    preferences = []
    for agents in p:
        shares = rng.dirichlet(np.ones(3), 40).T * rng.choice([0.99, 1, 1.02], 40)
        out = study.Dense.empty(3, 40, np.float64)
        study._prefer(agents.T, shares, out, slice(40))
        assert not out.unanimous
        q = np.log(agents.T @ shares).T
        for i, k in np.ndindex(3, 40):
            others = shares[:, k] * (np.arange(3) != i)
            r, own = np.log(others @ agents / others.sum()), np.log(agents[i])
            gains = measures.robustly_prefers(q[k], r, own)
            loses = not gains and measures.robustly_prefers(r, q[k], own)
            assert out.gains[i, k] == gains
            assert out.loses[i, k] == loses
            preferences.append((gains, loses))
    assert set(preferences) == {(True, False), (False, True), (False, False)}


def test_payments_follow_their_law(study):
    """Kolmogorov-Smirnov against `payment_cdf`, false-alarm rate 1e-9 each."""
    log_probs, draws = table("smooth", vocabulary=4)[:, 0], 100_000
    bids = np.array([1.5, 0.7, 2.0])
    values = np.tile(bids[:, None], (1, draws))
    rng, shares = np.random.default_rng(3), values / values.sum(0)
    for token in range(4):
        p = np.exp(log_probs[:, token])
        ratio = np.broadcast_to((p / (shares[:, 0] @ p))[:, None, None], (3, 1, draws))
        paid, _ = study.payments(values, shares, ratio, rng)
        for agent in range(3):
            sample = np.sort(paid[agent, 0])
            law = payments.payment_cdf(sample, bids, log_probs, agent, token)
            rank = np.searchsorted(sample, sample, side="right") / draws
            gap = np.abs(rank - law.astype(float)).max()
            assert gap < np.sqrt(np.log(2e9) / (2 * draws))


@pytest.mark.parametrize("vocabulary", [5, 64])
def test_tokens_follow_the_aggregate(study, vocabulary):
    log_probs, draws = table("zeros", vocabulary=vocabulary), 100_000
    tables = study.Tables(log_probs, np.float64)
    bids = np.array([1.5, 0.7, 2.0])
    shares = np.tile((bids / bids.sum())[:, None], (1, draws))
    rows, tokens = study.draw_texts(tables, shares, 2, np.random.default_rng(4))
    assert (rows[0] == 0).all()
    np.testing.assert_array_equal(rows[1], tokens[0])
    q = np.exp(measures.aggregate("linear", bids, log_probs[:, 0])).astype(float)
    frequency = np.bincount(tokens[0], minlength=vocabulary) / draws
    bound = 6 * np.sqrt(q * (1 - q) / draws)
    np.testing.assert_array_less(np.abs(frequency - q), bound + 1e-12)


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
