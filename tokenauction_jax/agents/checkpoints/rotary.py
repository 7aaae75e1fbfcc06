"""Rotary position embeddings from the settings of a checkpoint."""

from __future__ import annotations

import math
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
from tokenauction_jax.agents.models.config import Rotary

# Angles are made before it is known whether the weights have such heads.
_LARGEST_HEAD = 2**16


class _Plain(Settings):
    """No scaling; what all kinds have."""

    rope_theta: Base
    partial_rotary_factor: float = pydantic.Field(1.0, gt=0, le=1)

    def rotary(self, frequencies: np.ndarray) -> Rotary:
        return Rotary(tuple(frequencies.tolist()))


class _Linear(_Plain):
    """All positions divided by `factor` (arXiv 2306.15595)."""

    factor: Base

    def rotary(self, frequencies: np.ndarray) -> Rotary:
        return super().rotary(frequencies / self.factor)


class _Llama3(_Plain):
    """Divides slow angles by `factor`, keeps fast ones, and blends those between."""

    factor: Base
    low_freq_factor: float = pydantic.Field(ge=0.01, le=1e6)
    high_freq_factor: float = pydantic.Field(ge=0.01, le=1e6)
    original_max_position_embeddings: Size

    def rotary(self, frequencies: np.ndarray) -> Rotary:
        low, high = self.low_freq_factor, self.high_freq_factor
        if not low < high:
            raise CheckpointError(
                f"low_freq_factor {low} is not below high_freq_factor {high}"
            )
        turns = self.original_max_position_embeddings * frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return super().rotary(frequencies * (kept + (1 - kept) / self.factor))


class _Extended(_Plain):
    """Made for `factor` times the texts of the first training."""

    max_position_embeddings: Size
    original_max_position_embeddings: Size
    factor: Base | None = None
    attention_factor: float | None = pydantic.Field(None, gt=0, le=1e6)

    def stretch(self) -> float:
        """How many times as long texts may be."""
        ratio = self.max_position_embeddings / self.original_max_position_embeddings
        return ratio if self.factor is None else self.factor


class _Yarn(_Extended):
    """YaRN (arXiv 2309.00071): slow angles are divided, scores grow with length."""

    beta_fast: float | None = pydantic.Field(None, ge=0, le=1e6)
    beta_slow: float | None = pydantic.Field(None, ge=0, le=1e6)
    mscale: float | None = pydantic.Field(None, ge=0, le=1e6)
    mscale_all_dim: float | None = pydantic.Field(None, ge=0, le=1e6)
    truncate: bool = True

    def rotary(self, frequencies: np.ndarray) -> Rotary:
        low, high = self._place(self.beta_fast or 32), self._place(self.beta_slow or 1)
        size = 2 * len(frequencies)
        low, high = low * size, high * size
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high += 0.001 * (low == high)
        divided = np.clip((np.arange(len(frequencies)) - low) / (high - low), 0, 1)
        scaled = frequencies * (1 - divided + divided / self.stretch())
        return Rotary(tuple(scaled.tolist()), scale=self._scale())

    def _place(self, turns: float) -> float:
        """Which frequency, as a share, makes so many turns in the first context."""
        wavelength = self.original_max_position_embeddings / (turns * 2 * np.pi)
        return math.log(wavelength) / (2 * math.log(self.rope_theta))

    def _scale(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        stretch = self.stretch()

        def grown(by: float) -> float:
            return 1.0 if stretch <= 1 else 0.1 * by * math.log(stretch) + 1

        if self.mscale and self.mscale_all_dim:
            return grown(self.mscale) / grown(self.mscale_all_dim)
        return grown(1)


class _LongRope(_Extended):
    """LongRoPE (arXiv 2402.13753): other divisors of angles for long texts."""

    short_factor: list[float]
    long_factor: list[float]

    def rotary(self, frequencies: np.ndarray) -> Rotary:
        short, long = (
            self._divided(frequencies, name) for name in ("short_factor", "long_factor")
        )
        original, stretch = self.original_max_position_embeddings, self.stretch()
        scale = self.attention_factor
        if scale is None:
            grows = stretch > 1 and original > 1
            ratio = math.log(stretch) / math.log(original) if grows else 0
            scale = math.sqrt(1 + ratio)
        return Rotary(short, scale, long_frequencies=long, long_beyond=original)

    def _divided(self, frequencies: np.ndarray, name: str) -> tuple[float, ...]:
        divisors = np.array(getattr(self, name))
        if divisors.shape != frequencies.shape or not (divisors >= 1e-3).all():
            raise CheckpointError(
                f"{name} has {divisors.size} numbers: it needs {frequencies.size}, all "
                "positive"
            )
        return tuple((frequencies / divisors).tolist())


_KINDS = {
    "default": _Plain,
    "linear": _Linear,
    "llama3": _Llama3,
    "yarn": _Yarn,
    "longrope": _LongRope,
}


def read_rotary(
    head_dim: int, settings: Mapping[str, Any], name: str = "rope_parameters"
) -> Rotary:
    """Rotary embeddings of angles ``theta^(-2 i / head_dim)`` per position, scaled.

    Args:
      head_dim: The size of a head.
      settings: `rope_type`, which is `"default"`, `"linear"`, `"llama3"`, `"yarn"` or
        `"longrope"`, `rope_theta` and the other numbers, named as in Hugging Face
        configurations; for extended contexts also `max_position_embeddings`.
      name: What to call the settings where a number of them is refused.

    Raises:
      CheckpointError: If the scaling is of another type, or makes no sense.
    """
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise CheckpointError(f"unsupported rotary scaling {kind!r} (known: {known})")
    found = parse(_KINDS[kind], settings, name)
    if head_dim > _LARGEST_HEAD:
        raise CheckpointError(
            f"a head has size {head_dim}: rotary angles need one of up to "
            f"{_LARGEST_HEAD}"
        )
    size = int(head_dim * found.partial_rotary_factor)
    if size % 2 or not size:
        raise CheckpointError(
            f"a head has size {head_dim}, of which {size} are rotated: rotary angles "
            "need an even number"
        )
    return found.rotary(found.rope_theta ** (-np.arange(0, size, 2) / size))
