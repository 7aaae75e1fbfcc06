"""The parts of the benchmarks, a file each.

A part has `FULL` and `QUICK` sizes, `USES`, the packages that it measures with where
they are installed, and `measure(sizes)`, which gives its cases.
"""

import importlib

NAMES = (
    *("step", "scaling", "devices", "study", "second_price", "bidding"),
    *("decode", "house", "lora", "replies"),
)


def describe(name: str) -> str:
    """What a part measures, in a line."""
    module = importlib.import_module(f"{__name__}.{name}")
    return (module.__doc__ or "").partition("\n")[0]
