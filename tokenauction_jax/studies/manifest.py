"""The manifest of a study's folder: what runs, how it is cut, and where it ran."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from tokenauction_jax.files import StoreError
from tokenauction_jax.studies.config import Outline, Study
from tokenauction_jax.studies.plan import Plan
from tokenauction_jax.studies.provenance import Provenance
from tokenauction_jax.studies.shards import Shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(Provenance):
    """What a study is and how it is cut, and what numbers depend on besides.

    Attributes:
      outline: What a reader must know.
      plan: How it is cut.
      shard: Which of its chunks the folder is for, None if for all.
    """

    outline: Outline
    plan: Plan
    shard: Shard | None = None

    @classmethod
    def of(
        cls,
        study: Study,
        plan: Plan,
        base: pathlib.Path | None = None,
        shard: Shard | None = None,
    ) -> "Manifest":
        """The manifest of a study that runs here and now."""
        about = {"outline": study.outline(), "plan": plan, "shard": shard}
        return cls.here(study.canonical(), base, **about)

    def content(self) -> dict[str, Any]:
        """As plain values, which JSON takes."""
        content = super().content()
        if self.shard is None:
            del content["shard"]
        return content

    @property
    def chunks(self) -> Sequence[int]:
        """The chunks that the folder is for."""
        every = range(self.plan.num_chunks)
        return self.shard.of(every) if self.shard else every

    def check_plan(self, study: Study, plan: Plan, folder: pathlib.Path) -> None:
        """Raises `StoreError` unless all but sizes and labels follow from the study."""
        sizes = {"block": self.plan.block, "chunk": self.plan.chunk}
        # Names of files are those from the folder where it was begun.
        labels = {"levels": self.outline.levels, "rule": self.outline.rule}
        own = dataclasses.replace(
            self,
            outline=dataclasses.replace(study.outline(), **labels),
            plan=dataclasses.replace(plan, **sizes),
        )
        if own.stamp != self.stamp:
            raise StoreError(
                f"the manifest in {folder} was changed: its outline or plan is not "
                "that of its study; restore it from a copy"
            )

    def check(self) -> None:
        """Raises `ValueError` for what only an edit or damage can have made."""
        super().check()
        plan, outline = self.plan, self.outline
        if (
            plan.chunk % plan.block
            or plan.num_auctions != outline.num_auctions
            or list(plan.valuations) != list(outline.valuations)
            or not len(plan.agents) == len(plan.texts) == len(outline.levels) > 0
        ):
            raise ValueError("its plan is not that of its outline")
        try:
            _ = outline.comparisons
        except KeyError:
            raise ValueError("the levels of its factors do not cross") from None
        if self.shard and not (self.shard.index <= self.shard.count <= plan.num_chunks):
            raise ValueError("its shard is not one of its plan")
