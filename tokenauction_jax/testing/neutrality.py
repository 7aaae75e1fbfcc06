"""Checks of rules that say that the numbers of tokens do not matter to them."""

import numpy as np

from tokenauction_jax.mechanism import base
from tokenauction_jax.testing.auctions import TOKENS, Arrays
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
    if not base.is_neutral(subject.rule):
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
