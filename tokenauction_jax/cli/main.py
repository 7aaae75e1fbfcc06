"""The `tokenauction` command."""

import dataclasses
import glob
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import jax
import tyro
from rich.console import Console

from tokenauction_jax import agents
from tokenauction_jax.agents import finetune
from tokenauction_jax.auditing import audit
from tokenauction_jax.cli import display
from tokenauction_jax.cli import study as study_command
from tokenauction_jax.scenarios import population, rules, runner, store
from tokenauction_jax.scenarios.scenario import (
    Scenario,
    ScenarioError,
    read_scenario,
    validate_scenario,
)
from tokenauction_jax.studies.config import StudyError

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Simulate:
    """Let language models write a text together under token auctions.

    Prints, for every rule, a sample text with each token coloured by the agent that
    favoured it most, how often each agent is mentioned, who pays what per token,
    welfare, revenue and entropy, each with a 95 % interval.
    """

    scenario: tyro.conf.Positional[str] = "hawaii"
    """A TOML file or a built-in scenario: hawaii, rivals."""
    sweep: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Vary the first agent's influence share over 0, .25, .5, .75 and 1 instead of
    running the scenario's own bids; the total bid stays."""
    model: str | None = None
    """A .gguf file, a Hugging Face directory, a hub name, or a name that
    `tokenauction models` lists."""
    bids: tuple[float, ...] | None = None
    """Bids of the agents, in their order."""
    num_auctions: int | None = None
    """Texts per rule and share."""
    num_tokens: int | None = None
    """Cap on the tokens of a text."""
    seed: int | None = None
    """Of all randomness."""
    out: pathlib.Path | None = None
    """New folder for every text (Parquet), the summary (CSV) and a manifest."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """Search for violations of the incentive properties of auction rules.

    Every property is checked on random auctions, then an adversary climbs the worst of
    them, and counterexamples shrink to few agents, tokens and digits.
    """

    rules: tyro.conf.Positional[tuple[str, ...]] = (
        "linear",
        "log_linear",
        "power_mean(0.5)",
    )
    """Aggregations: linear, log_linear, power_mean(ORDER), or an object of your own as
    FILE.py:NAME or MODULE:NAME."""
    payment: tuple[str, ...] = ()
    """Payments: pay_your_bid, second_price, clarke, myerson(VALUATION), or an object of
    your own; by default all that the rule has."""
    influence: float = 1.0
    """Exponent on the bids of the built-in rules."""
    num_instances: int = 1000
    """Random auctions."""
    num_agents: int = 3
    """Agents of each auction."""
    vocab_size: int = 6
    """Tokens of each auction."""
    seed: int = 0
    """Of all auctions."""
    tolerance: float = 1e-3
    """The largest violation in money, relative to its terms, to count as rounding."""
    out: pathlib.Path | None = None
    """New JSON file for everything found."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a language model, to bid with in auctions.

    The folder becomes a checkpoint that --model takes and `transformers` loads.
    """

    data: tyro.conf.Positional[pathlib.Path]
    """A .jsonl file with {"prompt": ..., "completion": ...} on each line, or text."""
    out: pathlib.Path
    """Folder of the run: checkpoints, and in the end the model."""
    model: str = agents.HOUSE
    """Where to start: a name or path as for simulate."""
    lora_rank: int | None = None
    """Train a low-rank adapter of this rank instead of all weights."""
    heldout: pathlib.Path | None = None
    """File to measure perplexity on; by default 5 % of the data are held out."""
    epochs: float = 3.0
    """How often to see every example."""
    num_steps: int | None = None
    """Batches to learn from, instead of epochs."""
    batch_size: int = 8
    """Examples of a batch."""
    learning_rate: float | None = None
    """Its peak; by default 2e-4, or 1e-3 for an adapter."""
    max_length: int | None = None
    """The most tokens of an example; by default the context, but at most 512."""
    save_every: int = 100
    """Steps between two checkpoints and evaluations."""
    seed: int = 0
    """Of all randomness."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the interrupted run in the folder; ends with the same weights."""


@dataclasses.dataclass(frozen=True)
class Models:
    """List the language models found on this machine, and how to get more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends with exit code 2 and one line on bad input."""
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "simulate": Simulate,
            "study": study_command.StudyCommand,
            "audit": Audit,
            "train": Train,
            "models": Models,
        },
        prog="tokenauction",
        description="Token auctions between language models.",
        args=arguments,
    )
    try:
        if isinstance(command, Simulate):
            _simulate(command)
        elif isinstance(command, study_command.StudyCommand):
            _warn_about_idle_accelerator()
            study_command.run(command)
        elif isinstance(command, Audit):
            _audit(command)
        elif isinstance(command, Train):
            _train(command)
        else:
            display.show_models(Console(), agents.find_checkpoints())
    except (
        ScenarioError,
        StudyError,
        store.StoreError,
        agents.CheckpointError,
        finetune.DataError,
        finetune.TrainingError,
        rules.RuleError,
    ) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _simulate(command: Simulate) -> None:
    scenario = _override(read_scenario(command.scenario), command)
    if command.out is not None:
        store.check_new(command.out)
    shares = SWEEP if command.sweep else None
    _warn_about_idle_accelerator()
    console = Console(highlight=False)
    with display.Progress(Console(stderr=True)) as progress:
        progress.start("loading the model")
        pool, checkpoint = population.load_pool(scenario)
        cells = _run(scenario, pool, shares, progress)
    tokenizer = checkpoint.tokenizer
    texts = [_decode(cell, tokenizer) for cell in cells]
    summaries = [
        runner.summarize(scenario, cell, cell_texts)
        for cell, cell_texts in zip(cells, texts, strict=True)
    ]
    if command.out is not None:
        # First of all: no failure to show results may lose them.
        manifest = store.manifest(scenario, checkpoint.name, cells)
        store.write_results(command.out, scenario, cells, texts, summaries, manifest)
    display.show_results(console, scenario, cells, summaries, tokenizer)
    if command.out is not None:
        console.print(f"Written to {command.out}", markup=False)


def _audit(command: Audit) -> None:
    if command.out is not None:
        store.check_new(command.out)
    chosen = []
    for name in command.rules:
        rule = rules.aggregation(name, command.influence)
        names = command.payment or rules.payments_of(rule)
        chosen.append((rule, [rules.payment(each, rule) for each in names]))
    console = Console(highlight=False)
    audits = []
    for rule, payments in chosen:
        with display.Activity(Console(stderr=True)) as activity:
            try:
                found = audit(
                    rule,
                    *payments,
                    num_instances=command.num_instances,
                    num_agents=command.num_agents,
                    vocab_size=command.vocab_size,
                    seed=command.seed,
                    tolerance=command.tolerance,
                    on_progress=activity.show,
                )
            except ValueError as error:
                raise rules.RuleError(str(error)) from None
        audits.append(found)
        display.show_audit(console, found)
    if command.out is not None:
        store.write_json(command.out, [found.to_dict() for found in audits])
        console.print(f"Written to {command.out}", markup=False)


def _train(command: Train) -> None:
    _warn_about_idle_accelerator()
    # Orbax logs the tracebacks of what it raises, too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = dataclasses.asdict(command)
    data, out = options.pop("data"), options.pop("out")
    checkpoint = agents.load_checkpoint(options.pop("model"))
    console = Console(highlight=False)
    with display.TrainingProgress(Console(stderr=True)) as progress:
        try:
            tuned = finetune.fine_tune(
                checkpoint,
                data,
                out,
                **options,
                on_start=progress.plan,
                on_step=progress.on_step,
            )
        except finetune.RunExistsError:
            raise finetune.TrainingError(
                f"{out} exists and is kept: --out names another folder, --resume goes "
                "on with the run in it"
            ) from None
        except (finetune.DataError, finetune.TrainingError, agents.CheckpointError):
            raise
        except ValueError as error:
            raise finetune.TrainingError(str(error)) from None
    display.show_perplexity(console, tuned.perplexity)
    console.print(f"Written to {out}; bid with it by --model {out}", markup=False)


def _override(scenario: Scenario, command: Simulate) -> Scenario:
    """The scenario with what the command line says instead, validated again."""
    content = dataclasses.asdict(scenario)
    for name in ("model", "num_auctions", "num_tokens", "seed"):
        if (value := getattr(command, name)) is not None:
            content[name] = value
    if command.model is not None:
        for agent in content["agents"]:
            agent["model"] = agent["adapter"] = None
    if command.bids is not None:
        if len(command.bids) != len(scenario.agents):
            names = ", ".join(agent.name for agent in scenario.agents)
            raise ScenarioError(
                f"--bids has {len(command.bids)} numbers, expected "
                f"{len(scenario.agents)}: one each for {names}"
            )
        for agent, bid in zip(content["agents"], command.bids, strict=True):
            agent["bid"] = bid
    return validate_scenario(content)


def _run(
    scenario: Scenario,
    pool: agents.AgentPool,
    shares: Sequence[float] | None,
    progress: display.Progress,
) -> list[runner.Cell]:
    progress.plan(scenario, shares)
    cells = list(runner.run_scenario(scenario, pool, shares))
    jax.effects_barrier()
    return cells


def _decode(cell: runner.Cell, tokenizer: agents.Tokenizer) -> list[str]:
    return [
        tokenizer.decode(cell.text_tokens(auction, tokenizer.end_tokens))
        for auction in range(len(cell.tokens))
    ]


def _warn_about_idle_accelerator() -> None:
    """Says so if there is an accelerator that this JAX cannot use."""
    if jax.default_backend() != "cpu":
        return
    for kind, devices, extra in (
        ("GPU", "/dev/nvidia[0-9]*", "cuda12"),
        ("TPU", "/dev/accel*", "tpu"),
    ):
        if glob.glob(devices):
            print(
                f"tokenauction: this machine has a {kind} that JAX does not use; "
                f"pip install 'jax[{extra}]' lets it",
                file=sys.stderr,
            )


def _fail(error: Exception) -> NoReturn:
    print(f"tokenauction: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
