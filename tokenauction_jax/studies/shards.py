"""Which chunks of a study run where: in shards, and in processes of one run."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

import pydantic

from tokenauction_jax.outside import quoted
from tokenauction_jax.scenarios.numbers import STRICT
from tokenauction_jax.studies.config import StudyError

_T = TypeVar("_T")
_Count = Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A share of the chunks of a study: every `count`-th, from the `index`-th on.

    Attributes:
      index: Which share, from 1 on.
      count: How many there are.
    """

    __pydantic_config__ = STRICT
    index: _Count
    count: _Count

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard of a text such as ``3/16``.

        Raises:
          StudyError: If it is not one.

        >>> Shard.parse("3/16").of(range(40))
        range(2, 40, 16)
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise StudyError(
                f"a shard is K/N with K from 1 to N, such as 3/16: got {quoted(text)}"
            )
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, chunks: Sequence[_T]) -> Sequence[_T]:
        """Its share of chunks, or of those that are left of them."""
        return chunks[self.index - 1 :: self.count]


def check_shares(num_chunks: int, shares: int) -> None:
    """Raises `StudyError` unless there is a chunk for each share."""
    if shares > num_chunks:
        raise StudyError(
            f"the study has {num_chunks:,} chunks, which {shares:,} cannot share: take "
            "fewer, or smaller chunks (blocks_per_chunk)"
        )
