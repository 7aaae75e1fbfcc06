"""What nobody meant to write in a file, in the place of each of its values."""

import math

NUMBERS = (
    *(0, -1, 1, 2**31, 2**32, 2**63, 2**70, 10**400, 16**5000),
    *(0.0, -0.0, 5e-324, 1e-300, 1e-46, 1e-30, 1e-9, 0.5, -0.5, 1e7, 1e30, 1e39),
    *(1e300, 1e308, math.inf, -math.inf, math.nan),
)
TEXTS = (
    *("", " ", "\0", "a\0b", "\ud800", "\x1b[2J", "[/b]", "\u202e", "1.5", "nan"),
    *(
        "x" * 5000,
        "~nosuchuser/x",
        "~nosuchuser/x.py:y",
        "../..",
        ":",
        "a.py:b",
        ".py:",
        "linear(",
        "power_mean",
    ),
    *("power_mean(1e308)", "power_mean(nan)", "myerson(", "myerson(x.py:y)", "{", "%s"),
)


def nested(depth, kind=list):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


STRANGE = (
    *(None, True, False),
    *([], {}, [[]], [{}], {"a": 1}, [1, "a"], [[1], [1, 2]], [1.0] * 200, ["a", "b"]),
    *({"kind": "x"}, {"kind": 1}, {"kind": []}, {"kind": "fixed"}, {"": 1}),
    *(nested(10), nested(60), nested(10, dict), nested(60, dict), nested(5000)),
)
VALUES = (*NUMBERS, *TEXTS, *STRANGE)


def places(content, place=()):
    """Where the values of a document stand, sections included."""
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
        yield from places(value, (*place, key))


def with_value(content, place, value):
    """The document with another value in one place."""
    if not place:
        return value
    key, *rest = place
    copied = list(content) if isinstance(content, list) else dict(content)
    copied[key] = with_value(copied[key], rest, value)
    return copied


def without(content, place):
    """The document without one of its values."""
    key, *rest = place
    copied = list(content) if isinstance(content, list) else dict(content)
    if rest:
        copied[key] = without(copied[key], rest)
    else:
        del copied[key]
    return copied
