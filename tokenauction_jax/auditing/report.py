"""What an audit found, as records that print, compare and go to JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tokenauction_jax.auditing import properties, search
from tokenauction_jax.auditing.instances import NUM_OWN_BIDS, Instance
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.properties.payment import payment_margins
from tokenauction_jax.auditing.rules import VALUATIONS, Rules, Sampler
from tokenauction_jax.mechanism import base

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
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"Counterexample({', '.join(shown)})"

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

        def row(x: Any) -> Row:
            return tuple(float(f"{value:.6g}") for value in np.ravel(x))

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
    counterexample: Counterexample | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Audit:
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
        content = dataclasses.asdict(self)
        definitions = {
            finding.property: properties.DEFINITIONS[
                properties.family(finding.property)
            ]
            for finding in self.findings
        }
        return content | {"definitions": definitions}
