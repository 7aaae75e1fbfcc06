"""A scenario as a study in memory: every rule at every weight of the first agent.

The same auctions run in every cell; what is estimated is per token, not per text.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokenauction_jax import files, outside, records, simulation, statistics
from tokenauction_jax.files import StoreError
from tokenauction_jax.mechanism import Aggregation, Mechanism
from tokenauction_jax.scenarios.kinds import (
    FixedBids,
    FixedValues,
    PoolAgents,
    WeightBids,
)
from tokenauction_jax.scenarios.population import Cast
from tokenauction_jax.scenarios.rules import Rule
from tokenauction_jax.scenarios.scenario import Scenario, validate_scenario
from tokenauction_jax.statistics import Estimate
from tokenauction_jax.studies import launch
from tokenauction_jax.studies.config import Study
from tokenauction_jax.studies.levels import Level
from tokenauction_jax.studies.results import Results

# Weights of the first agent.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_TEXTS, _MANIFEST = "texts.parquet", "manifest.json"


class Measure(NamedTuple):
    """One line of a summary; `agent` is empty for measures of the whole auction."""

    name: str
    agent: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One rule at one weight of the first agent.

    Attributes:
      rule: The rule.
      mechanism: What it was built into.
      share: The first agent's weight, in [0, 1].
      bids: `(n,)`.
      auctions: One row an auction, as in `Results.auctions`.
      measures: Rates and means per token, each with its interval.
    """

    rule: Rule
    mechanism: Mechanism
    share: float
    bids: np.ndarray
    auctions: pd.DataFrame
    measures: list[Measure]


def run_sweep(
    scenario: Scenario,
    cast: Cast,
    shares: Sequence[float] | None = None,
    listen: launch.Listener | None = None,
) -> tuple[list[Run], Results]:
    """Runs every rule at every weight of the first agent.

    Args:
      scenario: What to run.
      cast: Its agents.
      shares: Weights of the first agent, at the scenario's total bid; None runs the
        scenario's own bids.
      listen: As for `launch.run`.

    Returns:
      The runs, rule by rule, and the results of the study that they are the cells of.

    Raises:
      StudyError: If rules and agents do not fit.
    """
    results = launch.run(make_study(scenario, cast, shares), listen=listen)
    rules = [rule for rule in scenario.rules for _ in shares or [None]]
    runs = []
    for cell, rule in enumerate(rules):
        auctions = results.auctions.query(f"cell == {cell}")
        mechanism, bids = rule.build(), np.stack(list(auctions["bids"]))[0]
        weight = _weights(mechanism.aggregation, bids)[0]
        measures = summarize(scenario, results.study.valuation, auctions)
        runs.append(Run(rule, mechanism, float(weight), bids, auctions, measures))
    return runs, results


@jax.jit
def _weights(aggregation: Aggregation, bids: jax.Array) -> jax.Array:
    """The agents' weights, by one program: they are fifty without."""
    return aggregation.weights(bids)


def rollouts(
    scenario: Scenario, cast: Cast, runs: Sequence[Run], num_auctions: int
) -> list[simulation.Rollout]:
    """The first auctions of each run again, with what is paid for single tokens.

    Args:
      scenario: What ran.
      cast: Its agents.
      runs: From `run_sweep`.
      num_auctions: How many auctions of each.
    """
    count = min(num_auctions, scenario.num_auctions)
    return [
        jax.device_get(
            simulation.simulate(
                jax.random.key(np.uint32(scenario.seed)),
                run.mechanism,
                cast.pool,
                np.tile(run.bids, (count, 1)),
                num_tokens=scenario.num_tokens,
            )
        )
        for run in runs
    ]


def make_study(scenario: Scenario, cast: Cast, shares: Sequence[float] | None) -> Study:
    """The study that keeps every auction whole."""
    amounts = tuple(scenario.bids.tolist())
    rules = list(map(Level, rule_labels(scenario), scenario.rules))
    factors: dict[str, Any] = {"rule": rules}
    if shares is not None:
        factors["bids.weight"] = list(map(float, shares))
    return Study(
        agents=PoolAgents(
            cast.pool,
            names=tuple(agent.name for agent in scenario.agents),
            tokenizer=cast.tokenizer,
            mentions=scenario.mentions,
        ),
        values=FixedValues(amounts=tuple(scenario.values.tolist())),
        bids=FixedBids(amounts=amounts)
        if shares is None
        else WeightBids(float(shares[0]), amounts),
        rule=scenario.rules[0],
        num_tokens=scenario.num_tokens,
        seed=scenario.seed,
        name="scenario",
        num_auctions=scenario.num_auctions,
        valuation=scenario.valuation,
        factors=factors,
        keep_auctions=scenario.num_auctions,
    )


def rule_labels(scenario: Scenario) -> list[str]:
    """What the rules are called, each differently."""
    labels = [rule.name for rule in scenario.rules]
    if len(set(labels)) < len(labels):  # They differ in their payments.
        labels = [f"{i}: {name}" for i, name in enumerate(labels, 1)]
    return labels


def rule_titles(scenario: Scenario) -> dict[str, str]:
    """By its label, what a rule and its payment are."""
    payments = [records.describe(rule.build().payment) for rule in scenario.rules]
    return {
        label: f"{rule.name}, payment {payment}"
        for label, rule, payment in zip(
            rule_labels(scenario), scenario.rules, payments, strict=True
        )
    }


def summarize(
    scenario: Scenario, valuation: str, auctions: pd.DataFrame
) -> list[Measure]:
    """Rates and means per token over the valid auctions of a run.

    Tokens of infinite welfare are left out of its mean; their share is a measure of
    its own, ``infinite_welfare``.
    """
    valid = auctions["valid"].to_numpy()
    kept = auctions.loc[valid]
    length = kept["length"].to_numpy(np.float64)
    infinite = kept[f"infinite_tokens/{valuation}"].to_numpy(np.float64)

    def per_token(
        name: str, column: str, agent: str = "", tokens: np.ndarray = length
    ) -> Measure:
        totals = kept[column].to_numpy(np.float64)
        return Measure(name, agent, statistics.mean_per_token(totals, tokens))

    measures = []
    for i, agent in enumerate(scenario.agents):
        hits = int(np.nansum(kept[f"mention/{i}"].to_numpy()))
        rate = statistics.rate(hits, len(kept))
        measures.append(Measure("mention_rate", agent.name, rate))
    for i, agent in enumerate(scenario.agents):
        measures.append(per_token("payment", f"payment/{i}", agent.name))
    finite = length - infinite
    welfare = per_token("welfare", f"finite_welfare/{valuation}", tokens=finite)
    infinite_welfare = statistics.mean_per_token(infinite, length)
    entropy = kept["entropy"].to_numpy(np.float64) * length
    undefined = statistics.rate(int((~valid).sum()), len(auctions))
    return [
        *measures,
        welfare,
        Measure("infinite_welfare", "", infinite_welfare),
        per_token("revenue", "revenue"),
        Measure("entropy", "", statistics.mean_per_token(entropy, length)),
        Measure("undefined", "", undefined),
    ]


def write(
    folder: pathlib.Path,
    scenario: Scenario,
    commits: Mapping[str, str],
    runs: Sequence[Run],
    results: Results,
) -> None:
    """Writes texts.parquet, summary.csv and manifest.json into a new folder.

    The folder appears whole or not at all.

    Args:
      folder: Which.
      scenario: What ran.
      commits: The commit of each model of the hub, by its name.
      runs: From `run_sweep`.
      results: From `run_sweep`.

    Raises:
      StoreError: If it cannot be written, or exists by now.
    """
    table = io.BytesIO()
    pq.write_table(_texts(runs, results), table)
    manifest = dict(results.manifest) | {
        "dtype": str(jnp.zeros(()).dtype),
        "seed": scenario.seed,
        "commits": dict(commits),
        "scenario": dataclasses.asdict(scenario),
        "runs": [_about(run) | {"bids": run.bids.tolist()} for run in runs],
    }
    try:
        with files.write_folder(folder) as part:
            files.write(part / _TEXTS, table.getvalue())
            files.write(part / "summary.csv", outside.csv(_summary(runs)))
            files.write_json(part / _MANIFEST, manifest)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {files.reason(error)}") from None


def is_folder(folder: pathlib.Path) -> bool:
    """Whether a folder is one that `write` wrote, and not that of a study."""
    return (folder / _TEXTS).is_file()


def read_scenario(folder: pathlib.Path) -> Scenario:
    """The scenario that ran into a folder.

    Raises:
      StoreError: If its manifest is damaged.
      ScenarioError: If it is one of another version of the package.
    """
    path = folder / _MANIFEST
    try:
        content = json.loads(files.read(path))["scenario"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {files.reason(error)}") from None
    return validate_scenario(content)


def _about(run: Run) -> dict[str, Any]:
    """What tells a run from the others."""
    return {
        "rule": run.rule.name,
        "payment_rule": records.describe(run.mechanism.payment),
        "share": run.share,
    }


def _texts(runs: Sequence[Run], results: Results) -> pa.Table:
    """The auctions of all runs: how these are told apart, and what was paid in each."""
    table = results.folder.read_auctions()
    if table is None:
        raise ValueError("no auctions were kept")
    table = table.sort_by([("cell", "ascending"), ("auction", "ascending")])
    about = [_about(runs[cell]) for cell in table["cell"].to_pylist()]
    columns = {name: pa.array([x[name] for x in about]) for name in about[0]}
    columns |= {x: table[x] for x in table.column_names if x != "cell"}
    for name in ("payment", "expected_payment"):
        keys = [f"{name}/{i}" for i in range(runs[0].bids.size)]
        paid = np.stack([table[key].to_numpy() for key in keys], axis=1)
        columns[f"{name}s"] = pa.array(paid.tolist(), pa.list_(table[keys[0]].type))
    return pa.table(columns)


def _summary(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each measure of each run."""
    return pd.DataFrame(
        [
            _about(run)
            | {"measure": measure.name, "agent": measure.agent}
            | measure.estimate._asdict()
            for run in runs
            for measure in run.measures
        ]
    )
