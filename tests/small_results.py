"""The shipped studies, run with few auctions, for tests of what results become."""

import functools
import importlib.resources
import tomllib
from types import SimpleNamespace

import tokenizers

import tokenauction_jax as ta
from tokenauction_jax.agents import Tokenizer
from tokenauction_jax.studies.results import Results

NAMES = ("Alpha", "Beta")
NUM_AUCTIONS = 64
# A program for each of these, so few of what is shipped.
RULES = [
    {"aggregation": "linear", "payment": "second_price"},
    {"aggregation": "log_linear", "payment": "clarke"},
]


def _shipped(name):
    library = importlib.resources.files("tokenauction_jax.studies") / "library"
    return tomllib.loads((library / f"{name}.toml").read_text("utf-8"))


def _pool(names, words=None):
    """Agents with these names, whose tokens are words or numbers."""
    agents = {"kind": "pool", "names": list(names)}
    size = 5 if words is None else len(words)
    agents["pool"] = ta.agents.dirichlet(len(names), size, 1.0)
    if words is not None:
        vocabulary = {word: i for i, word in enumerate(words)}
        model = tokenizers.models.WordLevel(vocabulary, words[0])
        backend = tokenizers.Tokenizer(model)
        backend.decoder = tokenizers.decoders.Fuse()
        agents |= {"tokenizer": Tokenizer(backend), "mentions": [[n] for n in names]}
    return agents


@functools.cache
def _run(name, names, rules, words):
    study = {"description": "One of each rule"} if name == "single" else _shipped(name)
    study |= {"name": name, "num_auctions": NUM_AUCTIONS, "num_tokens": 3}
    study |= {"keep_auctions": 5, "seed": 17}
    if name == "welfare":
        study["agents"] |= {"vocab_size": 5}
        study["factors"]["agents"] = {"num_agents": [2, 3, 4]}
    else:
        study["agents"] = _pool(names, words)
    if name == "single":
        study["rule"] = RULES[0]
    else:
        study["factors"]["rule"] = list(rules or RULES)
    return ta.studies.run(study, blocks_per_chunk=1)


def small_results(name="welfare", names=NAMES, rules=None, words=None, **changes):
    """Results of the study `name` with some attributes changed, as a copy to edit.

    Args:
      name: A shipped study, or "single", which has one cell.
      names: Of the agents, but in "welfare".
      rules: Levels of the factor "rule" in the place of `RULES`.
      words: What texts are made of; without them there are no texts.
      **changes: Of attributes.
    """
    rules, words = (x and tuple(x) for x in (rules, words))
    found = _run(name, tuple(names), rules, words)
    public = [x for x in dir(Results) if not x.startswith("_")]
    parts = {x: getattr(found, x) for x in public}
    tables = ("summary", "differences", "effects", "variance_ratios", "auctions")
    parts |= {x: parts[x].copy() for x in tables}
    return _Editable(**{**vars(found), **parts, **changes})


class _Editable(SimpleNamespace):
    """Passes for results, as a mock does."""

    __class__ = Results
