"""What rules may say does not matter to them, so that less has to be computed."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsNeutrality(Protocol):
    """A rule or a valuation that says whether the numbers of tokens matter to it.

    Where filters leave few tokens, `simulate` shows a neutral payment only those that
    some agent can produce. A payment that is found from an aggregation and a valuation
    is neutral if both are.
    """

    @property
    def neutral(self) -> bool:
        """Whether tokens may be renumbered, and those left out that nobody can produce.

        That moves an aggregate's probabilities with their tokens, and changes neither
        weights nor values nor payments.
        """
        ...


@runtime_checkable
class SupportsShift(Protocol):
    """A payment that says whether it takes logits for log-probabilities."""

    @property
    def takes_logits(self) -> bool:
        """Whether a number added to all of an agent's makes no difference.

        `step` gives it logits of which each agent's largest is 0.
        """
        ...


def is_neutral(*rules: object) -> bool:
    """Whether all these rules say that they are neutral."""
    return all(isinstance(x, SupportsNeutrality) and x.neutral for x in rules)


def takes_logits(payment: object) -> bool:
    """Whether a payment says that it takes logits."""
    return isinstance(payment, SupportsShift) and payment.takes_logits
