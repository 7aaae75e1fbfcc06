"""TOML files into frozen dataclasses, with every mistake, its line and a near name."""

import dataclasses
import difflib
import functools
import pathlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pydantic

from tokenauction_jax import files

# Tells where a value of a document stands: ``("agents", 0, "name")``.
Place = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong, and where."""

    place: Place
    message: str


def read_toml(path: pathlib.Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The document, and the line on which each of its values begins.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it is no TOML; `tomllib` says the line.
    """
    text = files.read(path).decode("utf-8")
    return tomllib.loads(text), _lines(text)


def validate(
    kind: Any, content: Mapping[str, Any], sections: Mapping[str | int, type]
) -> tuple[Any, list[Problem]]:
    """A dataclass from a document, or None and everything that is wrong with it.

    Args:
      kind: The dataclass, or another type that `pydantic` validates.
      content: The document.
      sections: The dataclasses inside it by the part of a place that leads to them,
        a key or the tag of a union: their fields are what an unknown key is near to.
    """
    try:
        return _adapter(kind).validate_python(content), []
    except pydantic.ValidationError as error:
        found = error.errors()
    # A list with a wrong element is also "too short": that says nothing new.
    found = [e for e in found if e["type"] != "too_short" or e["input"] in ([], ())]
    return None, [_explain(problem, kind, sections) for problem in found]


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Made once: studies have thousands of cells."""
    return pydantic.TypeAdapter(kind)


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """``did you mean 'x'?``, or all names where none is near."""
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"{what} are {', '.join(names)}"


def describe(problems: Iterable[Problem], lines: Mapping[Place, int]) -> str:
    """All problems in the order of their lines, ``line 3: agents[0].promt: ...``."""
    told = [(_line(p.place, lines), p) for p in dict.fromkeys(problems)]
    told.sort(key=lambda entry: entry[0] or 0)
    return "; ".join(
        (f"line {line}: " if line else "") + show(p.place) + p.message
        for line, p in told
    )


def show(place: Place) -> str:
    """``agents[0].name: ``, empty for the document itself."""
    shown = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in place)
    return f"{shown.lstrip('.')}: " if shown else ""


def _line(place: Place, lines: Mapping[Place, int]) -> int | None:
    """The line of a value, or of the section that misses it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _lines(text: str) -> dict[Place, int]:
    """The line each value begins on.

    A value stands in the first prefix of the file that parses and holds it; a prefix
    that ends within a value does not parse. So the parser itself says where values
    are, at a cost that does not matter for files of a few hundred lines.
    """
    lines: dict[Place, int] = {}
    rows = text.splitlines()
    start = 1
    for end in range(1, len(rows) + 1):
        try:
            content = tomllib.loads("\n".join(rows[:end]))
        except tomllib.TOMLDecodeError:
            continue
        for place in _places(content):
            lines.setdefault(place, start)
        start = end + 1
    return lines


def _places(content: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield from _places(value, (*place, key))


def _explain(problem: Any, kind: Any, sections: Mapping[str | int, type]) -> Problem:
    location = problem["loc"]
    place = _without_tag(location, sections)
    if problem["type"] == "union_tag_invalid":
        context = problem["ctx"]
        tags = context["expected_tags"].replace("'", "").split(", ")
        hint = nearest(context["tag"], tags, "kinds")
        return Problem((*place, "kind"), f"unknown kind {context['tag']!r}, {hint}")
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        names = re.findall("'([^']*)'", problem["ctx"]["expected"])
        hint = nearest(problem["input"], names, "choices")
        return Problem(place, f"no {problem['input']!r} here, {hint}")
    if problem["type"] == "own":  # Says all by itself.
        return Problem(place, problem["msg"])
    if problem["type"] not in ("extra_forbidden", "unexpected_keyword_argument"):
        wanted = problem["msg"][0].lower() + problem["msg"][1:].replace("tuple", "list")
        got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
        return Problem(place, wanted + got)
    for part in location[:-1]:
        kind = sections.get(part, kind)
    names = [field.name for field in dataclasses.fields(kind)]
    hint = nearest(str(location[-1]), names, "keys")
    return Problem(place, f"unknown key, {hint}")


def _without_tag(location: Place, sections: Mapping[str | int, type]) -> Place:
    """A place in the file: the tag of a union is not a key there."""
    for i, part in enumerate(location):
        if i and part in sections and getattr(sections[part], "kind", None) == part:
            return (*location[:i], *location[i + 1 :])
    return location
