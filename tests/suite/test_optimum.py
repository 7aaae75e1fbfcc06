"""The best law of texts against all texts, and against the auction that reaches it."""

import itertools

import jax
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax.suite.optimum import regularized_range

TOKENS, AUCTIONS = 3, 4


def enumerated(tables, values, tau):
    """Both ends by their definition, for one auction of tables `(n, V, V)`."""
    size = tables.shape[1]
    tables = tables.astype(np.longdouble)
    mean = tables.mean(0)
    welfare, reference = [], []
    for text in itertools.product(range(size), repeat=TOKENS):
        path = list(zip((0, *text), text, strict=False))
        log_reference = sum(np.log(mean[step]) for step in path)
        logs = [sum(np.log(table[step]) for step in path) for table in tables]
        welfare.append(float(np.dot(values, np.array(logs) - log_reference)))
        reference.append(np.exp(log_reference))
    welfare, reference = np.array(welfare), np.array(reference)
    law = reference * np.exp(welfare / tau)
    law /= law.sum()
    at = [(reference * welfare).sum()]
    at.append((law * welfare).sum() - tau * (law * np.log(law / reference)).sum())
    return np.array(at, float)


def cell(agents, **more):
    study = {"agents": agents, "num_tokens": TOKENS, "seed": 3} | more
    return ta.studies.Study(num_auctions=AUCTIONS, **study).populations[0]


@pytest.mark.parametrize("tau", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["dirichlet", "markov", "table"])
def test_all_texts(kind, tau):
    agents = {"kind": kind, "num_agents": 2, "vocab_size": 3, "concentration": 0.8}
    if kind == "table":
        agents = {"kind": kind, "probs": [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]}
    about = cell(agents)
    pool, values = about.pool, about.draw(0, AUCTIONS)[0]
    if kind == "dirichlet":
        key = jax.random.split(jax.random.key(3))[1]
        rows = np.exp(np.asarray(pool.init(AUCTIONS, key=key), float))
        tables = [np.repeat(x[:, None], 3, axis=1) for x in rows]
    else:
        table = np.exp(np.asarray(pool.log_probs, float))
        table = table if table.ndim == 3 else np.repeat(table[:, None], 3, axis=1)
        tables = [table] * AUCTIONS
    tables = [table / table.sum(-1, keepdims=True) for table in tables]
    every = [enumerated(t, w, tau) for t, w in zip(tables, values, strict=True)]
    found = regularized_range(about, AUCTIONS, tau)
    np.testing.assert_allclose(found, np.mean(every, axis=0), rtol=1e-5)


def test_the_log_linear_auction_reaches_it_at_its_own_temperature():
    """With a tau of all bids; 5.5 standard errors, odds of 4e-8."""
    agents = {"kind": "dirichlet", "num_agents": 2, "vocab_size": 4}
    study = ta.studies.Study(
        agents=agents,
        values=[0.5, 1.0],
        tau=1.5,
        num_tokens=TOKENS,
        num_auctions=2_000,
        factors={"rule": ["log_linear", "none"]},
    )
    found = ta.studies.run(study).summary.query("measure == 'regularized_welfare'")
    known = regularized_range(study.populations[0], 2_000, 1.5)
    error = 5.5 * found["std"] / np.sqrt(2_000)
    reached, reference = found["mean"]
    assert abs(reached - known.best) < error.iloc[0]
    assert abs(reference - known.reference) < error.iloc[1]


def test_of_language_models_it_is_not_known():
    pool = ta.agents.tabular(np.log(np.full((2, 2), 0.5)), end_token=1)
    assert regularized_range(cell(pool), AUCTIONS, 1.0) is None
