"""Checks of aggregations and valuations."""

import dataclasses
from typing import Any

import jax
import numpy as np

from tokenauction_jax.auditing import Counterexample, properties, search
from tokenauction_jax.auditing.instances import random_instances
from tokenauction_jax.mechanism import base
from tokenauction_jax.testing.subject import (
    AGENTS,
    ORDER,
    OUTCOME,
    TOKENS,
    Arrays,
    Methods,
    Subject,
    random_auctions,
    running,
)

_SEARCHED = 512
_VALUE: Methods = {"value": lambda rule, x: rule.value(x["log_q"], x["log_p"])}


def check_aggregation(aggregation: base.Aggregation, *, seed: int = 0) -> None:
    """Checks an aggregation: its weights, its distribution, and what it claims.

    Weights `(n,)` and probabilities `(V,)` are numbers that sum to one, whatever is
    zero or equal. An undefined auction is all ``-inf`` when compiled and may raise
    `ValueError` on concrete values; one where every agent has every token is defined. A
    lone bidder gets its own distribution, a zero bidder has no say, and neither the
    agents' order nor the unit of bids matters. The rule is a pytree of its numbers,
    answers alike compiled, `vmap`ped or neither, and has finite gradients. One that
    claims to be `monotone` is, on random instances and on what an adversary makes of
    the worst of them.

    Args:
      aggregation: The rule.
      seed: Of all random auctions.

    Raises:
      AssertionError: If a check fails.

    >>> import tokenauction_jax as ta
    >>> check_aggregation(ta.log_linear())
    """
    auctions = random_auctions(seed)
    shapes = (AGENTS,), (TOKENS,)
    subject = Subject(aggregation, base.Aggregation, OUTCOME, auctions, shapes)
    monotone = getattr(type(aggregation), "monotone", None)
    if not isinstance(monotone, bool):
        subject.fail(f"monotone is {monotone!r} in its class, neither True nor False")
    bids, log_probs = auctions["bids"], auctions["log_probs"]
    weights, q = subject.answers(auctions)
    undefined = np.asarray(~q.any(axis=-1))
    subject.agree("the negative part of weights", np.minimum(weights, 0), 0, auctions)
    subject.agree("the sum of weights", weights.sum(axis=-1), 1, auctions)
    subject.agree("the sum of probabilities", q.sum(axis=-1), 1.0 - undefined, auctions)
    wrong = undefined & np.isfinite(log_probs).all(axis=(1, 2))
    subject.forbid("undefined, though every agent has every token", wrong, auctions)

    own = np.arange(len(bids))[:, None] % AGENTS == np.arange(AGENTS)
    p = np.exp(log_probs[own])
    lone = auctions | {"bids": np.float32(2) * own}
    single = {"bids": 1 + bids[:, :1], "log_probs": log_probs[own][:, None]}
    silent = auctions | {"bids": np.where(own, 0, 1 + bids)}
    turned = np.where(own[..., None], log_probs[..., ::-1], log_probs)
    turned = silent | {"log_probs": turned}
    weights_silent, q_silent = subject.answers(silent)
    subject.agree("the weight of a zero bidder", weights_silent[own], 0, silent)
    permuted = {name: x[:, ORDER] for name, x in auctions.items()}
    for what, case, wanted, wanted_q in (
        ("with a lone bidder", lone, 1.0 * own, p),
        ("with one agent", single, np.ones((len(bids), 1)), p),
        ("once a zero bidder wants something else", turned, weights_silent, q_silent),
        ("in another order", permuted, weights[:, ORDER], q),
        ("with scaled bids", auctions | {"bids": 1000 * bids}, weights, q),
    ):
        found, found_q = subject.answers(case)
        subject.agree(f"weights {what}", found, wanted, case)
        subject.agree(f"probabilities {what}", found_q, wanted_q, case)
    subject.check_transformations(undefined)
    subject.check_gradients("weights", "log_prob")
    if monotone:
        check_monotone(subject, seed)


def check_valuation(valuation: base.Valuation, *, seed: int = 0) -> None:
    """Checks a valuation: a scalar, at most 0, and 0 for the preferred distribution.

    It may be ``-inf`` but not NaN. It is a pytree, answers alike compiled, `vmap`ped or
    neither, and has finite gradients.

    Args:
      valuation: The valuation.
      seed: Of all random distributions.

    Raises:
      AssertionError: If a check fails.
    """
    log_probs = random_auctions(seed)["log_probs"]
    pairs = {"log_q": log_probs[:, 0], "log_p": log_probs[:, 1]}
    subject = Subject(valuation, base.Valuation, _VALUE, pairs, ((),))
    (values,) = subject.answers(pairs)
    subject.agree("the positive part of value", np.maximum(values, 0), 0, pairs)
    same = pairs | {"log_q": pairs["log_p"]}
    subject.agree("value of what is preferred", subject.answers(same)[0], 0, same)
    subject.check_transformations(np.zeros(len(values), bool))
    subject.check_gradients("value")


def check_monotone(subject: Subject, seed: int) -> None:
    """Searches random instances, and climbs from the worst, as an audit does."""
    name = properties.MONOTONE
    # Samplers are known by identity: without this every search would be compiled.
    rules = dataclasses.replace(properties.bundle(subject.rule), sampler=None)
    with running(f"{subject.name} in the search for violations"):
        instances = random_instances(seed, _SEARCHED, AGENTS, TOKENS)
        margins = search.evaluate(_monotone_margin, rules, instances)[name]
        worst, targets = search.starts([margins])
        worst = jax.tree.map(lambda x: x[worst], instances)
        climbed = search.climb(_monotone_margin, (name,), rules, worst, targets)
        tried = jax.tree.map(lambda *x: np.concatenate(x), worst, climbed)
        margins = np.nan_to_num(search.evaluate(_monotone_margin, rules, tried)[name])
        if margins.max() <= 1e-5:
            return
        found = {name: jax.tree.map(lambda x: x[margins.argmax()], tried)}
        kept = {name: max(margins.max() / 10, 1e-5)}
        small = search.shrink(_monotone_margin, rules, found, kept)[name]
    subject.fail(
        "not monotone: a rising bid moves a token's probability away from the bidder's "
        f"or past it, by {margins.max():.3g} at worst and {kept[name]:.3g} or more in\n"
        f"  {Counterexample.from_instance(name, small)}"
    )


def _monotone_margin(rules: properties.Rules, instance: Any) -> Arrays:
    """The only margin of the audit that is searched here: all take longer."""
    name = properties.MONOTONE
    return {name: properties.aggregation_margins(rules, instance)[name]}
