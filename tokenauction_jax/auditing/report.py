"""What an audit found, as records that print, compare and go to JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import NUM_OWN_BIDS, Instance
from tokenauction_jax.auditing.properties import replies as reply_properties
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.properties.payment import payment_margins
from tokenauction_jax.auditing.reply_instances import NUM_REPORTS, ReplyInstance
from tokenauction_jax.auditing.rules import VALUATIONS, ReplyRules, Rules, Sampler
from tokenauction_jax.mechanism import base
from tokenauction_jax.replies import ReplyMechanism

Row = tuple[float, ...]

# What a property looks at, besides the agent, bids and distributions.
USES = {
    properties.MONOTONE: ("own_bids",),
    properties.CONSISTENT: ("own_bids", "rival_bids"),
    properties.STABLE: ("own_bids", "seed"),
    properties.PAYMENT_MONOTONE: ("own_bids",),
    properties.RATIONAL: (),
    properties.TRUTHFUL: ("own_bids",),
    properties.NON_NEGATIVE: ("seed",),
    properties.SURPLUS: ("seed",),
    properties.ORDER: ("order", "seed"),
    properties.SCALE: ("scale",),
    properties.WEIGHTS: ("rival_bids",),
    properties.MEANS: (),
}
# The same of rules on replies, besides the agent, rewards and weights.
_REPLY_USES = {
    properties.WELL_FORMED: ("reports", "seed"),
    reply_properties.TRUTHFUL: ("reports",),
    properties.ORDER: ("order",),
    reply_properties.SCALE: ("scale",),
}


def is_drawn(name: str) -> bool:
    """Whether a violation of the property may depend on what the seed draws."""
    return "seed" in USES.get(properties.family(name), ("seed",))


@dataclasses.dataclass(frozen=True, repr=False)
class Counterexample:
    """An auction that violates a property. Its `repr` is the code that makes it.

    ``assert Counterexample(...).violation(aggregation, payment) < 1e-3`` is a test.

    Attributes:
      property: One of the names in `properties.DEFINITIONS`; those of individual
        rationality and truthfulness end in the name of the valuation.
      agent: The agent whose bid or payment is questioned.
      bids: `(n,)`; the agent's own is its true value.
      probabilities: `(n, V)`, the agents' preferred distributions.
      own_bids: Other bids of the agent that matter, at most three.
      rival_bids: `(n,)`, a second profile of the others' bids, where one matters.
      order: `(n,)`, the permutation that matters, if one does.
      scale: Factor on the bids.
      seed: Of draws.
    """

    property: str
    agent: int
    bids: Row
    probabilities: tuple[Row, ...]
    own_bids: Row = ()
    rival_bids: Row | None = None
    order: tuple[int, ...] | None = None
    scale: float = 1.0
    seed: int = 0

    def __repr__(self) -> str:
        return _code(self)

    def violation(
        self,
        aggregation: base.Aggregation,
        payment: base.Payment | None = None,
        *,
        valuations: Sequence[base.Valuation] = VALUATIONS,
        sampler: Sampler | None = None,
    ) -> float:
        """By how much the rules violate the property here, at most 0 if they do not.

        NaN if the property does not apply, because the auction is undefined.

        Args:
          aggregation: The rule.
          payment: For a property of payments; without one it is the aggregation's.
          valuations: Must hold the one that the property names, if it names one.
          sampler: For `stable sampling`, besides the aggregation itself.
        """
        rules = Rules(aggregation, payment, valuations, sampler)
        margins = aggregation_margins if payment is None else payment_margins
        stacked = jax.tree.map(lambda x: np.asarray(x)[None], self.instance())
        return float(search.evaluate(margins, rules, stacked)[self.property][0])

    @classmethod
    def from_instance(
        cls, name: str, instance: Instance, *, compact: bool = True
    ) -> "Counterexample":
        """The instance as plain numbers of six digits.

        Args:
          name: The property; what it does not look at is left out.
          instance: With NumPy leaves.
          compact: Whether to leave out agents that bid nothing and tokens that nobody
            has, too. With fewer of them a seed draws other numbers.
        """
        p = np.exp(np.asarray(instance.log_probs, float))
        kept = (instance.bids > 0) | (instance.rival_bids > 0) | (not compact)
        kept[instance.agent] = True
        agents = np.flatnonzero(kept)
        tokens = np.flatnonzero(p[agents].any(axis=0) | (not compact))
        row = _row
        bids, agent = row(instance.bids[agents]), int(kept[: instance.agent].sum())
        own_bids = sorted({x for x in row(instance.own_bids) if x != bids[agent]})
        # The permutation that it leaves of the agents that stay.
        order = np.argsort(np.argsort([i for i in instance.order if kept[i]]))
        details: dict[str, Any] = {
            "own_bids": tuple(own_bids),
            "rival_bids": row(instance.rival_bids[agents]),
            "order": tuple(map(int, order)),
            "scale": row(instance.scale)[0],
            "seed": int(instance.seed),
        }
        uses = USES.get(properties.family(name), tuple(details))
        return cls(
            property=name,
            agent=agent,
            bids=bids,
            probabilities=tuple(row(x) for x in p[agents][:, tokens]),
            **{field: value for field, value in details.items() if field in uses},
        )

    def instance(self) -> Instance:
        """The auction as arrays."""
        bids = np.asarray(self.bids, np.float32)
        own_bids = np.full(NUM_OWN_BIDS, bids[self.agent])
        own_bids[: len(self.own_bids)] = self.own_bids
        with np.errstate(divide="ignore"):
            log_probs = np.log(np.asarray(self.probabilities)).astype(np.float32)
        order = np.arange(bids.size) if self.order is None else np.asarray(self.order)
        rivals = self.bids if self.rival_bids is None else self.rival_bids
        return Instance(
            agent=np.int32(self.agent),
            bids=bids,
            log_probs=log_probs,
            own_bids=own_bids,
            rival_bids=np.asarray(rivals, np.float32),
            order=order,
            scale=np.float32(self.scale),
            seed=np.uint32(self.seed),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class ReplyCounterexample:
    """Candidates on which a rule violates a property. Its `repr` is code that makes it.

    ``assert ReplyCounterexample(...).violation(rule) < 1e-3`` is a test.

    Attributes:
      property: One of the names in `properties.replies.DEFINITIONS`.
      agent: The agent whose report or payment is questioned.
      rewards: `(n, M)`, in money; the agent's own are its true ones.
      weights: `(M,)`, the candidates' weights, of which rules take logarithms.
      reports: Other rewards `(M,)` that the agent may report, at most three.
      order: `(n,)`, the permutation that matters, if one does.
      scale: Factor on the rewards.
      seed: Of draws.
    """

    property: str
    agent: int
    rewards: tuple[Row, ...]
    weights: Row
    reports: tuple[Row, ...] = ()
    order: tuple[int, ...] | None = None
    scale: float = 1.0
    seed: int = 0

    def __repr__(self) -> str:
        return _code(self)

    def violation(self, rule: ReplyMechanism) -> float:
        """By how much the rule violates the property here, at most 0 if it does not.

        NaN if the property does not apply, as at a tie.
        """
        stacked = jax.tree.map(lambda x: np.asarray(x)[None], self.instance())
        margins = reply_properties.reply_margins
        found = search.evaluate(margins, ReplyRules(rule), stacked)
        return float(found[self.property][0])

    @classmethod
    def from_instance(
        cls, name: str, instance: ReplyInstance, *, compact: bool = True
    ) -> "ReplyCounterexample":
        """The instance as plain numbers of six digits.

        Args:
          name: The property; what it does not look at is left out.
          instance: With NumPy leaves.
          compact: Whether to leave out agents that report nothing, and candidates of
            weight 0 that are copies of others, too.
        """
        rewards, agent = instance.rewards, int(instance.agent)
        kept = (rewards != 0).any(axis=1) | (not compact)
        kept[agent] = True
        columns = np.concatenate([rewards, instance.reports]).T
        possible = instance.log_weights > -np.inf
        copies = np.array([(columns[possible] == x).all(axis=1).any() for x in columns])
        replies = possible | ~copies | (not compact)
        truth = _row(rewards[agent][replies])
        reports = [_row(x) for x in instance.reports[:, replies]]
        order = np.argsort(np.argsort([i for i in instance.order if kept[i]]))
        details: dict[str, Any] = {
            "reports": tuple(x for x in dict.fromkeys(reports) if x != truth),
            "order": tuple(map(int, order)),
            "scale": _row(instance.scale)[0],
            "seed": int(instance.seed),
        }
        uses = _REPLY_USES.get(name, ())
        return cls(
            property=name,
            agent=int(kept[:agent].sum()),
            rewards=tuple(map(_row, rewards[kept][:, replies])),
            weights=_row(np.exp(instance.log_weights[replies])),
            **{field: value for field, value in details.items() if field in uses},
        )

    def instance(self) -> ReplyInstance:
        """The auction as arrays."""
        rewards = np.asarray(self.rewards, np.float32)
        reports = np.tile(rewards[self.agent], (NUM_REPORTS, 1))
        reports[: len(self.reports)] = self.reports or reports[:0]
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.asarray(self.weights)).astype(np.float32)
        order = range(len(rewards)) if self.order is None else self.order
        return ReplyInstance(
            agent=np.int32(self.agent),
            rewards=rewards,
            log_weights=log_weights,
            reports=reports,
            order=np.asarray(order),
            scale=np.float32(self.scale),
            seed=np.uint32(self.seed),
        )


def _row(x: Any) -> Row:
    return tuple(float(f"{value:.6g}") for value in np.ravel(x))


def _code(example: Counterexample | ReplyCounterexample) -> str:
    """The call that makes it, without what is as by default."""
    shown = [
        f"{field.name}={getattr(example, field.name)!r}"
        for field in dataclasses.fields(example)
        if getattr(example, field.name) != field.default
    ]
    return f"{type(example).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the search says about one property.

    Attributes:
      property: Its name.
      payment: The payment that it is about, or None if about the aggregation alone.
      verdict: "holds", "fails" or "not checked".
      instances: Random instances that it applies to.
      holds_on: On how many of these it holds.
      worst: The largest violation found, by random or adversarial search; 0 if none.
      counterexample: The smallest one found, or None.
      note: What a reader should know besides.
    """

    property: str
    payment: str | None
    verdict: str
    instances: int = 0
    holds_on: int = 0
    worst: float = 0.0
    counterexample: Counterexample | ReplyCounterexample | None = None
    note: str = ""


class _Report:
    """What all reports can do."""

    findings: tuple[Finding, ...]
    definitions: ClassVar[Mapping[str, str]]

    def finding(self, property: str, payment: str | None = None) -> Finding:
        """The finding about a property of the aggregation, or of one payment.

        Raises:
          KeyError: If there is none; the message lists those that there are.
        """
        for finding in self.findings:
            if (finding.property, finding.payment) == (property, payment):
                return finding
        known = sorted({(f.property, f.payment) for f in self.findings}, key=str)
        raise KeyError(f"no finding {(property, payment)}; there are {known}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, for JSON."""
        content = dataclasses.asdict(self)  # type: ignore[call-overload]
        definitions = {
            finding.property: self.definitions[properties.family(finding.property)]
            for finding in self.findings
        }
        return content | {"definitions": definitions}


@dataclasses.dataclass(frozen=True)
class Audit(_Report):
    """The findings about an aggregation and its payments.

    Attributes:
      aggregation: The rule, as text.
      payments: The payments, as text.
      num_agents: Of each instance, ``n``.
      vocab_size: Of each instance, ``V``.
      num_instances: Random instances.
      undefined: How many of these leave the aggregate undefined.
      comparable: Share of pairs of outcomes at two random profiles of bids that an
        agent can compare robustly.
      tolerance: The largest violation of a property of payments that is rounding.
      bid_ratio: The largest between two bids of an instance.
      seed: Of all instances.
      seconds: What the audit took, compiling included.
      environment: Backend, devices, dtype and versions.
      findings: One a property.
    """

    aggregation: str
    payments: tuple[str, ...]
    num_agents: int
    vocab_size: int
    num_instances: int
    undefined: int
    comparable: float
    tolerance: float
    bid_ratio: float
    seed: int
    seconds: float
    environment: dict[str, Any]
    findings: tuple[Finding, ...]
    definitions: ClassVar[Mapping[str, str]] = properties.DEFINITIONS


@dataclasses.dataclass(frozen=True)
class ReplyAudit(_Report):
    """What an audit of a rule on replies found.

    Attributes:
      rule: As text.
      num_agents: Of each instance, ``n``.
      num_candidates: Of each instance, ``M``.
      num_instances: Random instances.
      tolerance: The largest violation that is rounding.
      bid_ratio: The largest between two bids, which multiply the rewards.
      seed: Of all instances.
      seconds: What the audit took, compiling included.
      environment: Backend, devices, dtype and versions.
      findings: One a property.
    """

    rule: str
    num_agents: int
    num_candidates: int
    num_instances: int
    tolerance: float
    bid_ratio: float
    seed: int
    seconds: float
    environment: dict[str, Any]
    findings: tuple[Finding, ...]
    definitions: ClassVar[Mapping[str, str]] = reply_properties.DEFINITIONS
