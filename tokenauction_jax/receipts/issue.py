"""Runs one auction of a scenario or a study again, and writes down what was paid."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tokenauction_jax import records, simulation
from tokenauction_jax.environment import environment, num_cores, processor
from tokenauction_jax.measures import Attribution
from tokenauction_jax.mechanism import Aggregation
from tokenauction_jax.mechanism.sampling import SAMPLER
from tokenauction_jax.outside import listed, quoted
from tokenauction_jax.receipts.receipt import Receipt, ReceiptError, Token
from tokenauction_jax.scenarios import kinds, objects, population, settings, validation
from tokenauction_jax.scenarios.population import Population
from tokenauction_jax.scenarios.rules import needs_tokens
from tokenauction_jax.scenarios.scenario import (
    Scenario,
    read_scenario,
    validate_scenario,
)
from tokenauction_jax.studies import reading, sweep
from tokenauction_jax.studies.config import Study, hashable
from tokenauction_jax.studies.levels import plain
from tokenauction_jax.studies.parts import Folder

_MOST = 2**32 - 1


def of_scenario(
    scenario: str | pathlib.Path | Scenario,
    *,
    auction: int = 0,
    rule: str | None = None,
    share: float | None = None,
) -> Receipt:
    """The receipt of a text of a scenario.

    The auction runs by itself: its tokens are those that it has among others, its
    numbers the same to rounding.

    Args:
      scenario: Its name or TOML file, or one that was read.
      auction: The number of the auction.
      rule: Which of the scenario's rules, by default the first.
      share: The first agent's influence, at the scenario's total bid; None runs the
        scenario's own bids.

    Raises:
      ScenarioError: If the scenario, or the share, is wrong.
      ReceiptError: If there is no such auction or rule, or a rule that no file can
        name.
      CheckpointError: If a model cannot be loaded.
    """
    if not isinstance(scenario, Scenario):
        scenario = read_scenario(str(scenario))
    labels = sweep.rule_labels(scenario)
    rule = labels[0] if rule is None else rule
    if rule not in labels:
        raise ReceiptError(
            f"no rule {quoted(rule)} here: there are {listed(labels)}; one of yours "
            "stands in `rules` of a scenario of yours (docs/command.md)"
        )
    share = None if share is None else float(share)
    chosen = dataclasses.replace(scenario, rules=(scenario.rules[labels.index(rule)],))
    cast = population.load_cast(chosen)
    study = sweep.make_study(chosen, cast, None if share is None else [share])
    cell = study.populations[0]._replace(cast=cast)
    content = _as_json(dataclasses.asdict(scenario))
    return _issue(cell, auction, scenario=content, rule=rule, share=share)


def of_cell(
    study: str | pathlib.Path | Study, *, cell: int = 0, auction: int = 0
) -> Receipt:
    """The receipt of a text of a study, with or without a tokenizer.

    Args:
      study: Its folder, name or TOML file, or one that was read.
      cell: The number of the cell.
      auction: The number of the auction.

    Raises:
      StudyError: If the study is wrong.
      StoreError: If the folder is of another study, or one that was built in Python.
      ReceiptError: If there is no such cell or auction, if the cell's rule is one of
        whole replies, or if parts of the study are objects, which no file can name.
    """
    if isinstance(study, str | pathlib.Path) and pathlib.Path(study).is_dir():
        study = Folder(pathlib.Path(study)).read_study()
    cells = reading.check_study(study).cells()
    if not 0 <= cell < len(cells):
        raise ReceiptError(f"cell is {cell}: give one from 0 to {len(cells) - 1}")
    setting = cells[cell].setting
    (found,) = population.build([setting])
    return _issue(found, auction, setting=_as_json(plain(setting)))


def again(receipt: Receipt) -> Receipt:
    """The receipt that its configuration gives here and now.

    Raises:
      OutsideError: If it gives none.
    """
    if receipt.scenario is not None:
        return of_scenario(
            validate_scenario(dict(receipt.scenario)),
            auction=receipt.auction,
            rule=receipt.rule,
            share=receipt.share,
        )
    if odd := list(validation.oddities(receipt.setting)):
        raise ReceiptError(validation.describe(odd, {}))
    setting, problems = validation.validate(
        settings.Setting, receipt.setting, settings.SECTIONS
    )
    if problems:
        raise ReceiptError(validation.describe(problems, {}))
    (found,) = population.build([setting])
    return _issue(found, receipt.auction, setting=receipt.setting)


def _as_json(content: Any) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(content))
    except (TypeError, ValueError):
        raise ReceiptError(
            "a receipt can be replayed from what it says: give agents, values, bids "
            "and rules by name or FILE.py:NAME, not as objects"
        ) from None


@records.record
class _Shares:
    """Observes what of a token is each agent's."""

    aggregation: Aggregation

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
    ) -> dict[str, jax.Array]:
        """Of bids `(m,)` and log_probs `(m, V)`, arrays `(m,)`."""
        owed = Attribution(self.aggregation)
        return {
            "log_p": log_probs[:, token],
            "weights": self.aggregation.weights(bids),
            "attribution": owed(bids, log_probs, log_q, token, bids),
        }


def _issue(
    cell: Population,
    auction: int,
    *,
    scenario: Mapping[str, Any] | None = None,
    rule: str | None = None,
    share: float | None = None,
    setting: Mapping[str, Any] | None = None,
) -> Receipt:
    """The receipt of an auction of a cell, made from a scenario or a setting."""
    if not 0 <= auction <= _MOST:
        raise ReceiptError(f"auction is {auction}: give one from 0 to {_MOST}")
    about, n = cell.setting, cell.num_agents
    mechanism = needs_tokens(cell.mechanism)
    _, bids = cell.draw(auction, 1)
    # A reference of fluency follows the agents, and bids nothing.
    others = np.zeros((1, cell.pool.num_agents - n))
    rollout = simulation.simulate(
        jax.random.key(np.uint32(about.seed)),
        mechanism,
        cell.pool,
        np.concatenate([bids, others], axis=1),
        num_tokens=about.num_tokens,
        first_auction=auction,
        observe=_Shares(mechanism.aggregation),
    )
    tokenizer = cell.cast.tokenizer
    return Receipt(
        scenario=scenario,
        rule=rule,
        share=share,
        setting=setting,
        auction=auction,
        aggregation=records.describe(mechanism.aggregation),
        payment_rule=records.describe(mechanism.payment),
        seed=about.seed,
        num_tokens=about.num_tokens,
        agents=tuple(cell.agent_names),
        bids=_numbers(bids[0]),
        dtype=str(rollout.payments.dtype),
        sampler=SAMPLER,
        digests=_digests(cell),
        commits=dict(cell.cast.commits),
        environment=_environment(),
        valid=bool(rollout.valid[0]),
        text=None if tokenizer is None else rollout.texts(tokenizer)[0],
        tokens=tuple(_tokens(rollout, n, tokenizer)),
    ).sealed()


def _tokens(rollout: simulation.Rollout, n: int, tokenizer: Any) -> list[Token]:
    """The tokens of the only text of a rollout, for its first `n` agents."""
    mask = np.asarray(rollout.mask[0])
    drawn = np.asarray(rollout.tokens[0])[mask]
    pieces: list[str | None] = [None] * len(drawn)
    if tokenizer is not None:
        pieces = list(simulation.token_pieces(tokenizer, drawn))
    arrays = rollout.observations | {
        "payments": rollout.payments,
        "expected_payments": rollout.expected_payments,
    }
    shares = {name: np.asarray(x[0])[mask][:, :n] for name, x in arrays.items()}
    for name in ("payments", "expected_payments"):
        shares[f"total_{name}"] = shares[name].cumsum(axis=0, dtype=np.float64)
    log_prob = _numbers(np.asarray(rollout.log_prob[0])[mask])
    return [
        Token(
            position=position,
            token=int(token),
            piece=pieces[position],
            log_prob=log_prob[position],
            **{name: _numbers(x[position]) for name, x in shares.items()},
        )
        for position, token in enumerate(drawn)
    ]


def _numbers(array: np.ndarray) -> tuple[float, ...]:
    return tuple(array.tolist())


def _digests(cell: Population) -> dict[str, Any]:
    """SHA-256 of agents, tokenizer, and the files of a user's own rules and pools."""
    about, tokenizer = cell.setting, cell.cast.tokenizer
    named = list(about.rule.references)
    if isinstance(about.agents, kinds.PoolAgents) and isinstance(
        about.agents.pool, str
    ):
        named.append(about.agents.pool)
    return {
        "agents": objects.numbers_of(cell.pool),
        "tokenizer": tokenizer and hashable(tokenizer)["vocabulary"],
        "files": {name: objects.fingerprint_of(name)["file"] for name in named},
    }


def _environment() -> dict[str, Any]:
    """What the bits of numbers depend on."""
    return environment() | {
        "processor": processor(),
        "cores": num_cores(),
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision", None),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
