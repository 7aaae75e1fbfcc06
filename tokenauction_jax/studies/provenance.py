"""What every folder of results says of them: what ran, and what numbers depend on."""

import dataclasses
import difflib
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pydantic

from tokenauction_jax import files
from tokenauction_jax.environment import environment
from tokenauction_jax.files import StoreError
from tokenauction_jax.mechanism.sampling import SAMPLER

# Characters of what changed, so that the message stays a line.
_LONGEST = 300
# What two runs must agree in for their numbers to be the same bits.
_SAME = ("tokenauction_jax", "versions", "backend", "x64", "random_bits")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What runs, and what its numbers depend on besides.

    Attributes:
      digest: SHA-256 of the configuration.
      config: The configuration, one key a line: what the digest is of.
      sampler: How tokens are drawn.
      base: The folder that the configuration's file was in, None if it was built in
        Python.

    The others are those of `environment`.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    digest: str
    config: Sequence[str]
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
    def here(
        cls, canonical: str, base: pathlib.Path | None = None, **about: Any
    ) -> Self:
        """That of a configuration, one key a line, which runs here and now."""
        return cls(
            digest=files.checksum(canonical.encode()),
            config=canonical.splitlines(),
            sampler=SAMPLER,
            base=None if base is None else str(base),
            **environment(),
            **about,
        )

    @classmethod
    def read(cls, path: pathlib.Path, what: str) -> Self:
        """The manifest of a folder.

        Args:
          path: Its file.
          what: Whose folder it should be, for the message.

        Raises:
          StoreError: If the folder is of something else, or its manifest is damaged or
            of a version of the package that wrote another one.
        """
        try:
            kind = pydantic.TypeAdapter(cls)
            found = kind.validate_json(files.read(path), strict=True)
            found.check()
        except FileNotFoundError:
            raise StoreError(
                f"{path.parent} is not the folder of {what}: it has no {path.name}"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is damaged, or of another version of tokenauction_jax "
                f"({reason(error)}): restore it from a copy"
            ) from None
        return found

    def check(self) -> None:
        """Raises `ValueError` for what only an edit or damage can have made."""
        config = "".join(f"{line}\n" for line in self.config)
        if files.checksum(config.encode()) != self.digest:
            raise ValueError("its digest is not that of its config")

    def content(self) -> dict[str, Any]:
        """As plain values, which JSON takes."""
        return dataclasses.asdict(self)

    @property
    def stamp(self) -> str:
        """SHA-256 of all that numbers depend on: not of where the file was.

        Nor of which share of it this is: its parts are those of the whole.
        """
        content = self.content() | {"base": None}
        content.pop("shard", None)
        return files.checksum(json.dumps(content, sort_keys=True).encode())

    def check_config(self, canonical: str, folder: pathlib.Path) -> None:
        """Raises `StoreError` with a diff unless this is what the folder is of."""
        if files.checksum(canonical.encode()) == self.digest:
            return
        shown = self.config_difference(canonical.splitlines())
        raise StoreError(
            f"{folder} was run with another configuration ({shown}): "
            "undo the change, or run it into another folder"
        )

    def config_difference(self, config: Sequence[str]) -> str:
        """What is different in another configuration, in short."""
        diff = [
            line
            for line in difflib.unified_diff(self.config, config, n=0, lineterm="")
            if not line.startswith(("---", "+++", "@@"))
        ]
        return textwrap.shorten(", ".join(diff), _LONGEST, placeholder=" ...")

    def check_environment(self, folder: pathlib.Path) -> None:
        """Raises `StoreError` if what is run now could differ in its bits."""
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


def reason(error: Exception) -> str:
    """The first thing that is wrong with a file, in short."""
    if not isinstance(error, pydantic.ValidationError):
        return files.reason(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    line = ": ".join(filter(None, [place, first["msg"]]))
    return textwrap.shorten(line, _LONGEST, placeholder=" ...")
