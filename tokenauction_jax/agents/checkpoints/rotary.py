"""Rotary angles from the settings of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic

from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Settings,
    Size,
    parse,
)

# Angles are made before it is known whether the weights have such heads.
_LARGEST_HEAD = 2**16


class _Plain(Settings):
    """No scaling; what all kinds have."""

    rope_theta: Base | None = None
    partial_rotary_factor: float = pydantic.Field(1.0, ge=1, le=1)

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        return frequencies


class _Linear(_Plain):
    factor: Base

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        return frequencies / self.factor


class _Llama3(_Linear):
    """Divides slow angles by `factor`, keeps fast ones, and blends those between."""

    low_freq_factor: float = pydantic.Field(ge=0.01, le=1e6)
    high_freq_factor: float = pydantic.Field(ge=0.01, le=1e6)
    original_max_position_embeddings: Size

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        low, high = self.low_freq_factor, self.high_freq_factor
        if not low < high:
            raise CheckpointError(
                f"low_freq_factor {low} is not below high_freq_factor {high}"
            )
        turns = self.original_max_position_embeddings * frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


_KINDS = {"default": _Plain, "linear": _Linear, "llama3": _Llama3}


def rotary_frequencies(
    theta: float,
    head_dim: int,
    scaling: Mapping[str, Any] | None = None,
    name: str = "rotary scaling",
) -> tuple[float, ...]:
    """The rotary angles per position, ``theta^(-2 i / head_dim)``, scaled.

    Args:
      theta: The base, unless `scaling` has its own.
      head_dim: Twice the number of angles.
      scaling: `rope_type`, which is `"default"`, `"linear"` or `"llama3"`, and its
        numbers, named as in Hugging Face configurations.
      name: What to call the scaling where a number of it is refused.

    Raises:
      CheckpointError: If the scaling is of another type, or makes no sense.
    """
    if head_dim % 2 or head_dim > _LARGEST_HEAD:
        raise CheckpointError(
            f"a head has size {head_dim}: rotary angles need an even one of up to "
            f"{_LARGEST_HEAD}"
        )
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise CheckpointError(f"unsupported rotary scaling {kind!r} (known: {known})")
    settings = parse(_KINDS[kind], scaling, name)
    base = theta if settings.rope_theta is None else settings.rope_theta
    frequencies = base ** (-np.arange(0, head_dim, 2) / head_dim)
    return tuple(settings.scaled(frequencies).tolist())
