"""Checks of aggregations and valuations."""

import numpy as np

from tokenauction_jax.auditing import properties
from tokenauction_jax.auditing.instances import Instance, random_instances
from tokenauction_jax.auditing.properties.aggregation import (
    aggregation_margins,
    symmetries,
    well_formed,
)
from tokenauction_jax.auditing.properties.claims import Claim, Margins
from tokenauction_jax.auditing.properties.influence import influence_claims
from tokenauction_jax.auditing.rules import Rules
from tokenauction_jax.auditing.token_hunt import TokenHunt
from tokenauction_jax.mechanism import base
from tokenauction_jax.testing.auctions import (
    AGENTS,
    TOKENS,
    Arrays,
    random_auctions,
    random_changes,
    random_rivals,
)
from tokenauction_jax.testing.invariances import check_neutral
from tokenauction_jax.testing.samplers import check_sample
from tokenauction_jax.testing.subject import OUTCOME, Methods, Subject, batched

# Random instances that the search for violations of monotonicity starts from.
_SEARCHED = 512

_VALUE: Methods[base.Valuation] = {
    "value": lambda rule, x: rule.value(x["log_q"], x["log_p"])
}


def check_aggregation(aggregation: base.Aggregation, *, seed: int = 0) -> None:
    """Checks an aggregation: its weights, its distribution, and what it claims.

    Weights `(n,)` and probabilities `(V,)` are numbers that sum to one, whatever is
    zero or equal. An undefined auction is all ``-inf`` when compiled and may raise
    `ValueError` on concrete values; one where every agent has every token is defined. A
    lone bidder gets its own distribution, a zero bidder has no say, and neither the
    agents' order nor the unit of bids matters. The weights are those in use: where all
    others want the same, an agent of one weight has one influence, whatever the bids.
    All this is exact: a fault of 0.1 % is found. The rule is a pytree of its numbers,
    answers alike compiled, `vmap`ped or neither, and has finite gradients. One that
    claims to be `monotone` is, on random instances and on what an adversary makes of
    the worst of them. One with a `sample` of its own draws what `log_prob` says, by
    Bernstein's bound, which finds every token that is wrong by 0.05.

    Args:
      aggregation: The rule.
      seed: Of all random auctions.

    Raises:
      AssertionError: If a check fails.

    >>> import tokenauction_jax as ta
    >>> check_aggregation(ta.log_linear())
    """
    auctions, changes = random_auctions(seed), random_changes(seed)
    shapes = (AGENTS,), (TOKENS,)
    subject = Subject(aggregation, base.Aggregation, OUTCOME, auctions, shapes)
    monotone = getattr(type(aggregation), "monotone", None)
    if not isinstance(monotone, bool):
        subject.fail(f"monotone is {monotone!r} in its class, neither True nor False")
    check_neutral(subject, OUTCOME, auctions)
    outcomes = subject.symmetric_answers(changes)
    weights, q = outcomes[0]
    undefined = np.asarray(~q.any(axis=-1))
    subject.hold(well_formed, weights, q, shown=auctions)
    wrong = undefined & np.isfinite(auctions["log_probs"]).all(axis=(1, 2))
    subject.forbid("undefined, though every agent has every token", wrong, auctions)
    _check_bidders(subject)
    shown = auctions | changes
    subject.hold(symmetries, *outcomes, changes["order"], shown=shown)
    shown = auctions | random_rivals(seed)
    subject.agree_all(batched(_influence, aggregation, shown), shown)
    subject.check_transformations(undefined)
    subject.check_gradients("weights", "log_prob")
    for name, protocol in (
        ("sample", base.SupportsSample),
        ("sample_from_logits", base.SupportsLogits),
    ):
        if isinstance(aggregation, protocol):
            check_sample(subject, seed, name)
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
    check_neutral(subject, _VALUE, pairs)


def _check_bidders(subject: Subject[base.Aggregation]) -> None:
    """A lone bidder gets what it prefers, and one that bids nothing has no say."""
    bids, log_probs = subject.auctions["bids"], subject.auctions["log_probs"]
    own = np.arange(len(bids))[:, None] % AGENTS == np.arange(AGENTS)
    p = np.exp(log_probs[own])
    lone = {"bids": np.float32(2) * own, "log_probs": log_probs}
    single = {"bids": 1 + bids[:, :1], "log_probs": log_probs[own][:, None]}
    silent = {"bids": np.where(own, 0, 1 + bids), "log_probs": log_probs}
    turned = np.where(own[..., None], log_probs[..., ::-1], log_probs)
    weights, q = subject.answers(silent)
    subject.agree("the weight of a zero bidder", weights[own], 0, silent)
    for what, case, wanted, wanted_q in (
        ("with a lone bidder", lone, 1.0 * own, p),
        ("with one agent", single, np.ones((len(bids), 1)), p),
        (
            "once a zero bidder wants something else",
            silent | {"log_probs": turned},
            weights,
            q,
        ),
    ):
        found, found_q = subject.answers(case)
        subject.agree(f"weights {what}", found, wanted, case)
        subject.agree(f"probabilities {what}", found_q, wanted_q, case)


def _influence(aggregation: base.Aggregation, x: Arrays) -> list[Claim]:
    path = x["agent"], x["bids"], x["rival_bids"], x["log_probs"]
    return influence_claims(aggregation, *path)


def check_monotone(subject: Subject[base.Aggregation], seed: int) -> None:
    """Searches random instances, and climbs from the worst, as an audit does."""
    instances = random_instances(seed, _SEARCHED, AGENTS, TOKENS)
    rules = Rules(subject.rule)
    (finding,), _ = TokenHunt(instances).findings(rules, None, _monotone_margin)
    if finding.property != properties.MONOTONE:
        subject.fail(f"the search for violations fails: {finding.note}")
    if finding.verdict == "fails":
        subject.fail(
            "not monotone: a rising bid moves a token's probability away from the "
            f"bidder's or past it, by {finding.worst:.3g} at worst and still in\n"
            f"  {finding.counterexample}"
        )


def _monotone_margin(rules: Rules, instance: Instance) -> Margins:
    """The only margin of the audit that is searched here: all take longer."""
    name = properties.MONOTONE
    return {name: aggregation_margins(rules, instance)[name]}
