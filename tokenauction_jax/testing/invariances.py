"""Checks of rules that say what does not matter to them."""

import numpy as np

from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.invariances import is_neutral, takes_logits
from tokenauction_jax.testing.auctions import AGENTS, TOKENS, Arrays
from tokenauction_jax.testing.subject import Methods, Rule, Subject, batched

# Tokens that no agent can produce, beside the others.
_IMPOSSIBLE = 3


def check_neutral(
    subject: Subject[Rule], methods: Methods[Rule], auctions: Arrays, unit: object = 1.0
) -> None:
    """Checks a rule that claims to be neutral, with tokens renumbered and some added.

    Args:
      subject: The rule.
      methods: Those of its methods that draw nothing. Answers per token are `(A, V)`.
      auctions: All that they read; arrays over tokens have names ``log_...``.
      unit: What answers are measured in, as for `Subject.agree`.
    """
    if not is_neutral(subject.rule):
        return
    places = np.random.default_rng(0).permutation(TOKENS + _IMPOSSIBLE)[:TOKENS]
    shown = dict(auctions)
    for name, x in auctions.items():
        if name.startswith("log_"):
            wider = np.full((*x.shape[:-1], TOKENS + _IMPOSSIBLE), -np.inf, x.dtype)
            wider[..., places] = x
            shown[name] = wider
    if "token" in auctions:
        shown["token"] = places[auctions["token"]].astype(np.int32)
    for method, function in methods.items():
        found = batched(function, subject.rule, shown)
        wanted = batched(function, subject.rule, auctions)
        if found.shape[-1:] == (TOKENS + _IMPOSSIBLE,):
            found = found[..., places]
        what = f"{method} with tokens renumbered and impossible ones added"
        subject.agree(what, found, wanted, auctions, unit)


def check_shifts(
    subject: Subject[base.Payment],
    methods: Methods[base.Payment],
    auctions: Arrays,
    unit: object = 1.0,
) -> None:
    """Checks a payment that claims to take logits: adds a number to all of an agent's.

    Args:
      subject: The payment.
      methods: Those of its methods that draw nothing.
      auctions: All that they read.
      unit: As for `check_neutral`.
    """
    payment = subject.rule
    if not takes_logits(payment):
        return
    shifts = np.arange(AGENTS, dtype=np.float32)[:, None] - 0.5
    shown = auctions | {"log_probs": auctions["log_probs"] + shifts}
    for method, function in methods.items():
        found, wanted = (batched(function, payment, x) for x in (shown, auctions))
        what = f"{method} of logits, and not of log-probabilities,"
        subject.agree(what, found, wanted, auctions, unit)
