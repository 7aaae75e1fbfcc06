"""What a property says of one auction: that numbers equal others, or reach them."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records

Margins = dict[str, jax.Array]


@records.record
class Claim:
    """That numbers are what they should be.

    Attributes:
      property: The one that makes the claim, by its name in `DEFINITIONS`.
      what: Which numbers they are, in words.
      relation: "==" or ">=".
      found: The numbers, of any shape.
      wanted: What they should be, of that shape or a scalar.
      unit: A scalar: 1 for probabilities, the sum of bids for money.
      size: Of the terms, of the shape of the numbers: what a miss is relative to, where
        that is not the unit.
    """

    property: str = records.static_field()
    what: str = records.static_field()
    relation: str = records.static_field()
    found: jax.Array
    wanted: ArrayLike
    unit: ArrayLike = 1.0
    size: ArrayLike | None = None

    def margin(self) -> jax.Array:
        """By how much the worst of the numbers misses, relative to its size."""
        excess = self.found - self.wanted
        missing = jnp.abs(excess) if self.relation == "==" else -excess
        return (missing / (self.unit if self.size is None else self.size)).max()


def worst(claims: Iterable[Claim]) -> Margins:
    """The largest margin of the claims of each property."""
    margins: Margins = {}
    for claim in claims:
        margin = claim.margin()
        margins[claim.property] = jnp.maximum(
            margins.get(claim.property, margin), margin
        )
    return margins


def symmetric_auctions(
    bids: jax.Array, log_probs: jax.Array, order: jax.Array, scale: ArrayLike
) -> list[tuple[jax.Array, jax.Array]]:
    """The auction, with its agents in another order, and with bids multiplied."""
    permuted, scaled = (bids[order], log_probs[order]), (bids * scale, log_probs)
    return [(bids, log_probs), permuted, scaled]


def where_applicable(applies: jax.Array, margins: Margins) -> Margins:
    """The margins, NaN where the instance says nothing about them."""
    return {name: jnp.where(applies, x, jnp.nan) for name, x in margins.items()}
