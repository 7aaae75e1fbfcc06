"""What all checkpoint formats share: naming parameters and filling a decoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tokenauction_jax.agents.models.decoder import Decoder, DecoderConfig
from tokenauction_jax.outside import OutsideError


class CheckpointError(OutsideError):
    """A checkpoint that is missing, damaged, not supported or cannot be written."""


class Tensor(NamedTuple):
    """A tensor of a checkpoint, read when it is needed.

    Attributes:
      name: Its name in the file.
      read: Returns its values, of any float dtype.
    """

    name: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names that a checkpoint format gives to the decoder's parameters.

    Attributes:
      layer: What precedes the number of a layer, such as `"model.layers."`.
      modules: The decoder's names of the modules of a layer, by those of the format. A
        module that ends in `qkv` holds query, key and value one after the other.
      others: The decoder's names of parameters outside the layers, by full names.
      ignored: A pattern of tensors that are not parameters, such as attention masks.
    """

    layer: str
    modules: Mapping[str, str]
    others: Mapping[str, str]
    ignored: str = r"(?!)"

    def parameter(self, name: str) -> str | None:
        """The decoder's name of a tensor, None if it has none."""
        if name in self.others:
            return self.others[name]
        pattern = rf"{re.escape(self.layer)}(\d+)\.(.+)\.(weight|bias)"
        match = re.fullmatch(pattern, name)
        if match is None or match[2] not in self.modules:
            return None
        return f"layers.{match[1]}.{self.modules[match[2]]}.{match[3]}"


def named_tensors(
    naming: Naming,
    names: Sequence[str],
    read: Callable[[str], np.ndarray],
    convert: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the decoder's names.

    Args:
      naming: The names of the format.
      names: The names of the tensors in the file.
      read: Reads one of them.
      convert: Given the decoder's name of a parameter and the values in the file, the
        values in the decoder's layout.

    Returns:
      One entry per parameter; a tensor that has no place keeps its own name.
    """
    tensors = {}
    for name in names:
        parameter = naming.parameter(name)
        if parameter is None:
            if not re.fullmatch(naming.ignored, name):
                tensors[name] = Tensor(name, lambda name=name: read(name))
            continue
        for index, part in enumerate(_parts(parameter)):
            tensors[part] = Tensor(
                name, _reader(read, convert, name, parameter, part != parameter, index)
            )
    return tensors


def _parts(parameter: str) -> list[str]:
    """The parameters that a tensor holds: three for a fused projection."""
    head, fused, tail = parameter.rpartition(".qkv.")
    if not fused:
        return [parameter]
    return [f"{head}.{part}.{tail}" for part in ("query", "key", "value")]


def _reader(
    read: Callable[[str], np.ndarray],
    convert: Callable[[str, np.ndarray], np.ndarray],
    name: str,
    parameter: str,
    fused: bool,
    index: int,
) -> Callable[[], np.ndarray]:
    def values() -> np.ndarray:
        array = convert(parameter, read(name))
        return np.split(array, 3)[index] if fused else array

    return values


def fill_decoder(
    config: DecoderConfig, tensors: Mapping[str, Tensor], dtype: DTypeLike
) -> Decoder:
    """A decoder with the parameters of a checkpoint.

    Args:
      config: The decoder's shape.
      tensors: The tensors by the decoder's names, as `named_tensors` returns them.
      dtype: The type of the parameters.

    Raises:
      CheckpointError: If the model has no place for a tensor, there is no tensor for a
        parameter, or a tensor has the wrong shape.
    """
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, state = nnx.split(abstract)
    wanted = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    unused = [tensor.name for name, tensor in tensors.items() if name not in wanted]
    unfilled = [name for name in wanted if name not in tensors]
    if unused or unfilled:
        parts = [_listing("tensors without a place", unused)] * bool(unused)
        parts += [_listing("parameters without a tensor", unfilled)] * bool(unfilled)
        reason = "the model is not supported, or its files do not belong together"
        raise CheckpointError(f"{'; '.join(parts)}: {reason}")
    filled = [
        (path, leaf.replace(_parameter(tensors[".".join(map(str, path))], leaf, dtype)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _parameter(tensor: Tensor, wanted: nnx.Variable, dtype: DTypeLike) -> jax.Array:
    array = tensor.read()
    if array.shape != wanted.shape:
        raise CheckpointError(
            f"tensor {tensor.name} is {array.shape}, but the configuration asks for "
            f"{wanted.shape}: they belong to different checkpoints"
        )
    return jnp.array(array, dtype)  # A copy: the file may be mapped into memory.


def _listing(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"


def rotary_frequencies(
    theta: float, head_dim: int, scaling: Mapping[str, Any] | None = None
) -> tuple[float, ...]:
    """The rotary angles per position, ``theta^(-2 i / head_dim)``, scaled.

    Args:
      theta: The base.
      head_dim: Twice the number of angles.
      scaling: `rope_type`, which is `"default"`, `"linear"` or `"llama3"`, and its
        numbers, named as in Hugging Face configurations.

    Raises:
      CheckpointError: If the scaling is of another type.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        frequencies = frequencies / scaling["factor"]
    elif kind == "llama3":
        frequencies = _llama3_frequencies(frequencies, scaling)
    elif kind != "default":
        known = "default, linear, llama3"
        raise CheckpointError(f"unsupported rotary scaling {kind!r} (known: {known})")
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError("unsupported partial_rotary_factor: it must be 1")
    return tuple(frequencies.tolist())


def _llama3_frequencies(
    frequencies: np.ndarray, scaling: Mapping[str, Any]
) -> np.ndarray:
    """Divides slow angles by `factor`, keeps fast ones, and blends those between."""
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling["factor"])
