"""Checks of samplers: stable ones, and those of rules that draw by themselves."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.auditing.properties.chance import FALSE_ALARM, mean_by_chance
from tokenauction_jax.auditing.properties.sampler import changes_wrongly, leaning
from tokenauction_jax.auditing.rules import Sampler
from tokenauction_jax.mechanism import base
from tokenauction_jax.testing.auctions import (
    AGENTS,
    TOKENS,
    Arrays,
    random_auctions,
    seeded_key,
    take,
)
from tokenauction_jax.testing.subject import (
    OUTCOME,
    Subject,
    aggregate_paths,
    batched,
)

# Auctions, and draws in each.
_SAMPLED, _SAMPLES = 16, 8192
# Own bids as multiples of the others'.
_LADDER = np.array([0, 0.1, 0.3, 1, 3, 10], np.float32)


def check_stable_sampler(
    sampler: Sampler, aggregation: base.Aggregation, *, seed: int = 0
) -> None:
    """Checks a sampler that is called as `tokenauction_jax.stable_sample` is.

    With one key and rising own bids, the token changes at most once, from outside
    ``T+ = {t: p_i(t) > r(t)}`` into it, where ``r`` is the aggregate without the agent.
    At each own bid, in whatever order they come, it has the law of the aggregate, by
    Bernstein's bound, which finds every token that is wrong by 0.05. Noise that all own
    bids share, of Gumbel or as one uniform, gives the right law but is not stable. Over
    all auctions draws lean to what a higher bid makes likelier as they should, by an
    empirical Bernstein bound, which finds a sampler that runs at bids 15 % too low in
    99 of 100 calls.

    Args:
      sampler: Called with ``(key, aggregation, agent, own_bids, bids, log_probs)``, of
        which `own_bids` are `(k,)`; returns tokens `(k,)`, integers.
      aggregation: A monotone rule, itself checked before.
      seed: Of all random auctions and draws.

    Raises:
      AssertionError: If a check fails.
    """

    def draw(aggregation: base.Aggregation, x: Arrays) -> jax.Array:
        keys = jax.random.split(seeded_key(x["seed"]), _SAMPLES)
        path = x["agent"], x["own_bids"], x["bids"], x["log_probs"]
        return jax.vmap(lambda key: sampler(key, aggregation, *path))(keys)

    auctions, rows = take(random_auctions(seed), slice(_SAMPLED)), np.arange(_SAMPLED)
    agents, bids = rows % AGENTS, auctions["bids"]
    others = bids.sum(axis=-1, keepdims=True) - bids
    own_bids = np.where(others > 0, others, 1)[..., None] * _LADDER
    path = aggregate_paths(aggregation, auctions, own_bids)[rows, agents]
    halves = aggregate_paths(aggregation, auctions, own_bids / 2)[rows, agents]
    auctions |= {"agent": agents.astype(np.int32), "own_bids": own_bids[rows, agents]}
    auctions |= {"seed": (rows + _SAMPLED * seed).astype(np.uint32)}
    name = getattr(sampler, "__name__", type(sampler).__name__)
    methods, shapes = {name: draw}, ((_SAMPLES, _LADDER.size),)
    subject = Subject(
        aggregation, base.Aggregation, methods, auctions, shapes, np.integer
    )
    (tokens,) = subject.answers(auctions)
    foreign = (tokens < 0) | (tokens >= TOKENS)
    subject.forbid(f"{name} draws a token that does not exist", foreign, auctions)
    turned = auctions | {"own_bids": auctions["own_bids"][:, ::-1]}
    moved = subject.answers(turned)[0][..., ::-1] != tokens
    subject.forbid(f"{name} depends on the order of own bids", moved, auctions)

    defined = np.asarray(path.any(axis=-1))
    p = np.exp(auctions["log_probs"][rows, agents])
    of_draws = jax.vmap(changes_wrongly, (0, None, None, None))
    wrong = np.asarray(jax.jit(jax.vmap(of_draws))(tokens, defined, path[:, 0], p))
    if wrong.any():
        row, number = np.argwhere(wrong)[0]
        subject.fail(
            f"{name} is not stable: in {wrong.mean():.2%} of draws a rising bid "
            "changes the token twice, or not from outside T+ into it; with T+ = "
            f"{np.flatnonzero(p[row] > path[row, 0])} it draws {tokens[row, number]}",
            take(auctions, row),
        )
    what = f"the frequency of tokens by {name}, for own bid and token,"
    _check_frequencies(subject, what, auctions, tokens, path, defined)
    _check_leaning(subject, name, auctions, tokens, path, halves)


def check_sample(subject: Subject[base.Aggregation], seed: int, name: str) -> None:
    """Checks a rule's own `sample`, or `sample_from_logits`, against its `log_prob`."""
    auctions = take(random_auctions(seed), slice(_SAMPLED))
    auctions |= {"seed": (np.arange(_SAMPLED) + _SAMPLED * seed).astype(np.uint32)}
    shown = auctions["log_probs"]
    if name == "sample_from_logits":
        shown = shown - shown.max(axis=-1, keepdims=True)

    def draw(rule: Any, x: Arrays) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(seeded_key(x["seed"]), _SAMPLES)
        sample = getattr(rule, name)
        return jax.vmap(sample, (0, None, None))(keys, x["bids"], x["shown"])

    tokens, log_probs = batched(draw, subject.rule, auctions | {"shown": shown})
    law = batched(OUTCOME["log_prob"], subject.rule, auctions).astype(float)
    defined = law.any(axis=-1)
    foreign = (tokens < 0) | (tokens >= TOKENS)
    subject.forbid(f"{name} draws a token that does not exist", foreign, auctions)
    wrong = np.where(defined[:, None], np.isnan(log_probs), np.isfinite(log_probs))
    what = f"{name} has NaN in a defined auction, or a number in an undefined one,"
    subject.forbid(what, wrong, auctions)
    due = np.take_along_axis(law, tokens, axis=-1)
    found = np.where(defined[:, None], np.exp(log_probs.astype(float)), due)
    what = f"the probability of the token of {name}"
    subject.agree(what, found, due, auctions)
    what = f"the frequency of tokens by {name}"
    _check_frequencies(subject, what, auctions, tokens, law, defined)


def _check_frequencies(
    subject: Subject,
    what: str,
    auctions: Arrays,
    tokens: np.ndarray,
    law: np.ndarray,
    defined: np.ndarray,
) -> None:
    """Holds draws `(A, S, ...)` against their law `(A, ..., V)`, by Bernstein's bound.

    Where `defined`, `(A, ...)`, is false, there are none.
    """
    drawn = (tokens[..., None] == np.arange(TOKENS)).mean(axis=1)
    drawn = np.where(defined[..., None], drawn, law)
    log_term = math.log(4 * drawn.size / FALSE_ALARM)
    # Rounding may take a probability past 1.
    chance = np.sqrt(2 * law * np.maximum(1 - law, 0) * log_term / _SAMPLES)
    chance += 2 * log_term / (3 * _SAMPLES)
    subject.agree(what, drawn, law, auctions, chance=chance)


def _check_leaning(
    subject: Subject,
    name: str,
    auctions: Arrays,
    tokens: np.ndarray,
    path: np.ndarray,
    halves: np.ndarray,
) -> None:
    """Holds the mean `leaning` of tokens `(A, S, k)` against its expectation."""
    # Axes: auctions, own bids, tokens; 0 where nothing is drawn.
    leans = np.where(
        path > 0, np.asarray(leaning(jnp.asarray(path), jnp.asarray(halves))), 0
    )
    drawn = np.take_along_axis(leans[:, None], tokens[..., None], axis=-1)[..., 0]
    excess = (drawn - (path * leans).sum(axis=-1)[:, None]).mean(axis=-1)
    bound = 2 * np.abs(leans).max()
    chance = mean_by_chance(excess.var(), excess.size, 2 * bound, 2)
    worst = np.abs(excess.mean(axis=1)).argmax()
    what = f"how much {name} leans to what a higher own bid makes likelier, in excess,"
    mean = np.reshape(excess.mean(), (1,))
    subject.agree(what, mean, 0, take(auctions, [worst]), chance=chance)
