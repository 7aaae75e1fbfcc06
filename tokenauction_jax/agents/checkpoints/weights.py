"""What all checkpoint formats share: naming parameters and filling a decoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.models.decoder import Decoder, DecoderConfig


class Tensor(NamedTuple):
    """A tensor of a checkpoint, read when it is needed.

    Attributes:
      name: Its name in the file.
      shape: Its shape.
      read: Returns its values, of any float dtype.
    """

    name: str
    shape: tuple[int, ...]
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
        pattern = rf"{re.escape(self.layer)}(0|[1-9]\d{{,8}})\.(.+)\.(weight|bias)"
        match = re.fullmatch(pattern, name, re.ASCII)
        if match is None or match[2] not in self.modules:
            return None
        return f"layers.{match[1]}.{self.modules[match[2]]}.{match[3]}"


def named_tensors(
    naming: Naming,
    names: Sequence[str],
    find: Callable[[str], Tensor],
    convert: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the decoder's names.

    Args:
      naming: The names of the format.
      names: The names of the tensors in the file.
      find: Finds one of them, without reading it.
      convert: Given the decoder's name of a parameter and the tensor in the file, the
        tensor in the decoder's layout.

    Returns:
      One entry per parameter; a tensor that has no place keeps its own name.
    """
    tensors = {}
    for name in names:
        parameter = naming.parameter(name)
        if parameter is not None:
            tensors |= _parts(parameter, convert(parameter, find(name)))
        elif not re.fullmatch(naming.ignored, name):
            tensors[name] = find(name)
    return tensors


def _parts(parameter: str, tensor: Tensor) -> dict[str, Tensor]:
    """The parameters that a tensor holds: three for a fused projection."""
    head, fused, tail = parameter.rpartition(".qkv.")
    if not fused:
        return {parameter: tensor}
    if not tensor.shape or tensor.shape[0] % 3:
        raise CheckpointError(f"tensor {tensor.name} is {tensor.shape}: not three maps")
    shape = (tensor.shape[0] // 3, *tensor.shape[1:])
    return {
        f"{head}.{part}.{tail}": Tensor(
            tensor.name, shape, lambda place=place: np.split(tensor.read(), 3)[place]
        )
        for place, part in enumerate(("query", "key", "value"))
    }


def fill_decoder(
    config: DecoderConfig, tensors: Mapping[str, Tensor], dtype: DTypeLike
) -> Decoder:
    """A decoder with the parameters of a checkpoint.

    Nothing is built or read before all names and shapes agree: a configuration may ask
    for any size.

    Args:
      config: The decoder's shape.
      tensors: The tensors by the decoder's names, as `named_tensors` returns them.
      dtype: The type of the parameters.

    Raises:
      CheckpointError: If the model has no place for a tensor, there is no tensor for a
        parameter, or a tensor has the wrong shape.
    """
    _check_heads(config)
    _check_tensors(config, tensors)
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, state = nnx.split(abstract)
    filled = [
        # A copy: the file may be mapped into memory.
        (path, leaf.replace(jnp.array(tensors[_name(path)].read(), dtype)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _check_heads(config: DecoderConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{config.num_heads} attention heads cannot share {config.num_kv_heads} "
            "key and value heads: the configuration is damaged"
        )


def _check_tensors(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compares what the configuration asks for with what there is."""
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"the configuration asks for {config.num_layers} layers, but the files "
            f"hold {len(tensors)} tensors: they do not belong together"
        )
    wanted = _shapes(config)
    unused = [tensor.name for name, tensor in tensors.items() if name not in wanted]
    unfilled = [name for name in wanted if name not in tensors]
    if unused or unfilled:
        parts = [_listing("tensors without a place", unused)] * bool(unused)
        parts += [_listing("parameters without a tensor", unfilled)] * bool(unfilled)
        reason = "the model is not supported, or its files do not belong together"
        raise CheckpointError(f"{'; '.join(parts)}: {reason}")
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"tensor {tensor.name} is {tensor.shape}, but the configuration asks "
                f"for {shape}: they belong to different checkpoints"
            )


def _shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, from a decoder of one layer."""
    single = dataclasses.replace(config, num_layers=1)
    abstract = nnx.eval_shape(lambda: Decoder(single, rngs=nnx.Rngs(0)))
    shapes = {}
    for path, leaf in nnx.to_flat_state(nnx.split(abstract)[1]):
        first, *rest = map(str, path)
        numbers = range(config.num_layers if first == "layers" else 1)
        for number in numbers:
            place = [first, str(number), *rest[1:]] if first == "layers" else path
            shapes[_name(place)] = leaf.shape
    return shapes


def _name(path: Sequence[object]) -> str:
    return ".".join(map(str, path))


def _listing(what: str, names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return f"{len(names)} {what} ({shown}{', ...' if len(names) > 3 else ''})"
