"""The same auctions and objectives, for the package and for its reference."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from reference import bidding

import tokenauction_jax as ta

VALUATIONS = {
    "total_variation": ta.total_variation(),
    "forward_kl": ta.forward_kl(),
    "reverse_kl": ta.reverse_kl(),
}
RULES = (("linear", 1.0), ("linear", 2.0), ("log_linear", 1.0), (0.5, 1.0), (-1.0, 1.0))
# Those of one class share a compiled program.
PLAIN = [bidding.Mechanism(rule, "pay_your_bid", a) for rule, a in RULES]
PLAIN += [bidding.Mechanism(rule, "second_price", a) for rule, a in RULES[:2]]
PLAIN += [bidding.Mechanism(rule, "clarke") for rule in ("linear", "log_linear")]
MYERSON = [bidding.Mechanism(r, "myerson", a, v) for v in VALUATIONS for r, a in RULES]


def name(mechanism):
    """As a test is called; other parameters keep their names."""
    if not isinstance(mechanism, bidding.Mechanism):
        return None
    words = (str(mechanism.rule), f"{mechanism.influence:g}", mechanism.payment)
    return " ".join(word for word in (*words, mechanism.valuation) if word)


def brand(tokens, mask):
    """Worth of token 1 anywhere, and of each token but the first two by its place."""
    place = np.arange(1, tokens.shape[1] + 1)[None]
    return 2.0 * (mask & (tokens == 1)).any(1) + (mask * tokens / place).sum(1)


# Of agents that share all tokens; a forward KL is infinite unless they do.
TERMS = (
    *("utility 0 total_variation", "utility 1 forward_kl", "utility 2 reverse_kl"),
    *("welfare total_variation", "welfare forward_kl", "welfare reverse_kl"),
    *("revenue", "reward 1"),
)
FINITE = tuple(term for term in TERMS if "forward_kl" not in term)


def term(module, words):
    """An objective of `ta.bidding` or of the reference."""
    kind, *words = words.split()
    if kind == "revenue":
        return module.revenue()
    if kind == "reward":
        return module.text_reward(int(words[0]), brand)
    valuation = words[-1] if module is bidding else VALUATIONS[words[-1]]
    if kind == "welfare":
        return module.welfare(valuation)
    return module.utility(int(words[0]), valuation)


def objective(factors, terms=TERMS):
    """The package's weighted sum."""
    weighted = [c * term(ta.bidding, x) for c, x in zip(factors, terms, strict=True)]
    return sum(weighted[1:], weighted[0])


def reference_objective(factors, terms=TERMS):
    """The reference's weighted sum."""
    return bidding.combined(factors, [term(bidding, words) for words in terms])


def reference_rows(terms=TERMS):
    """Each of the reference's, a row."""
    return bidding.stacked([term(bidding, words) for words in terms])


def mechanism_of(reference):
    """The package's."""
    rule, influence = reference.rule, reference.influence
    if isinstance(rule, str):
        aggregation = getattr(ta, rule)(influence)
    else:
        aggregation = ta.power_mean(rule, influence)
    if reference.payment == "pay_your_bid":
        return ta.Mechanism(aggregation, ta.pay_your_bid())
    more = () if reference.valuation is None else (VALUATIONS[reference.valuation],)
    return ta.Mechanism(aggregation, getattr(ta, reference.payment)(aggregation, *more))


def pool_of(table, log_probs=None):
    """The package's, if need be with other (traced) log-probabilities."""
    log_probs = table.log_probs if log_probs is None else log_probs
    return ta.agents.tabular(log_probs, start=table.start, end_token=table.end_token)


def heated(table, temperature):
    """The pool at another temperature."""
    possible = np.isfinite(table.log_probs)
    logits = jnp.asarray(np.where(possible, table.log_probs, 0)) / temperature
    return pool_of(table, jax.nn.log_softmax(jnp.where(possible, logits, -jnp.inf)))


def slope_in(of, slopes):
    """A derivative by the mechanism, as the reference has it: of all rules together."""
    payment = getattr(slopes.payment, "aggregation", None)
    rules = [slopes.aggregation] + ([] if payment is None else [payment])
    return sum(getattr(rule, of) for rule in rules)


def numbers_of(mechanism):
    """What a reference mechanism can be differentiated in."""
    found = ["bids", "values", "temperature"]
    if mechanism.payment != "clarke":
        found.append("influence")
    return found + ([] if isinstance(mechanism.rule, str) else ["order"])


def instance(seed, shape, num_tokens, *, concentration=2.0, **options):
    """Smooth tables `shape`, bids and values, which float32 can hold."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(shape[-1], concentration), shape[:-1])
    log_probs, amounts = (
        x.astype(np.float32).astype(float)
        for x in (np.log(p), rng.uniform(0.5, 2, (2, shape[0])))
    )
    table = bidding.Table(log_probs, num_tokens, **options)
    return bidding.Auction(PLAIN[0], table, *amounts)


def under(auction, mechanism):
    """The same agents under another mechanism."""
    return replace(auction, mechanism=mechanism)


# Token 0 is followed by agents that share none, token 2 by such that share one.
APART = np.array(
    [
        [[1, 2, 0], [1, 2, 3], [0, 1, 1]],
        [[0, 0, 1], [2, 2, 1], [2, 1, 0]],
        [[0, 2, 1], [3, 2, 1], [1, 1, 0]],
    ],
    float,
)


def apart(mechanism):
    """Agents that become undefined under all but linear mixtures."""
    auction = instance(6, (3, 3, 3), 4, start=1)
    with np.errstate(divide="ignore"):
        log_probs = np.log(APART / APART.sum(-1, keepdims=True))
    table = replace(auction.table, log_probs=log_probs)
    return replace(auction, table=table, mechanism=mechanism)
