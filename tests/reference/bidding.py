"""What a text is worth, by enumeration of every text that a table can write.

A text is its tokens up to and including the end token, or up to a token whose auction
is undefined, or `num_tokens` of them; after its end all tokens are 0, so that each text
is one row. Objectives are functions of all texts and the values: `(K,)` for `K` texts,
or `(m, K)` for `m` objectives at once.
"""

from dataclasses import dataclass, replace

import numpy as np

from reference import aggregation, definitions, payments
from reference.aggregation import LD, renormalize

VALUATIONS = definitions.VALUATIONS
# Of Richardson's differences: five halvings leave 1e-13 of a function that is smooth
# over this, and divide the rounding of payments in double precision by 0.003.
STEP = 0.05


@dataclass(frozen=True)
class Mechanism:
    """`rule` is "linear", "log_linear" or an order; `valuation` that of "myerson"."""

    rule: str | float
    payment: str
    influence: float = 1.0
    valuation: str | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """Log-probabilities `(n, V)` or `(n, V, V)`, and how long a text may be."""

    log_probs: np.ndarray
    num_tokens: int
    start: int = 0
    end_token: int | None = None

    def contexts(self):
        """Distributions `(C, n, V)` of each context: `V` of them, or a single one."""
        log_probs = renormalize(self.log_probs)
        return log_probs[None] if log_probs.ndim == 2 else log_probs.swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class Auction:
    """Who bids what, `(n,)`, and what it is worth to them, `(n,)`."""

    mechanism: Mechanism
    table: Table
    bids: np.ndarray
    values: np.ndarray

    def number(self, of):
        """Bids, values, or a number of the rule or the table."""
        if of in ("bids", "values"):
            return getattr(self, of)
        if of == "temperature":
            return 1.0
        return self.mechanism.rule if of == "order" else self.mechanism.influence

    def changed(self, of, number):
        """The same with another number; logits are the table's log-probabilities."""
        if of in ("bids", "values"):
            return replace(self, **{of: number})
        if of == "temperature":
            logits = np.asarray(self.table.log_probs, LD) / number
            return replace(self, table=replace(self.table, log_probs=logits))
        field = {"order": "rule", "influence": "influence"}[of]
        return replace(self, mechanism=replace(self.mechanism, **{field: number}))


@dataclass(frozen=True, eq=False)
class Texts:
    """Every text: `tokens`, `mask` and `context` `(K, T)`, `probability` `(K,)`.

    Of each context, `log_q` `(C, V)` and expected payments `pays` `(C, n)`.
    """

    tokens: np.ndarray
    mask: np.ndarray
    context: np.ndarray
    probability: np.ndarray
    log_probs: np.ndarray
    log_q: np.ndarray
    pays: np.ndarray

    def value(self, valuation):
        """`v_i(q)` in each context, `(C, n)`."""
        return VALUATIONS[valuation](self.log_q[:, None], self.log_probs)

    def total(self, worth):
        """The sum over the tokens of each text of what its contexts are worth."""
        return np.where(self.mask, worth[self.context], 0).sum(1)


def enumerate_texts(auction):
    """All `Texts` that the agents may write."""
    mechanism, table, bids = auction.mechanism, auction.table, auction.bids
    log_probs = table.contexts()
    count, agents, size = log_probs.shape
    every = np.tile(np.asarray(bids, LD), (count, 1))
    log_q = _aggregate(mechanism, every, log_probs)
    defined = _defined(mechanism, bids, log_probs, log_q)
    pays = np.zeros((count, agents), LD)
    for c in np.flatnonzero(defined):
        pays[c] = expected_payments(mechanism, bids, log_probs[c])
    tokens = np.stack(
        np.meshgrid(*[np.arange(size)] * table.num_tokens, indexing="ij"), -1
    ).reshape(-1, table.num_tokens)
    first = np.full((len(tokens), 1), table.start)
    context = np.concatenate([first, tokens[:, :-1]], 1)
    if count == 1:
        context = np.zeros_like(context)
    goes_on = defined[context]
    if table.end_token is not None:
        goes_on[:, 1:] &= tokens[:, :-1] != table.end_token
    mask = np.logical_and.accumulate(goes_on, 1)
    chance = np.where(mask, np.exp(log_q)[context, tokens], 1).prod(1)
    kept = np.where(mask, 0, tokens).max(1) == 0
    arrays = (tokens, mask, context, chance)
    return Texts(*(x[kept] for x in arrays), log_probs, log_q, pays)


def _aggregate(mechanism, bids, log_probs):
    if mechanism.rule in definitions.RULES:
        rule = definitions.RULES[mechanism.rule]
        return rule(bids, log_probs, mechanism.influence)
    return aggregation.aggregate(bids, log_probs, mechanism.rule, mechanism.influence)


def _defined(mechanism, bids, log_probs, log_q):
    """Whether each context has an aggregate, and Myerson payments if it needs them."""
    defined = np.isfinite(log_q).any(-1)
    bids = np.asarray(bids)
    if mechanism.payment == "myerson" and (bids > 0).sum() > 1:
        values = VALUATIONS[mechanism.valuation](log_q[:, None], log_probs)
        defined &= np.isfinite(values[:, bids > 0]).all(-1)
    return defined


def expected_payments(mechanism, bids, log_probs):
    """`E[zeta_i]` `(n,)` of one auction."""
    kind, rule, influence = mechanism.payment, mechanism.rule, mechanism.influence
    if kind == "pay_your_bid":
        return np.asarray(bids, LD)
    if kind == "second_price" and rule == "linear":
        return payments.second_price(bids, log_probs, influence)[0]
    if kind == "clarke" and influence == 1:
        return getattr(payments, f"clarke_{rule}")(bids, log_probs)[0]
    if kind == "myerson":
        args = (rule, mechanism.valuation, influence)
        agents = range(len(bids))
        return np.array([_myerson(bids, log_probs, i, *args) for i in agents], LD)
    raise ValueError(f"no payments for {mechanism}")


def _myerson(bids, log_probs, agent, rule, valuation, influence):
    if bids[agent] == 0 or np.delete(bids, agent).sum() == 0:
        return 0.0
    # A total variation has a kink wherever `q` crosses `p` on the path of own bids.
    kinks = valuation == "total_variation" and rule != "linear"
    by_panels = definitions.sharp_myerson if kinks else definitions.myerson
    return by_panels(bids, log_probs, agent, rule, valuation, influence)


def utility(agent, valuation):
    """`w_i v_i(q) - E[zeta_i]` summed over a text."""

    def worth(texts, values):
        gain = _weighted(texts.value(valuation), values)[:, agent]
        return texts.total(gain - texts.pays[:, agent])

    return worth


def welfare(valuation):
    """`sum_i w_i v_i(q)`: payments stay within the platform."""

    def worth(texts, values):
        return texts.total(_weighted(texts.value(valuation), values).sum(1))

    return worth


def revenue():
    """`sum_i E[zeta_i]` summed over a text."""
    return lambda texts, values: texts.total(texts.pays.sum(1))


def text_reward(agent, reward):
    """`reward(tokens, mask)` of the finished text minus what the agent pays."""

    def worth(texts, values):
        return reward(texts.tokens, texts.mask) - texts.total(texts.pays[:, agent])

    return worth


def length():
    """The number of tokens."""
    return lambda texts, values: texts.mask.sum(1)


def stacked(objectives):
    """Several objectives at once, a row each."""

    def worth(texts, values):
        return np.stack([objective(texts, values) for objective in objectives])

    return worth


def combined(coefficients, objectives):
    """The weighted sum of objectives."""
    rows = stacked(objectives)
    return lambda texts, values: np.asarray(coefficients, LD) @ rows(texts, values)


def _weighted(found, weights):
    """The product; 0 where the weight is 0, even if what was found is -inf."""
    weights = np.asarray(weights, LD)
    return weights * np.where(weights == 0, 0, found)


def exact(auction, objective):
    """`J = sum_texts P(text) worth(text)`."""
    texts = enumerate_texts(auction)
    return _weighted(objective(texts, auction.values), texts.probability).sum(-1)


def central_moments(auction, objective):
    """The variance and the fourth moment of the worth of one text."""
    texts = enumerate_texts(auction)
    worth = objective(texts, auction.values)
    offset = worth - (texts.probability * worth).sum(-1, keepdims=True)
    return tuple((texts.probability * offset**k).sum(-1) for k in (2, 4))


def gradient(auction, objective, of, *, myopic=False, one_sided=False, step=STEP):
    """Derivatives of `exact`, and the size of the terms that cancel in them.

    Args:
      auction: Where to differentiate.
      objective: What a text is worth.
      of: "bids", "values", "influence", "order" or "temperature".
      myopic: Leave the probabilities of the texts as they are.
      one_sided: Look upwards only, as where a bid is 0.
      step: The largest of the differences.

    Returns:
      The derivatives and, for each, the sum of `|d (P(text) worth(text))|`; both have
      the shape of the argument, after that of several objectives.
    """
    start = np.asarray(auction.number(of), LD)
    fixed = enumerate_texts(auction).probability

    def terms(number):
        moved = auction.changed(of, number)
        texts = enumerate_texts(moved)
        chance = fixed if myopic else texts.probability
        return chance * objective(texts, moved.values)

    slopes = []
    for index in np.ndindex(start.shape):

        def along(x, index=index):
            number = start.copy()
            number[index] = x
            return terms(number[()])

        args = (along, start[index], step)
        slopes.append(definitions.derivative(*args, one_sided=one_sided))
    found = np.stack(slopes, -1).astype(float)  # (..., K, numbers)
    found = found.reshape(*found.shape[:-1], *start.shape)
    texts = -1 - start.ndim
    return found.sum(texts), np.abs(found).sum(texts)
