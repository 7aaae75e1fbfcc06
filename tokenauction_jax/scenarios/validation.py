"""TOML files into frozen dataclasses, with the mistakes, their lines and near names."""

import contextlib
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
from tokenauction_jax.outside import listed, quoted, shortened
from tokenauction_jax.scenarios.numbers import LIST, NUMBER

# Tells where a value of a document stands: ``("agents", 0, "name")``.
Place = tuple[str | int, ...]


# More tables in tables than any file here needs; Python gives up at a few hundred.
_DEEPEST = 32
# So much of a file, statement by statement, is parsed to find its lines: a second.
_MOST_PARSED = 2**21
# Of all that is told of a file; its name comes before it.
_MOST_TOLD = 390


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
    text = files.read(path).decode("utf-8-sig")
    try:
        return tomllib.loads(text), _lines(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def oddities(content: Any) -> Iterator[Problem]:
    """What no document may hold, whatever its keys: found before it is looked at."""
    waiting: list[tuple[Place, Any]] = [((), content)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, int) and value.bit_length() > 64:
            yield Problem(place, f"too large a number, got {quoted(value)}")
        if not isinstance(value, dict | list | tuple):
            continue
        if len(place) >= _DEEPEST:
            yield Problem(place[:2], f"nested more than {_DEEPEST} deep")
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        waiting += [((*place, key), inside) for key, inside in items]


def validate(
    kind: Any, content: Any, sections: Mapping[str | int, type]
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
    return f"did you mean {near[0]!r}?" if near else f"{what} are {listed(names, 12)}"


def describe(problems: Iterable[Problem], lines: Mapping[Place, int]) -> str:
    """The problems in the order of their lines, ``line 3: agents[0].promt: ...``.

    As many as a message has room for, and how many more there are.
    """
    found = [(_line(p.place, lines), p) for p in dict.fromkeys(problems)]
    found.sort(key=lambda entry: entry[0] or 0)
    told = ""
    for i, (line, p) in enumerate(found):
        one = (f"line {line}: " if line else "") + show(p.place) + p.message
        one = shortened(one, _MOST_TOLD)
        if i and len(told) + len(one) > _MOST_TOLD:
            return f"{told}; and {len(found) - i:,} more"
        told += f"; {one}" if i else one
    return told


def show(place: Place) -> str:
    """``agents[0].name: ``, empty for the document itself."""
    shown = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in place)
    return f"{shortened(shown.removeprefix('.'), 100)}: " if shown else ""


def _line(place: Place, lines: Mapping[Place, int]) -> int | None:
    """The line of a value, or of the section that misses it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _lines(text: str) -> dict[Place, int]:
    """The line each value begins on.

    Statements are parsed one by one, so the parser itself says what they set.
    """
    lines: dict[Place, int] = {}
    table: Place = ()
    last: dict[Place, int] = {}  # Of each array of tables, the index of the last one.
    for start, statement, content in _statements(text):
        is_header = statement.lstrip().startswith("[")
        if is_header:
            table = _table(content, last)
        for place in (table[: i + 1] for i in range(len(table))):
            lines.setdefault(place, start)
        for place in () if is_header else _places(content):
            lines.setdefault((*table, *place), start)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The line of each statement, its text and what it says."""
    rows, start, parsed = text.split("\n"), 0, 0
    for end, row in enumerate(rows, 1):
        if end - start > _DEEPEST and row.rstrip().endswith((",", "[")):
            continue  # A long list goes on.
        statement = "\n".join(rows[start:end])
        parsed += len(statement)
        if parsed > _MOST_PARSED:
            return
        with contextlib.suppress(tomllib.TOMLDecodeError):
            yield start + 1, statement, tomllib.loads(statement)
            start = end


def _table(content: Any, last: dict[Place, int]) -> Place:
    """Where the values after the header of a table stand."""
    place: Place = ()
    while content:
        ((key, content),) = content.items()
        place = (*place, key)
        if isinstance(content, list):
            last[place] = last.get(place, -1) + 1
            content = content[0]
        if place in last:
            place = (*place, last[place])
    return place


def _places(content: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    if len(place) > _DEEPEST:
        return
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
        tag = quoted(context["tag"])
        return Problem((*place, "kind"), f"unknown kind {tag}, {hint}")
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        names = re.findall("'([^']*)'", problem["ctx"]["expected"])
        hint = nearest(problem["input"], names, "choices")
        return Problem(place, f"no {quoted(problem['input'])} here, {hint}")
    if problem["type"] == "own":  # Says all by itself.
        return Problem(place, problem["msg"])
    if problem["type"] not in ("extra_forbidden", "unexpected_keyword_argument"):
        return Problem(place, _wording(problem))
    for part in location[:-1]:
        kind = sections.get(part, kind)
    names = [field.name for field in dataclasses.fields(kind)]
    hint = nearest(str(location[-1]), names, "keys")
    return Problem(place, f"unknown key, {hint}")


def _wording(problem: Any) -> str:
    """What was expected, and what there is instead."""
    wanted = problem["msg"][0].lower() + problem["msg"][1:].replace("tuple", "list")
    for bound in problem.get("ctx", {}).values():
        if isinstance(bound, float):  # Pydantic writes all thirty zeros.
            wanted = wanted.replace(f"{bound:.0f}", f"{bound:g}")
    if problem["type"] == "missing":
        return wanted
    return f"{wanted}, got {quoted(problem['input'])}"


def _without_tag(location: Place, sections: Mapping[str | int, type]) -> Place:
    """A place in the file: the tag of a union is not a key there."""
    location = tuple(part for part in location if part not in (NUMBER, LIST))
    for i, part in enumerate(location):
        if i and part in sections and getattr(sections[part], "kind", None) == part:
            return (*location[:i], *location[i + 1 :])
    return location
