"""The manifest of a study's folder: what runs, how it is cut, and where it ran."""

import dataclasses
import difflib
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from tokenauction_jax import files
from tokenauction_jax.environment import environment
from tokenauction_jax.files import StoreError
from tokenauction_jax.mechanism.sampling import SAMPLER
from tokenauction_jax.studies.config import Outline, Study
from tokenauction_jax.studies.plan import Plan

# Characters of what changed, so that the message stays a line.
_LONGEST = 300
# What two runs must agree in for their numbers to be the same bits.
_SAME = ("tokenauction_jax", "versions", "backend", "x64", "random_bits")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a study is and how it is cut, and what numbers depend on besides.

    Attributes:
      outline: What a reader must know.
      digest: SHA-256 of the study.
      config: The study, one key a line: what the digest is of.
      plan: How it is cut.
      sampler: How tokens are drawn.
      base: The folder that the study's file was in, None if it was built in Python.

    The others are those of `environment`.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    outline: Outline
    digest: str
    config: Sequence[str]
    plan: Plan
    sampler: str
    tokenauction_jax: str
    python: str
    platform: str
    versions: Mapping[str, str]
    backend: str
    devices: Sequence[str]
    x64: bool
    random_bits: str
    base: str | None = None

    @classmethod
    def of(
        cls, study: Study, plan: Plan, base: pathlib.Path | None = None
    ) -> "Manifest":
        """The manifest of a study that runs here and now."""
        return cls(
            outline=study.outline(),
            digest=study.digest(),
            config=study.canonical().splitlines(),
            plan=plan,
            sampler=SAMPLER,
            base=None if base is None else str(base),
            **environment(),
        )

    @classmethod
    def read(cls, path: pathlib.Path) -> "Manifest":
        """The manifest of a folder.

        Raises:
          StoreError: If the folder is not a study's, or its manifest is damaged or of
            a version of the package that wrote another one.
        """
        try:
            kind = pydantic.TypeAdapter(cls)
            found = kind.validate_json(files.read(path), strict=True)
            found._check()
        except FileNotFoundError:
            raise StoreError(
                f"{path.parent} is not the folder of a study: it has no {path.name}"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is damaged, or of another version of tokenauction_jax "
                f"({_reason(error)}): restore it from a copy"
            ) from None
        return found

    def content(self) -> dict[str, Any]:
        """As plain values, which JSON takes."""
        return dataclasses.asdict(self)

    @property
    def stamp(self) -> str:
        """SHA-256 of all that numbers depend on: not of where the study's file was."""
        content = self.content() | {"base": None}
        return files.checksum(json.dumps(content, sort_keys=True).encode())

    def check_study(self, study: Study, folder: pathlib.Path) -> None:
        """Raises `StoreError` with a diff unless `study` is what the parts are of."""
        if study.digest() == self.digest:
            return
        now = study.canonical().splitlines()
        diff = [
            line
            for line in difflib.unified_diff(self.config, now, n=0, lineterm="")
            if not line.startswith(("---", "+++", "@@"))
        ]
        shown = textwrap.shorten(", ".join(diff), _LONGEST, placeholder=" ...")
        raise StoreError(
            f"{folder} was run with another configuration ({shown}): "
            "undo the change, or run it into another folder"
        )

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

    def check_environment(self, folder: pathlib.Path) -> None:
        """Raises `StoreError` if a chunk run now could differ in its bits."""
        now = environment()
        changed = [
            f"{name} was {getattr(self, name)}, is {now[name]}"
            for name in _SAME
            if getattr(self, name) != now[name]
        ]
        if changed:
            raise StoreError(
                f"{folder} was run elsewhere ({'; '.join(changed)}): numbers would "
                "not be those of one run; use the same versions, or another folder"
            )

    def _check(self) -> None:
        """Raises `ValueError` for what only an edit or damage can have made."""
        config = "".join(f"{line}\n" for line in self.config)
        if files.checksum(config.encode()) != self.digest:
            raise ValueError("its digest is not that of its config")
        plan, outline = self.plan, self.outline
        if (
            plan.chunk % plan.block
            or plan.num_auctions != outline.num_auctions
            or list(plan.valuations) != list(outline.valuations)
            or not len(plan.agents) == len(plan.texts) == len(outline.levels) > 0
        ):
            raise ValueError("its plan is not that of its outline")


def _reason(error: Exception) -> str:
    """The first thing that is wrong, in short."""
    if not isinstance(error, pydantic.ValidationError):
        return files.reason(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    line = ": ".join(filter(None, [place, first["msg"]]))
    return textwrap.shorten(line, _LONGEST, placeholder=" ...")
