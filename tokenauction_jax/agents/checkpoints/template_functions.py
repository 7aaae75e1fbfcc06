"""What chat templates may call: filters, functions and methods, each with its price.

They are those that `transformers` gives to templates. Left out is what no chat template
needs and no price is known of: what lays out plain text or HTML (`center`, `pprint`,
`striptags`, `urlize`, `wordwrap`, `xmlattr`, `lipsum`), what keeps a state (`cycler`,
`joiner`) and what is random.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jinja2
from jinja2.filters import FILTERS
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace

from tokenauction_jax.agents.checkpoints.metering import (
    LONGEST_NUMBER,
    STEP,
    metered,
    price,
    spend,
)

_FILTERS = (
    *("abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e"),
    *("escape", "filesizeformat", "first", "float", "forceescape", "groupby", "indent"),
    *("int", "items", "join", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr"),
    *("slice", "sort", "string", "title", "trim", "truncate", "upper", "urlencode"),
    *("wordcount",),
)
# Of texts, lists, dictionaries, numbers and loops. Without `encode` and `translate`,
# which chat templates have no use for, and all that changes its object.
METHODS = (
    *("as_integer_ratio", "bit_count", "bit_length", "capitalize", "casefold"),
    *("center", "changed", "copy", "count", "cycle", "endswith", "expandtabs", "find"),
    *("get", "index", "is_integer", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace"),
    *("istitle", "isupper", "items", "join", "keys", "ljust", "lower", "lstrip"),
    *("partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex"),
    *("rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith"),
    *("strip", "swapcase", "title", "upper", "values", "zfill"),
)
# A conversion of `%`; its width is never an argument.
_CONVERSION = re.compile(
    r"%(?:\([^()]*\))?[-#0 +]*(?P<width>\d*)(?:\.(?P<precision>\d*))?[hlL]?[a-zA-Z%]",
    re.ASCII,
)
_WIDEST, _MOST_DIGITS = 999, 3
_LONGEST_DATE = 256
# So many characters may stand for one in JSON, HTML and `repr`.
_ESCAPED = 12


def filters() -> dict[str, Callable[..., Any]]:
    """All filters of a template by name, metered."""
    own = {
        "format": _format,
        "round": _round,
        "sum": _sum,
        "tojson": _to_json,
        "unique": _unique,
    }
    all_filters = {name: FILTERS[name] for name in _FILTERS} | own
    return {name: metered(name, function) for name, function in all_filters.items()}


def functions() -> dict[str, Callable[..., Any]]:
    """All functions of a template by name; who calls them pays."""
    return {
        "dict": _dict,
        "namespace": _Namespace,
        "raise_exception": _raise_exception,
        "range": safe_range,
        "strftime_now": _strftime_now,
    }


class _Namespace(Namespace):
    """It may hold itself, so it does not print what it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


def pay_for_percent(text: str, values: Any) -> None:
    """Pays in advance for `text % values`.

    Raises:
      TemplateError: If a width is too large, or an argument.
    """
    conversions, place = 0, text.find("%")
    while place >= 0:
        match = _CONVERSION.match(text, place)
        if match is None or any(len(x or "") > _MOST_DIGITS for x in match.groups()):
            raise jinja2.TemplateError("it formats text with % in an unusual way")
        spend(STEP)
        conversions, place = conversions + 1, text.find("%", match.end())
    # Any of them may print all of the values.
    spend(conversions * (_ESCAPED * price(values) + 2 * _WIDEST))


def metered_format(
    environment: SandboxedEnvironment, method: Any
) -> Callable[..., str] | None:
    """`str.format` and `str.format_map` as a template may call them.

    Returns:
      None if `method` is something else.
    """
    text, name = getattr(method, "__self__", None), getattr(method, "__name__", None)
    # Texts marked as safe HTML have methods of their own, which are not given.
    if type(text) is not str or name not in ("format", "format_map"):
        return None

    def formatted(*args: Any, **kwargs: Any) -> str:
        spend(STEP * (text.count("{") + text.count("}")))
        if name == "format_map":
            (kwargs,), args = args, ()
        return _Formatter(environment).vformat(text, args, kwargs)

    return formatted


class _Formatter(SandboxedFormatter):
    """Pays for each value that it formats, and refuses large widths."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        spend(_ESCAPED * price(value))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if any(len(x) > _MOST_DIGITS for x in re.findall(r"\d+", format_spec)):
            raise jinja2.TemplateError(f"it formats text wider than {_WIDEST}")
        return super().format_field(value, format_spec)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = str(value)
    pay_for_percent(text, kwargs or args)
    return FILTERS["format"](text, *args, **kwargs)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(value, int | float) or abs(precision) > LONGEST_NUMBER:
        raise jinja2.TemplateError("it rounds something else than a number")
    return FILTERS["round"](value, precision, method)


@jinja2.pass_environment
def _sum(
    environment: jinja2.Environment,
    iterable: Iterable[Any],
    attribute: str | int | None = None,
    start: float = 0,
) -> float:
    # Adding up lists copies them again and again.
    if not isinstance(start, int | float):
        raise jinja2.TemplateError("it sums something else than numbers")
    return FILTERS["sum"](environment, iterable, attribute, start)


@jinja2.pass_environment
def _unique(
    environment: jinja2.Environment,
    value: Iterable[Any],
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> Iterator[Any]:
    items = _with_hashes(value)
    return FILTERS["unique"](environment, items, case_sensitive, attribute)


def _dict(content: Any = (), /, **entries: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        content = dict(_with_hashes(content))
    return content | entries


def _with_hashes(items: Iterable[Any]) -> list[Any]:
    """Pays for looking items up by their hashes, which may all be the same."""
    items = list(items)
    spend(len(items) * price(items) // STEP)
    return items


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON, unlike that of Jinja's own filter not for HTML."""
    margin = len(indent) if isinstance(indent, str) else max(0, indent or 0)
    between = sum(map(len, separators or ()))
    rest = [(value, 1)]
    while rest:
        item, depth = rest.pop()
        spend(STEP + between + 2 * margin * depth)
        if isinstance(item, str):
            spend(_ESCAPED * len(item))
        elif isinstance(item, dict):
            rest += [(x, depth + 1) for entry in item.items() for x in entry]
        elif isinstance(item, list | tuple):
            rest += [(x, depth + 1) for x in item]
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    # The C library tries buffers of up to 256 times its length.
    if len(pattern) > _LONGEST_DATE:
        raise jinja2.TemplateError("it writes a date in too many characters")
    return datetime.datetime.now().strftime(pattern)
