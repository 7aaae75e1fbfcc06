"""Levels of factors: what they set, and what tables call them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenauction_jax import records
from tokenauction_jax.scenarios import names, objects, settings


class Level(tuple[str, Any]):
    """A level of a factor with the label that tables show, for studies in Python."""

    __slots__ = ()

    def __new__(cls, label: str, value: Any) -> "Level":
        """Of a label and what the factor's key is set to."""
        return super().__new__(cls, (label, value))


def with_levels(base: dict[str, Any], levels: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's content with some of its keys set; tables only set their own keys."""
    content = _copied(base)
    for key, level in levels.items():
        *sections, name = key.split(".")
        inside = content
        for section in sections:
            inside = inside[section]
        value = plain(level[1] if isinstance(level, Level) else level)
        if not isinstance(value, dict):
            inside[name] = value
        elif not isinstance(inside[name], dict) or _is_whole(value, inside[name]):
            inside[name] = dict(value)
        else:
            inside[name] = inside[name] | value
    return content


def _is_whole(section: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether a level of a section replaces it, and keeps none of its other keys.

    A kind has its own keys, and the numbers of a built-in rule are not an object's.
    """
    rule = section.get("aggregation", "")
    if "kind" in section or "mechanism" in section or "mechanism" in base:
        return True
    return not isinstance(rule, str) or objects.is_reference(rule)


def section_level(key: str, level: Any) -> Any:
    """A level as it is validated: a section for an object or a short form of one."""
    if isinstance(level, Level):
        return Level(level[0], section_level(key, level[1]))
    return settings.section(key, level)


def label(level: Any) -> str:
    """A level as tables show it: the words of a section, and its numbers by name."""
    if isinstance(level, Level):
        return level[0]
    if hasattr(level, "__pydantic_config__"):
        level = plain(level)
    if isinstance(level, dict):
        # An object speaks for itself.
        hidden = ("kind",) if level.get("kind") in ("given", "pool") else ()
        shown = [_part(key, x) for key, x in level.items() if key not in hidden]
        return ", ".join(shown)
    if isinstance(level, list | tuple):
        return "[" + ", ".join(map(label, level)) + "]"
    if isinstance(level, float):
        return f"{level:g}"
    if isinstance(level, str | int | None):
        return short_name(str(level))
    if isinstance(level, np.ndarray):
        return f"array of shape {level.shape}"
    name = getattr(level, "__name__", None)
    return name if isinstance(name, str) else records.describe(level)


def _part(key: str, value: Any) -> str:
    """One key of a section: words and objects speak for themselves."""
    if isinstance(value, str):
        return short_name(value)
    plain_number = isinstance(value, bool | int | float | list | tuple | dict | None)
    return f"{key}={label(value)}" if plain_number else label(value)


def short_name(text: str) -> str:
    """A name whose ``FILE.py:NAME`` is without the folders of the file."""
    for reference in names.references(text) if ".py:" in text else ():
        text = text.replace(reference, pathlib.Path(reference).name)
    return text


def plain(content: Any) -> Any:
    """Sections and tuples as dictionaries and lists; objects stay as they are."""
    if hasattr(content, "__pydantic_config__") and not isinstance(content, type):
        fields = dataclasses.fields(content)
        return {field.name: plain(getattr(content, field.name)) for field in fields}
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, Level):
        return content
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return content


def _copied(content: Any) -> Any:
    """The dictionaries inside are copies, so that setting a key changes no other."""
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    return content
