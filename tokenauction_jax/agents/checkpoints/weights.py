"""What all checkpoint formats share: naming parameters and filling a decoder."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.models.config import DecoderConfig
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.environment import memory_of


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
    """The names and layouts that a format gives to the decoder's parameters.

    Attributes:
      layer: What precedes the number of a layer, such as `"model.layers."`.
      modules: The decoder's names of the modules of a layer, by those of the format:
        several for one that holds them below one another.
      others: The decoder's names of parameters outside the layers, by full names.
      ignored: A pattern of tensors that are not parameters, such as attention masks.
      by_head: Whether such modules hold their parts anew for each head.
      transposed: Whether the matrices of layers are `(inputs, outputs)`.
      optional: What may precede all names.
    """

    layer: str
    modules: Mapping[str, str | tuple[str, ...]]
    others: Mapping[str, str]
    ignored: str = r"(?!)"
    by_head: bool = False
    transposed: bool = False
    optional: str = ""

    def parameters(self, name: str) -> list[str]:
        """The decoder's names of what a tensor holds, none if it has no place."""
        name = name.removeprefix(self.optional)
        if name in self.others:
            return [self.others[name]]
        pattern = rf"{re.escape(self.layer)}(0|[1-9]\d{{,8}})\.(.+)\.(weight|bias)"
        match = re.fullmatch(pattern, name, re.ASCII)
        if match is None or match[2] not in self.modules:
            return []
        modules = _several(self.modules[match[2]])
        return [f"layers.{match[1]}.{module}.{match[3]}" for module in modules]

    def tensor(self, parameter: str) -> tuple[str, int]:
        """The tensor that holds a parameter, and its place there.

        Raises:
          CheckpointError: If the format has none.
        """
        for theirs, ours in self.others.items():
            if ours == parameter:
                return self.optional + theirs, 0
        if parameter.startswith("layers."):
            _, layer, rest = parameter.split(".", 2)
            module, _, kind = rest.rpartition(".")
            for theirs, ours in self.modules.items():
                if module in _several(ours):
                    name = f"{self.optional}{self.layer}{layer}.{theirs}.{kind}"
                    return name, _several(ours).index(module)
        raise CheckpointError(
            f"this family of checkpoints has no place for {parameter}"
        )


def _several(modules: str | tuple[str, ...]) -> tuple[str, ...]:
    return (modules,) if isinstance(modules, str) else modules


def named_tensors(
    naming: Naming,
    config: DecoderConfig,
    names: Sequence[str],
    find: Callable[[str], Tensor],
    convert: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the decoder's names.

    Args:
      naming: The names of the format.
      config: The decoder's shape.
      names: The names of the tensors in the file.
      find: Finds one of them, without reading it.
      convert: Given the decoder's name of a parameter and a tensor, the tensor in the
        decoder's layout.

    Returns:
      One entry per parameter; a tensor that has no place keeps its own name.

    Raises:
      CheckpointError: If a tensor of several parameters is not as large as they are.
    """
    shapes, tensors = _shapes(config), {}
    for name in names:
        parameters = naming.parameters(name)
        if not parameters:
            if not re.fullmatch(naming.ignored, name):
                tensors[name] = find(name)
            continue
        tensor = find(name)
        if naming.transposed and parameters[0].startswith("layers."):
            tensor = _changed(tensor, np.transpose)
        # Of parameters that the model does not have there is nothing to split.
        known = all(parameter in shapes for parameter in parameters)
        if len(parameters) > 1 and known:
            sizes = [shapes[parameter][0] for parameter in parameters]
            parts = _split(tensor, sizes, config.layers[0].num_heads * naming.by_head)
        else:
            parts = [tensor] * len(parameters)
        for parameter, part in zip(parameters, parts, strict=True):
            tensors[parameter] = convert(parameter, part)
    return tensors


def _changed(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """A tensor in another layout, whose shape is found without reading it."""
    shape = change(np.broadcast_to(np.float32(0), tensor.shape)).shape
    return Tensor(tensor.name, shape, lambda: change(tensor.read()))


def _split(tensor: Tensor, sizes: Sequence[int], heads: int) -> list[Tensor]:
    """The parts of a tensor, of so many rows; of each head's rows if there are any."""
    if not tensor.shape or tensor.shape[0] != sum(sizes):
        raise CheckpointError(
            f"tensor {tensor.name} is {tensor.shape}, but the configuration asks for "
            f"{sum(sizes)} rows: they belong to different checkpoints"
        )

    def part(place: int) -> Callable[[np.ndarray], np.ndarray]:
        def take(array: np.ndarray) -> np.ndarray:
            if heads:
                # All heads' shares of the first part, then of the second, ...
                rest = array.shape[1:]
                array = array.reshape(heads, -1, *rest)
                each = [size // heads for size in sizes]
                found = np.split(array, np.cumsum(each)[:-1], axis=1)[place]
                return found.reshape(-1, *rest)
            return np.split(array, np.cumsum(sizes)[:-1])[place]

        return take

    return [_changed(tensor, part(place)) for place in range(len(sizes))]


def joined(
    naming: Naming, config: DecoderConfig, parameters: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by its own names: `named_tensors` backwards.

    Args:
      naming: The names of the format.
      config: The decoder's shape.
      parameters: All parameters by the decoder's names.

    Raises:
      CheckpointError: If the format has no place for one.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    for parameter, array in parameters.items():
        name, place = naming.tensor(parameter)
        in_layer = parameter.startswith("layers.")
        turned = array.T if naming.transposed and in_layer else array
        found.setdefault(name, {})[place] = turned
    return {
        name: _joined([parts[place] for place in sorted(parts)], naming, config)
        for name, parts in found.items()
    }


def _joined(
    parts: list[np.ndarray], naming: Naming, config: DecoderConfig
) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    if naming.by_head:
        heads = config.layers[0].num_heads
        apart = [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
        return np.concatenate(apart, axis=1).reshape(-1, *parts[0].shape[1:])
    return np.concatenate(parts, axis=-1 if naming.transposed else 0)


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
        parameter, a tensor has the wrong shape, or all do not fit into the memory.
    """
    _check_heads(config)
    _check_tensors(config, tensors)
    _check_memory(tensors, dtype)
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, state = nnx.split(abstract)
    filled = [
        # A copy: the file may be mapped into memory.
        (path, leaf.replace(jnp.array(tensors[_name(path)].read(), dtype)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _check_heads(config: DecoderConfig) -> None:
    for layer in config.layers:
        if layer.num_heads % layer.num_kv_heads:
            raise CheckpointError(
                f"{layer.num_heads} attention heads cannot share {layer.num_kv_heads} "
                "key and value heads: the configuration is damaged"
            )


def _check_memory(tensors: Mapping[str, Tensor], dtype: DTypeLike) -> None:
    size = sum(math.prod(tensor.shape) for tensor in tensors.values())
    size *= jnp.dtype(dtype).itemsize
    (device,) = jnp.zeros(()).devices()  # Where weights will be, too.
    memory = memory_of(device)
    if memory is not None and size > memory:
        raise CheckpointError(
            f"the weights take {size / 2**30:.3g} GiB as {jnp.dtype(dtype)}, the "
            f"device has {memory / 2**30:.3g} GiB: load them as bfloat16, or a smaller "
            "model; or load them within jax.default_device of the CPU, and share them "
            "out by agents.shard_weights"
        )


def _check_tensors(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compares what the configuration asks for with what there is."""
    if len(config.layers) > len(tensors):
        raise CheckpointError(
            f"the configuration asks for {len(config.layers)} layers, but the files "
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


@functools.lru_cache(maxsize=8)
def _shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, from a decoder with one layer of each kind."""
    kinds = {layer: place for place, layer in enumerate(dict.fromkeys(config.layers))}
    few = dataclasses.replace(config, layers=tuple(kinds))
    abstract = nnx.eval_shape(lambda: Decoder(few, rngs=nnx.Rngs(0)))
    shapes, layers = {}, [{} for _ in kinds]
    for path, leaf in nnx.to_flat_state(nnx.split(abstract)[1]):
        first, *rest = map(str, path)
        if first == "layers":
            layers[int(rest[0])][_name(rest[1:])] = leaf.shape
        else:
            shapes[_name(path)] = leaf.shape
    for number, layer in enumerate(config.layers):
        for name, shape in layers[kinds[layer]].items():
            shapes[f"layers.{number}.{name}"] = shape
    return shapes


def _name(path: Sequence[object]) -> str:
    return ".".join(map(str, path))


def _listing(what: str, names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return f"{len(names)} {what} ({shown}{', ...' if len(names) > 3 else ''})"
