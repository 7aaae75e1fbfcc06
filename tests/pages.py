"""Runs the code of a page as its reader would, and compares what it prints.

A block of ```python is run in the scope of all before it. If one of ```text follows, it
is what the code prints: the same words, and numbers that agree to 0.2 %. A comment
before a block leaves it out of the default run, ``<!-- slow: REASON -->``, or of all,
``<!-- not run: REASON -->``.

``python tests/pages.py docs/tutorial.md`` writes into a page what its code prints.
"""

import contextlib
import dataclasses
import io
import pathlib
import re
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>slow|not run): [^>]*-->\n+)?"
    r"^```python\n(?P<code>.*?)^```$"
    r"(?:\n+```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True)
class Example:
    """A block of code, what the page says it prints, and where it is."""

    code: str
    output: str | None
    line: int
    span: tuple[int, int] | None
    mark: str | None


def examples(text):
    """All blocks of code of a page."""
    return [
        Example(
            found["code"],
            found["output"],
            text[: found.start("code")].count("\n") + 1,
            found.span("output") if found["output"] is not None else None,
            found["mark"],
        )
        for found in BLOCK.finditer(text)
    ]


def run(path, *, slow=False):
    """Runs a page, and returns its scope and what it printed; asserts what it says."""
    scope, printed = {}, []
    for example in examples(path.read_text()):
        if example.mark == "not run" or (example.mark == "slow" and not slow):
            continue
        printed.append(execute(path, example, scope))
        if example.output is not None:
            assert_agree(f"{path.name}:{example.line}", printed[-1], example.output)
    return scope, "".join(printed)


def execute(path, example, scope):
    """What one block prints."""
    out = io.StringIO()
    # Lines of the page, for the traceback.
    code = compile("\n" * (example.line - 1) + example.code, str(path), "exec")
    with contextlib.redirect_stdout(out), jax.numpy_rank_promotion("allow"):
        exec(code, scope)
    return out.getvalue()


def assert_agree(place, found, expected):
    """The same words, and nearly the same numbers."""
    message = f"{place} prints\n{found}\nand the page says\n{expected}"
    assert words(found) == words(expected), message
    found, expected = (
        np.array([float(number) for number in NUMBER.findall(text)])
        for text in (found, expected)
    )
    close = np.isclose(found, expected, rtol=TOLERANCE, atol=1e-5)
    assert close.all(), message


def words(text):
    """A text without its numbers, and with spaces alike."""
    return NUMBER.sub("#", " ".join(text.split())).replace(" ", "")


def write(path):
    """Writes into a page what its code prints."""
    text, scope, pieces, end = path.read_text(), {}, [], 0
    for example in examples(text):
        if example.mark == "not run":
            continue
        printed = execute(path, example, scope)
        if example.span is not None:
            pieces += [text[end : example.span[0]], printed]
            end = example.span[1]
    path.write_text("".join([*pieces, text[end:]]))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(pathlib.Path(name))
