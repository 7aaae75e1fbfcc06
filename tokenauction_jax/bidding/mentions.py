"""What it is worth to an agent that the finished text names it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tokenauction_jax import measures, records, simulation
from tokenauction_jax.mechanism import base

if TYPE_CHECKING:
    from tokenauction_jax.agents import Tokenizer


@records.record
class Mentions:
    """See `mentions`."""

    amount: jax.Array
    tokenizer: "Tokenizer" = records.static_field()
    phrases: tuple[str, ...] = records.static_field()

    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Money `(A,)` for texts `(A, T)`."""
        size = tokens.shape[0]
        if jnp.shape(self.amount) not in ((), (size,)):
            raise ValueError(
                f"amount has shape {jnp.shape(self.amount)}, expected one number or "
                f"({size},), one a text"
            )
        named = jax.pure_callback(
            self._named,
            jax.ShapeDtypeStruct((size,), bool),
            *(tokens, mask.sum(axis=1)),
            vmap_method="broadcast_all",
        )
        return jnp.where(named, self.amount, 0)

    def _named(self, tokens: jax.Array, lengths: jax.Array) -> np.ndarray:
        """Of texts `(..., T)`, on the host."""
        rows, sizes = np.asarray(tokens), np.asarray(lengths)
        texts = simulation.decode_texts(
            self.tokenizer, rows.reshape(-1, rows.shape[-1]), sizes.ravel()
        )
        named = [measures.mentions(text, self.phrases) for text in texts]
        return np.array(named, bool).reshape(sizes.shape)


def mentions(
    tokenizer: "Tokenizer", phrases: Sequence[str], amount: ArrayLike = 1.0
) -> Mentions:
    """A reward of `text_reward`: an amount if the text has one of the phrases, else 0.

    Phrases count in any case and as whole words, as the measure ``mention`` of studies
    has it. Texts are decoded on the host, inside compiled programs, too: some 20
    microseconds a text. Rewards with the same tokenizer and equal phrases share their
    programs, whatever the amount.

    Args:
      tokenizer: Of the pool, such as ``agents.load_checkpoint("house").tokenizer``.
      phrases: Texts, of which each counts.
      amount: Money per text, one number or one an auction, `(A,)`; differentiable.

    Raises:
      ValueError: If an argument is no such thing.

    >>> import tokenauction_jax as ta
    >>> tokenizer = ta.agents.load_checkpoint("house").tokenizer
    >>> brand = mentions(tokenizer, ["Alpha Airlines", "Alpha"], 5.0)
    >>> objective = ta.bidding.text_reward(0, brand)
    >>> tokens = jnp.array([tokenizer.encode("Fly to Rome with ALPHA!")])
    >>> print(brand(tokens, jnp.ones(tokens.shape, bool)))
    [5.]
    """
    reads = callable(getattr(tokenizer, "decode", None))
    if not reads or not hasattr(tokenizer, "end_tokens"):
        raise ValueError(
            "tokenizer must be that of the pool's checkpoint, with decode and "
            f"end_tokens, got {tokenizer!r}"
        )
    listed = isinstance(phrases, Sequence) and not isinstance(phrases, str)
    given = tuple(phrases) if listed else ()
    if not given or not all(isinstance(x, str) and x.strip() for x in given):
        raise ValueError(f"phrases must be a list of words or names, got {phrases!r}")
    amount = base.as_float(amount)
    if amount.ndim > 1:
        raise ValueError(f"amount has shape {amount.shape}, expected () or (A,)")
    if records.is_concrete(amount):
        found = np.asarray(amount)
        if not (np.isfinite(found) & (found >= 0)).all():
            raise ValueError(f"amount must be finite and not negative, got {found}")
    return Mentions(amount, tokenizer, given)
