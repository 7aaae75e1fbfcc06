"""What the subcommands take: light to import, so that help comes at once."""

import dataclasses
import pathlib
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What all commands take."""

    no_cache: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile everything anew, and keep no compiled programs for later runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioCommand(Command):
    """What is said instead of what a scenario says."""

    model: str | None = None
    """A .gguf file, a Hugging Face directory, a hub name, or a name that
    `tokenauction models` lists."""
    bids: tuple[float, ...] | None = None
    """Bids of the agents, in their order."""
    num_tokens: int | None = None
    """Cap on the tokens of a text."""
    seed: int | None = None
    """Of all randomness."""


@dataclasses.dataclass(frozen=True)
class Simulate(ScenarioCommand):
    """Let language models write a text together under token auctions.

    Prints, for every rule, a sample text with each token coloured by the agent that
    favoured it most, how often each agent is mentioned, who pays what per token,
    welfare, revenue and entropy, each with a 95 % interval.
    """

    scenario: tyro.conf.Positional[str] = "hawaii"
    """A TOML file or a built-in scenario: hawaii, rivals."""
    sweep: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Vary the first agent's weight over 0, .25, .5, .75 and 1 instead of running the
    scenario's own bids; the total bid stays."""
    num_auctions: int | None = None
    """Texts per rule and share."""
    out: pathlib.Path | None = None
    """New folder for every text (Parquet), the summary (CSV) and a manifest."""


@dataclasses.dataclass(frozen=True)
class Explore(ScenarioCommand):
    """Write a page to explore texts with: a slider moves the first agent's influence.

    It needs no network. Tokens are coloured by who brought them, and tell what they
    cost; curves of mentions, welfare and revenue go along.
    """

    source: tyro.conf.Positional[str] = "hawaii"
    """A scenario as for simulate, whose sweep is run, or the folder of a study, whose
    kept auctions are shown."""
    num_auctions: int | None = None
    """Texts per rule and share of a scenario."""
    out: pathlib.Path = pathlib.Path("explorer.html")
    """New file: FILE.html."""


@dataclasses.dataclass(frozen=True)
class Receipt(ScenarioCommand):
    """Show what was drawn and paid for one text, token by token.

    The auction is run by itself; `replay` checks what --out keeps.
    """

    source: tyro.conf.Positional[str] = "hawaii"
    """A scenario as for simulate, the folder of a simulation or of a study, or the JSON
    file of a receipt, which is only shown."""
    auction: int | None = None
    """The number of the auction, by default 0."""
    rule: str | None = None
    """Which of the scenario's rules, by default the first."""
    share: float | None = None
    """The first agent's weight, as in a sweep, instead of the scenario's own bids."""
    cell: int | None = None
    """The number of the study's cell, by default 0."""
    out: pathlib.Path | None = None
    """New file: FILE.json, which `replay` takes, or FILE.html, a page."""


@dataclasses.dataclass(frozen=True)
class Replay(Command):
    """Check a receipt: run its auction again, and compare every number.

    Ends with exit code 0 if all agree, and 1, naming the token and the field, if not.
    """

    receipt: tyro.conf.Positional[pathlib.Path]
    """The JSON file."""
    tolerance: float = 1e-3
    """By how much numbers may differ on another kind of machine or other versions: in
    nats, shares, and units of the largest bid."""


@dataclasses.dataclass(frozen=True)
class NewStudy(Command):
    """Write a study file to start from."""

    path: tyro.conf.Positional[pathlib.Path]
    """The new TOML file."""
    template: str = "welfare"
    """The built-in study to copy: lambda, misreport, rivals_at_equal_compute,
    rivals_on_smollm2, welfare."""


@dataclasses.dataclass(frozen=True)
class CheckStudy(Command):
    """Validate a study, and print its cells, auctions, memory and time."""

    study: tyro.conf.Positional[str]
    """A TOML file or a built-in study: lambda, misreport, rivals_at_equal_compute,
    rivals_on_smollm2, welfare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedStudy(Command):
    """What a study takes that several processes run together, in one folder."""

    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """This is one of several processes, started by SLURM, Open MPI, Kubernetes or on a
    TPU pod, which share the folder and the work."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where nothing of these tells it."""
    num_processes: int | None = None
    """How many processes there are, likewise."""
    process_id: int | None = None
    """Which of them this is, from 0 on, likewise."""
    join_timeout: float = 300.0
    """Seconds to wait until all processes are there."""

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes."""
        given = (self.coordinator, self.num_processes, self.process_id)
        return self.distributed or given != (None, None, None)


@dataclasses.dataclass(frozen=True)
class RunStudy(SharedStudy):
    """Run a study into a new folder.

    Every finished chunk is kept: after an interruption, `resume` goes on.
    """

    study: tyro.conf.Positional[str]
    """A TOML file or a built-in study: lambda, misreport, rivals_at_equal_compute,
    rivals_on_smollm2, welfare."""
    out: pathlib.Path | None = None
    """The new folder; by default the study's name."""
    blocks_per_chunk: int | None = None
    """How many blocks of auctions a chunk has; by default seconds of work."""
    shard: str | None = None
    """K/N, such as 3/16: run this share of the study into a folder of its own, where no
    other process is; `merge` makes one of all."""


@dataclasses.dataclass(frozen=True)
class ResumeStudy(SharedStudy):
    """Go on with an interrupted study; it ends as an uninterrupted one would."""

    folder: tyro.conf.Positional[pathlib.Path]
    """The folder of the study."""
    study: str | None = None
    """Its TOML file, to make sure that it is the one the folder is of."""


@dataclasses.dataclass(frozen=True)
class MergeStudy(Command):
    """Put all shards of a study together, as if one process had run it."""

    folders: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """The folders of the shards."""
    out: pathlib.Path
    """The new folder."""


@dataclasses.dataclass(frozen=True)
class ReportStudy(Command):
    """Write figures and a page on what a study found, finished or not."""

    folder: tyro.conf.Positional[pathlib.Path]
    """The folder of the study."""
    out: pathlib.Path | None = None
    """Folder of the report; by default `report` in that of the study."""


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """Monte Carlo studies: factors that cross, intervals, resume and reports."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[NewStudy, _named("new")]
        | Annotated[CheckStudy, _named("check")]
        | Annotated[RunStudy, _named("run")]
        | Annotated[ResumeStudy, _named("resume")]
        | Annotated[MergeStudy, _named("merge")]
        | Annotated[ReportStudy, _named("report")]
    ]


@dataclasses.dataclass(frozen=True)
class Optimise(Command):
    """Find best bids: a best response, an equilibrium, or multipliers of budgets.

    Prints what was found, and writes every estimate (Parquet), tables (CSV), a manifest
    and a page of figures into a new folder.
    """

    file: tyro.conf.Positional[str]
    """A TOML file or a built-in one: airline, contest."""
    out: pathlib.Path | None = None
    """The new folder; by default called as the file."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the interrupted run in the folder; it ends as an uninterrupted one."""


@dataclasses.dataclass(frozen=True)
class Audit(Command):
    """Search for violations of the incentive properties of auction rules.

    Every property is checked on random auctions, then an adversary climbs the worst of
    them, and counterexamples shrink to few agents, tokens and digits.
    """

    rules: tyro.conf.Positional[tuple[str, ...]] = ()
    """Aggregations, by default the first three: linear, log_linear,
    power_mean(ORDER); rules on replies: mosaic(TAU), best_of, single_winner; or an
    object of your own as FILE.py:NAME or MODULE:NAME."""
    payment: tuple[str, ...] = ()
    """Payments of an aggregation: pay_your_bid, second_price, clarke,
    myerson(VALUATION), or an object of your own; by default all that the rule has."""
    distributions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure instead what agents gain by submitting other distributions than their
    own, at a truthful bid; by default under all built-in mechanisms."""
    influence: float = 1.0
    """Exponent on the bids of the built-in rules."""
    num_instances: int = 1000
    """Random auctions."""
    num_agents: int = 3
    """Agents of each auction."""
    vocab_size: int = 6
    """Tokens of each auction of an aggregation."""
    num_candidates: int = 6
    """Candidates of each auction of a rule on replies."""
    seed: int = 0
    """Of all auctions."""
    tolerance: float = 1e-3
    """The largest violation in money, relative to its terms, to count as rounding."""
    bid_ratio: float = 1e3
    """The largest ratio between two bids of an auction."""
    out: pathlib.Path | None = None
    """New JSON file for everything found."""


@dataclasses.dataclass(frozen=True)
class RunSuite(Command):
    """Run mechanisms by all yardsticks, and add them to the scorecard in a folder.

    Rows that the folder has of the same studies are not run again: an interrupted run
    goes on, and a new mechanism adds its own rows.
    """

    mechanisms: tyro.conf.Positional[tuple[str, ...]] = ()
    """Rules of tokens such as linear, log_linear or linear+pay_your_bid, of replies
    such as mosaic, mosaic(TAU), best_of or single_winner, segment, none, or an object
    of your own as FILE.py:NAME; by default all that are built in."""
    out: pathlib.Path = pathlib.Path("suite")
    """Folder of scorecard.md and scorecard.json, new or with a scorecard."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Few auctions, and no large models: minutes."""


@dataclasses.dataclass(frozen=True)
class ListSuite(Command):
    """List the yardsticks."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Compare mechanisms by the same studies: one scorecard for all."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[RunSuite, _named("run")] | Annotated[ListSuite, _named("list")]
    ]


@dataclasses.dataclass(frozen=True)
class Train(Command):
    """Fine-tune a language model, to bid with in auctions.

    The folder becomes a checkpoint that --model takes and `transformers` loads.
    """

    data: tyro.conf.Positional[pathlib.Path]
    """A .jsonl file with {"prompt": ..., "completion": ...} on each line, or text."""
    out: pathlib.Path
    """Folder of the run: checkpoints, and in the end the model."""
    model: str = "house"
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
class ListModels(Command):
    """List the language models found on this machine, and how to get more."""


@dataclasses.dataclass(frozen=True)
class CheckModel(Command):
    """Load a language model, let it write, and compare it with `transformers`.

    Prints its shape, memory and tokens per second and, where `transformers` and PyTorch
    are installed, the largest difference of log-probabilities from theirs.
    """

    model: tyro.conf.Positional[str]
    """A .gguf file, a Hugging Face directory, a hub name, or a name of the list."""


@dataclasses.dataclass(frozen=True)
class Models:
    """List the language models found on this machine, or check one."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[ListModels, _named("list")] | Annotated[CheckModel, _named("check")]
    ] = ListModels()
