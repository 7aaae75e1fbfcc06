"""What comes from outside: its text where it is shown or kept, and its errors.

Names, prompts, files and what language models write are data. On a terminal, in an
error, a report or a spreadsheet they are shown; none of their characters acts.
"""

import re
import reprlib
import unicodedata
from typing import Any

# With the name of the program before it a message stays below 500 characters.
_LONGEST_MESSAGE = 480
_LONGEST_VALUE = 60
# Of formats only those between letters, which many scripts and emojis are written with.
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
# What spreadsheets compute, also with the wide characters of East Asian keyboards.
_FORMULA = re.compile("\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20]")


def visible(text: str, keep: str = "") -> str:
    r"""Text whose control characters are shown as escapes, so that none acts.

    These are those that Python's `repr` escapes: the controls of ASCII and C1, with
    which escape sequences begin, those of writing direction, other separators than
    spaces, and lone surrogates, which no file can hold.

    Args:
      text: Any.
      keep: Characters to leave as they are, such as a newline.

    >>> visible("a\x1b[2Jb\n", keep="\n"), visible("caf\xe9\u202e")
    ('a\\x1b[2Jb\n', 'café\\u202e')
    """
    if text.isprintable():
        return text
    return "".join(c if _is_harmless(c) or c in keep else _escape(c) for c in text)


def _is_harmless(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, length: int) -> str:
    """At most `length` characters of a text: what is left out is in the middle.

    >>> shortened("abcdefghij", 5)
    'ab…ij'
    """
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return text[: length - 1 - end] + "…" + text[len(text) - end :]


def quoted(value: Any) -> str:
    """A value as Python writes it, shortened: lists at their ends, texts inside."""
    try:
        return shortened(_BRIEF.repr(value), _LONGEST_VALUE)
    except ValueError:  # Of a number with thousands of digits.
        return f"a number of {value.bit_length()} bits"


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = _LONGEST_VALUE
_BRIEF.maxlevel = 3


def listed(names: Any, most: int = 8) -> str:
    """Names in one line, shortened, of which there may be many."""
    names = [shortened(str(name), _LONGEST_VALUE) for name in names]
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def one_line(message: str) -> str:
    """A message in one line of less than 500 characters, all of them visible."""
    return shortened(visible(" ".join(message.split())), _LONGEST_MESSAGE)


class OutsideError(ValueError):
    """Input that cannot be used, with what to change in one line."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def csv(frame: Any) -> str:
    """A data frame as CSV that a spreadsheet shows and does not compute.

    A cell of text that begins like a formula gets an apostrophe before it, as
    spreadsheets write such text themselves, unless it is a number.
    """
    texts = [name for name in frame if frame[name].dtype.kind not in "biuf"]
    guarded = {name: frame[name].map(_cell) for name in texts}
    frame = frame.assign(**guarded).rename(columns=_cell)
    return frame.to_csv(index=False, lineterminator="\n")


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if _FORMULA.match(shown) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
