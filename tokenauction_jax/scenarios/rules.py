"""The rules of an auction as a file or a study has them: by name, or as objects."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic
from pydantic_core import PydanticCustomError

from tokenauction_jax import records
from tokenauction_jax.mechanism import Aggregation, Mechanism, Payment, Valuation
from tokenauction_jax.outside import quoted
from tokenauction_jax.replies import (
    ReplyMechanism,
    TextAuction,
    no_auction,
    reply_auction,
    segment_auction,
)
from tokenauction_jax.replies.reply_auctions import Generator
from tokenauction_jax.scenarios import names, objects
from tokenauction_jax.scenarios.numbers import (
    STRICT,
    Amounts,
    Influence,
    NumAgents,
    NumReplies,
    NumTokens,
    Order,
    Passes,
    Tau,
)
from tokenauction_jax.scenarios.validation import nearest

# No auction: a text of the generator, for nothing.
NONE = "none"
SEGMENT = "segment"
MECHANISMS = (*names.REPLY_RULES, SEGMENT, NONE)
# Candidates of an auction of replies, unless it is said.
_NUM_REPLIES = 16


def _check_aggregation(given: Any) -> Any:
    return _check(given, Aggregation, names.AGGREGATIONS)


def _check_payment(given: Any) -> Any:
    return _check(given, Payment, names.PAYMENTS)


def _check(given: Any, kind: type, known: tuple[str, ...]) -> Any:
    """A name that may be one of a rule, or an object that is one."""
    if isinstance(given, kind) and not isinstance(given, type):
        return given
    if not isinstance(given, str):
        message = "should be {kind} or the name of one"
        kinds = f"an {kind.__name__}" if kind is Aggregation else f"a {kind.__name__}"
        raise PydanticCustomError("own", message, {"kind": kinds})
    bases = dict.fromkeys(name.partition("(")[0] for name in known)
    if not objects.is_reference(given) and given.partition("(")[0] not in bases:
        hint = nearest(given, known, "choices")
        message = "no {given} here, {hint}"
        raise PydanticCustomError(
            "own", message, {"given": quoted(given), "hint": hint}
        )
    return given


def _check_valuation(given: Any) -> Any:
    return _check(given, Valuation, names.VALUATIONS)


# A valuation by name, as ``FILE.py:NAME``, or the object.
ValuationName = Annotated[Any, pydantic.AfterValidator(_check_valuation)]


def as_rule(given: Any) -> Any:
    """The section that a rule's name, or a `Mechanism`, is short for."""
    if isinstance(given, str):
        return {"aggregation": given}
    if isinstance(given, Mechanism):
        return {"aggregation": given.aggregation, "payment": given.payment}
    return given


def as_any_rule(given: Any) -> Any:
    """Likewise of a rule of tokens, of whole texts or of segments."""
    of_texts = isinstance(given, ReplyMechanism | TextAuction)
    if isinstance(given, str) and not objects.is_reference(given):
        # What is misspelt is told beside the names that it is near to.
        known = (*names.AGGREGATIONS, *MECHANISMS)
        near = difflib.get_close_matches(given, known, 1)
        of_texts = names.is_reply_rule(given) or any(x in MECHANISMS for x in near)
    return {"mechanism": given} if of_texts else as_rule(given)


def _check_mechanism(given: Any) -> Any:
    own = isinstance(given, ReplyMechanism | TextAuction)
    if own and not isinstance(given, type):
        return given
    if isinstance(given, str) and objects.is_reference(given):
        return given
    if isinstance(given, str) and (given == NONE or names.is_reply_rule(given)):
        return given
    hint = nearest(given, MECHANISMS, "choices") if isinstance(given, str) else ""
    message = "no {given} here, {hint}" if hint else "should be a ReplyMechanism"
    context = {"given": quoted(given), "hint": hint}
    raise PydanticCustomError("own", message, context)


@dataclasses.dataclass(frozen=True)
class ReplyRule:
    """An auction of whole replies.

    Attributes:
      mechanism: What picks a reply: by name, such as ``mosaic`` or ``best_of``, as
        ``FILE.py:NAME``, or the object, which may be a whole `TextAuction`; ``none``
        for a text of the generator and no auction.
      tau: Of ``mosaic``, if it is not in the name.
      num_replies: Candidates of each auction; by default 16.
      forward_passes: Instead, how often models may read a token in an auction: as many
        candidates as that allows.
      generator: What draws the candidates: the ``reference``, the ``bids``, or the
        ``mean`` of the agents.
    """

    __pydantic_config__ = STRICT
    kind: ClassVar[str] = "reply_rule"
    mechanism: Annotated[Any, pydantic.AfterValidator(_check_mechanism)]
    tau: Tau | None = None
    num_replies: NumReplies | None = None
    forward_passes: Passes | None = None
    generator: Generator = "reference"

    @property
    def name(self) -> str:
        """The rule as shown in tables, such as ``mosaic(0.5)``."""
        if not isinstance(self.mechanism, str):
            return records.describe(self.mechanism)
        number = "" if self.tau is None else f"({self.tau:g})"
        return self.mechanism + number

    @property
    def references(self) -> list[str]:
        """The ``FILE.py:NAME`` among its parts."""
        given = self.mechanism
        return names.references(given) if isinstance(given, str) else []

    def build(self, num_tokens: int, num_models: int) -> TextAuction:
        """The auction.

        Args:
          num_tokens: The cap on the tokens of a text.
          num_models: How many models read each token.

        Raises:
          RuleError: If the name leads nowhere, or something does not go together.
        """
        try:
            return self._build(num_tokens * num_models)
        except ValueError as error:
            raise names.RuleError(f"rule {quoted(self.name)}: {error}") from None

    def _build(self, passes: int) -> TextAuction:
        given, size = self.mechanism, self.num_replies
        if self.forward_passes is not None:
            if size is not None:
                raise ValueError("has either num_replies or forward_passes")
            size = self.forward_passes // passes
            if size == 0:
                needed = f"one candidate takes {passes:,}"
                raise ValueError(f"forward_passes is {self.forward_passes:,}, {needed}")
        if given == NONE:
            if self.tau is not None or (size or 1) > 1:
                raise ValueError("has one reply, and no tau")
            return no_auction(self.generator)
        if isinstance(given, str):
            named = given if self.tau is None else f"{given}({self.tau!r})"
            given = names.text_rule(named)
        elif self.tau is not None:
            raise ValueError("sets its own numbers: leave out tau")
        names.check_record(records.describe(given), given)
        if isinstance(given, TextAuction):
            if size is not None or self.generator != "reference":
                raise ValueError("sets its own numbers: leave out those of replies")
            return given
        size = _NUM_REPLIES if size is None else size
        return reply_auction(given, num_replies=size, generator=self.generator)


@dataclasses.dataclass(frozen=True)
class SegmentRule:
    """An auction of the segments of a text.

    Attributes:
      mechanism: ``segment``.
      segment_tokens: How many tokens a segment has.
      relevance: Click probabilities, one number or one for each agent.
      num_ads: How many agents write a segment.
      replacement: Whether an agent can win several segments of a text.
    """

    __pydantic_config__ = STRICT
    kind: ClassVar[str] = "segment_rule"
    mechanism: Literal["segment"] = SEGMENT
    segment_tokens: NumTokens = 8
    relevance: Amounts = 1.0
    num_ads: NumAgents = 1
    replacement: bool = True

    @property
    def name(self) -> str:
        """The rule as shown in tables."""
        return f"{SEGMENT}({self.segment_tokens})"

    @property
    def references(self) -> list[str]:
        """It has none."""
        return []

    def build(self, num_agents: int) -> TextAuction:
        """The auction.

        Raises:
          RuleError: If there is not one relevance for each agent, or all are 0.
        """
        relevance = self.relevance
        if isinstance(relevance, tuple) and len(relevance) != num_agents:
            told = f"{len(relevance)} numbers, expected one or {num_agents}"
            raise names.RuleError(f"relevance: {told}")
        try:
            return segment_auction(
                self.segment_tokens,
                relevance=np.asarray(relevance, float),
                num_ads=self.num_ads,
                replacement=self.replacement,
            )
        except ValueError as error:
            raise names.RuleError(str(error)) from None


def needs_tokens(mechanism: Mechanism | TextAuction) -> Mechanism:
    """The mechanism, for what only those of single tokens can do.

    Raises:
      RuleError: If it is one of whole texts.
    """
    if not isinstance(mechanism, Mechanism):
        raise names.RuleError(
            f"rule {quoted(mechanism.name)} is of whole texts: this takes one of tokens"
        )
    return mechanism


def kind_of_rule(given: Any) -> str:
    """Which section a rule is of, from its content or the section itself."""
    if isinstance(given, Mapping):
        if given.get("mechanism") == SEGMENT:
            return SegmentRule.kind
        return ReplyRule.kind if "mechanism" in given else Rule.kind
    return getattr(given, "kind", Rule.kind)


@dataclasses.dataclass(frozen=True)
class Rule:
    """An aggregation and its payment.

    Attributes:
      aggregation: By name, such as ``linear`` or ``power_mean(0.5)``, as
        ``FILE.py:NAME`` (which may be a whole `Mechanism`), or the object.
      payment: Likewise; by default the truthful one of a built-in aggregation. Under a
        name, ``FILE.py:NAME`` may be a function of the aggregation.
      order: Of ``power_mean``, if it is not in the name.
      influence: Exponent on the bids, of a built-in aggregation.
    """

    __pydantic_config__ = STRICT
    kind: ClassVar[str] = "token_rule"
    aggregation: Annotated[Any, pydantic.AfterValidator(_check_aggregation)]
    payment: Annotated[
        Any, pydantic.AfterValidator(lambda x: None if x is None else _check_payment(x))
    ] = None
    order: Order | None = None
    influence: Influence = 1.0

    @property
    def name(self) -> str:
        """The rule as shown in tables, such as ``power_mean(0.5)``."""
        if not isinstance(self.aggregation, str):
            return records.describe(self.aggregation)
        numbers = [f"{self.order:g}"] if self.order is not None else []
        numbers += [f"influence={self.influence:g}"] if self.influence != 1 else []
        return self.aggregation + (f"({', '.join(numbers)})" if numbers else "")

    @property
    def references(self) -> list[str]:
        """The ``FILE.py:NAME`` among its parts."""
        given = (self.aggregation, self.payment)
        named = [part for part in given if isinstance(part, str)]
        return [found for name in named for found in names.references(name)]

    def build(self) -> Mechanism:
        """The mechanism.

        Raises:
          RuleError: If a name leads nowhere, or the payment is not defined for the
            aggregation.
        """
        try:
            return self._build()
        except ValueError as error:
            raise names.RuleError(f"rule {quoted(self.name)}: {error}") from None

    def _build(self) -> Mechanism:
        aggregation, payment = self._aggregation(), self.payment
        if isinstance(aggregation, Mechanism):
            if payment is not None:
                raise ValueError("has a payment already, and is given another")
            return aggregation
        if payment is None and isinstance(self.aggregation, str):
            payment = names.default_payment(self.aggregation)
        if payment is None:
            raise ValueError('has no default payment; name one, e.g. "pay_your_bid"')
        if isinstance(payment, str):
            payment = names.payment(payment, aggregation)
        for part in (aggregation, payment):
            names.check_record(part.name, part)
        return Mechanism(aggregation, payment)

    def _aggregation(self) -> Aggregation | Mechanism:
        numbers = {} if self.order is None else {"order": self.order}
        numbered = bool(numbers) or self.influence != 1
        if not isinstance(self.aggregation, str):
            if numbered:
                raise ValueError("sets its own numbers: leave out order and influence")
            return self.aggregation
        if objects.is_reference(self.aggregation) and not numbered:
            return names.mechanism_or_aggregation(self.aggregation)
        return names.aggregation(self.aggregation, self.influence, **numbers)


# Told apart by what they have.
AnyRule = Annotated[
    Annotated[Rule, pydantic.Tag(Rule.kind)]
    | Annotated[ReplyRule, pydantic.Tag(ReplyRule.kind)]
    | Annotated[SegmentRule, pydantic.Tag(SegmentRule.kind)],
    pydantic.Discriminator(kind_of_rule),
]
