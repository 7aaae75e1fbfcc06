"""Results of studies that never ran, for tests of what is done with results."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

VALUATIONS = ("total_variation", "forward_kl", "reverse_kl")
QUANTILES = ("q05", "q25", "q50", "q75", "q95")
UNITS = {
    **dict.fromkeys(("welfare", "realized_welfare"), "money per text"),
    **dict.fromkeys(("optimum_shortfall", "single_agent_shortfall"), "money per text"),
    **dict.fromkeys(("minimum_welfare", "revenue"), "money per text"),
    **dict.fromkeys(("expected_revenue", "payment"), "money per text"),
    **dict.fromkeys(("expected_payment", "expected_utility"), "money per text"),
    "entropy": "nats per token",
    "weight": "share",
    "length": "tokens per text",
}
FACTORS = {
    "welfare": {
        "rule": ["linear", "power_mean 0.5", "log_linear", "power_mean -1"],
        "payment": ["pay_your_bid", "myerson"],
        "agents.num_agents": ["2", "3", "5"],
    },
    "lambda": {
        "rule": ["linear, second_price", "log_linear, clarke"],
        "values.share": [f"{share:g}" for share in np.linspace(0, 1, 11)],
    },
    "misreport": {
        "rule": [
            "linear, second_price",
            "linear, clarke",
            "log_linear, clarke",
            "linear, pay_your_bid",
            "log_linear, myerson total_variation",
        ],
        "bids.factor": ["1", "0", "0.25", "0.5", "0.75", "1.5", "2", "4"],
    },
    "single": {},
}


@dataclasses.dataclass
class FakeResults:
    """The attributes of the results of a study."""

    study: Any
    factors: dict[str, list[str]]
    summary: pd.DataFrame
    differences: pd.DataFrame
    effects: pd.DataFrame
    variance_ratios: pd.DataFrame
    auctions: pd.DataFrame
    agent_names: list[str]
    performance: pd.DataFrame
    environment: dict[str, Any]
    num_auctions: int = 4096
    finished: bool = True
    sequential: bool = False
    units: dict[str, str] = dataclasses.field(default_factory=lambda: dict(UNITS))


def fake_results(name="welfare", names=("Alpha", "Beta"), factors=None, words=None):
    """Plausible results of the study `name`; `words` are the pieces of its texts."""
    factors = FACTORS[name] if factors is None else factors
    rng = np.random.default_rng(7)
    cells = [
        dict(zip(factors, levels, strict=True))
        for levels in itertools.product(*factors.values())
    ]
    most = max((int(cell.get("agents.num_agents", 0)) for cell in cells), default=0)
    names = [str(i) for i in range(most)] if most else list(names)
    means = [_means(cell, names, rng) for cell in cells]
    summary = [
        {"cell": i, **cell, **_key(key), **_estimate(mean, 0.02, rng), **_spread(mean)}
        for i, cell in enumerate(cells)
        for key, mean in means[i].items()
    ]
    differences = list(_differences(factors, cells, means, rng))
    auctions = [
        _auction(cell, auction, len(_agents(levels, names)), words, rng)
        for cell, levels in enumerate(cells)
        for auction in range(5)
    ]
    ratios = [
        {"cell": i, **cell, "agent": agent, "ratio": 2.31, "low": 2.2, "high": 2.45}
        | {"n": 4096}
        for i, cell in enumerate(cells)
        for agent in _agents(cell, names)
    ]
    difference_columns = [
        *("factor", "level", "baseline", "cell", "baseline_cell", *factors),
        *("measure", "valuation", "agent", "mean", "low", "high", "n"),
    ]
    frame = pd.DataFrame(differences, columns=difference_columns)
    return FakeResults(
        study=SimpleNamespace(
            name=name,
            description="Welfare and revenue of rules, payments and group sizes",
            seed=17,
            num_tokens=24,
            valuation="total_variation",
        ),
        factors=factors,
        summary=pd.DataFrame(summary),
        differences=frame,
        effects=_effects(frame),
        variance_ratios=pd.DataFrame(ratios),
        auctions=pd.DataFrame(auctions),
        agent_names=names,
        performance=pd.DataFrame([_session(1), _session(2)]),
        environment={
            "tokenauction_jax": "0.3.0",
            "versions": {"jax": "0.8.1", "numpy": "2.4.0"},
            "devices": ["cpu:0"],
            "sampler": "exponential race",
        },
    )


def _agents(cell, names):
    return names[: int(cell.get("agents.num_agents", len(names)))]


def _means(cell, names, rng):
    """The mean of every measure in a cell, by (measure, valuation, agent)."""
    agents = _agents(cell, names)
    n = len(agents)
    skill = 0.15 * sum(map(ord, cell.get("rule", "")[:9])) % 1
    share = float(cell.get("values.share", 0.5 if n == 2 else 1 / n))
    factor = float(cell.get("bids.factor", 1.0))
    share = factor * share / (factor * share + 1 - share)
    noise = rng.normal(0, 0.01)
    found = {}
    for scale, valuation in zip((1.0, 2.2, 1.7), VALUATIONS, strict=True):
        welfare = -scale * (1.2 + skill + 0.7 * n + 3 * (share - 0.5) ** 2) + noise
        shortfall = scale * (0.2 + 0.3 * skill)
        found["welfare", valuation, ""] = welfare
        found["realized_welfare", valuation, ""] = welfare + 0.01
        found["optimum_shortfall", valuation, ""] = shortfall
        found["single_agent_shortfall", valuation, ""] = shortfall - 1.1
        found["minimum_welfare", valuation, ""] = welfare / n - 0.2
        for i, agent in enumerate(agents):
            lost = 0.4 * (np.log(max(factor, 0.1))) ** 2 if i == 0 else 0.0
            utility = scale * (skill - lost - 1) + (skill > 0.5) * 0.1 * factor
            found["expected_utility", valuation, agent] = utility
    revenue = 1 + 2 * skill + 0.4 * n * (cell.get("payment") == "pay_your_bid") + noise
    found["revenue", "", ""] = found["expected_revenue", "", ""] = revenue
    found["entropy", "", ""] = 1.9
    found["length", "", ""] = 23.4
    for i, agent in enumerate(agents):
        found["weight", "", agent] = share if i == 0 else (1 - share) / (n - 1)
        found["payment", "", agent] = revenue / n
    return found


def _key(key):
    return dict(zip(("measure", "valuation", "agent"), key, strict=True))


def _estimate(mean, scale, rng, n=4096):
    half = scale * rng.uniform(0.7, 1.6)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def _spread(mean):
    spread = {"std": 0.7, "infinite": 0, "nan": 0, "undefined": 0}
    for name, shift in zip(QUANTILES, (-1.2, -0.5, 0, 0.5, 1.2), strict=True):
        value = mean + shift
        spread |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    return spread


def _differences(factors, cells, means, rng):
    for factor, levels in factors.items():
        for i, cell in enumerate(cells):
            if cell[factor] == levels[0]:
                continue
            baseline = cells.index(cell | {factor: levels[0]})
            for key in filter(means[baseline].__contains__, means[i]):
                difference = means[i][key] - means[baseline][key]
                yield {
                    "factor": factor,
                    "level": cell[factor],
                    "baseline": levels[0],
                    "cell": i,
                    "baseline_cell": baseline,
                    **cell,
                    **_key(key),
                    **_estimate(difference, 0.03, rng),
                }


def _effects(differences):
    keys = ["factor", "level", "baseline", "measure", "valuation", "agent"]
    numbers = ["mean", "low", "high", "n"]
    return differences.groupby(keys, sort=False)[numbers].mean().reset_index()


def _auction(cell, auction, n, words, rng):
    length = 12 if words is None else len(words)
    attribution = rng.dirichlet(np.ones(n), length)
    pieces = [str(i) for i in rng.integers(0, 32, length)] if words is None else words
    return {
        "cell": cell,
        "auction": auction,
        "valid": True,
        "length": length,
        "text": "" if words is None else "".join(words),
        "pieces": list(pieces),
        "favoured_by": attribution.argmax(1).tolist(),
        "attribution": attribution.tolist(),
        "welfare": -2.0,
    }


def _session(session):
    return {
        "session": session,
        "started": f"2026-01-0{session}T10:00:00+00:00",
        "auctions": 49152,
        "seconds": 61.3,
        "auctions_per_second": 801.8,
        "tokens_per_second": 19243.0,
        "peak_memory_mib": 412.7,
        "device": "cpu",
    }
