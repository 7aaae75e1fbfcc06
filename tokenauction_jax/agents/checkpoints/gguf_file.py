"""The container that GGUF files are: metadata, and where their tensors lie.

The reader of the package `gguf` makes room for whatever length a file states, and takes
seconds for a large vocabulary; this one compares every length with the file first.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize, quant_shape_to_byte_shape

from tokenauction_jax.agents.checkpoints.reading import CheckpointError, check_files
from tokenauction_jax.agents.checkpoints.weights import Tensor
from tokenauction_jax.outside import listed

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}
# A vocabulary of 256,000 tokens takes 10 MB; tensors have up to 4 dimensions.
_LONGEST_HEADER, _MOST_ITEMS, _MOST_ENTRIES, _MOST_DIMENSIONS = 2**26, 2**22, 2**16, 4


class GGUF(NamedTuple):
    """What a file holds.

    Attributes:
      metadata: Numbers, strings and lists of them by key.
      tensors: The tensors, which are read and dequantised when needed, by name.
    """

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: Path) -> GGUF:
    """The contents of a GGUF file, with those of the others if it is one of several.

    Raises:
      CheckpointError: If one is missing, damaged or of a version that is not supported.
    """
    file = _open(path)
    count = file.metadata.get("split.count", 1)
    if count == 1:
        return file
    paths = _parts(path, count)
    parts = [file if part == path else _open(part) for part in paths]
    for number, (part, name) in enumerate(zip(parts, paths, strict=True)):
        stated = [part.metadata.get(f"split.{key}") for key in ("no", "count")]
        if stated != [number, count]:
            raise CheckpointError(
                f"{name.name} says that it is part {stated[0]} of {stated[1]}, counted "
                f"from 0: the files do not belong together"
            )
    tensors = [item for part in parts for item in part.tensors.items()]
    total = parts[0].metadata.get("split.tensors.count", len(tensors))
    if len(dict(tensors)) != total or len(tensors) != total:
        raise CheckpointError(
            f"{path.name} and the files beside it have {len(tensors)} tensors, not "
            f"{total} different ones: they do not belong together"
        )
    return GGUF(parts[0].metadata, dict(tensors))


def _parts(path: Path, count: object) -> list[Path]:
    """The files that a model lies in, by the name of one."""
    match = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", path.name)
    if match is None or int(match[2]) != count:
        raise CheckpointError(
            f"{path.name} is one of {count} files: name them as they were, such as "
            "model-00001-of-00002.gguf"
        )
    parts = [
        path.with_name(f"{match[1]}-{number:05}-of-{match[2]}.gguf")
        for number in range(1, int(match[2]) + 1)
    ]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise CheckpointError(f"{listed(missing)} missing: get the complete files")
    return parts


def _open(path: Path) -> GGUF:
    check_files(path)
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(data)
    except (ValueError, OSError) as error:
        remedy = "it is incomplete or not a GGUF file, get it again"
        raise CheckpointError(f"{path.name}: {error}: {remedy}") from None


class _Header:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.place = data, 0
        self.size = min(len(data), _LONGEST_HEADER)

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin."""
        start, self.place = self.place, self.place + size
        if self.place > self.size:
            raise ValueError(f"its header does not end within {self.size} bytes")
        return start

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        layout = f"<{count}{code}"
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))

    def string(self) -> str:
        (length,) = self.numbers("Q")
        start = self.skip(length)
        return self.data[start : start + length].decode()

    def value(self) -> Any:
        kind = GGUFValueType(*self.numbers("I"))
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind != GGUFValueType.ARRAY:
            return self.numbers(_SCALARS[kind])[0]
        item = GGUFValueType(*self.numbers("I"))
        (count,) = self.numbers("Q")
        if count > _MOST_ITEMS or item == GGUFValueType.ARRAY:
            raise ValueError(f"an array of {count} items of type {item.name}")
        if item == GGUFValueType.STRING:
            return [self.string() for _ in range(count)]
        return list(self.numbers(_SCALARS[item], count))


def _read(data: mmap.mmap) -> GGUF:
    header = _Header(data)
    magic, version = header.numbers("I", 2)
    if magic.to_bytes(4, "little") != b"GGUF" or version not in (2, 3):
        raise ValueError("it does not begin as GGUF of version 2 or 3 does")
    num_tensors, num_keys = header.numbers("Q", 2)
    if max(num_tensors, num_keys) > _MOST_ENTRIES:
        raise ValueError(f"{num_tensors} tensors and {num_keys} keys are too many")
    metadata = _distinct([(header.string(), header.value()) for _ in range(num_keys)])
    infos = [_tensor_info(header) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-header.place // alignment) * alignment
    tensors = [(info[0], _tensor(data, start, *info)) for info in infos]
    return GGUF(metadata, _distinct(tensors))


def _distinct(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(entries)
    if len(named) < len(entries):
        raise ValueError("a name occurs twice")
    return named


def _tensor_info(header: _Header) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of a tensor."""
    name = header.string()
    (dimensions,) = header.numbers("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name[:80]} has {dimensions} dimensions")
    shape = header.numbers("Q", dimensions)[::-1]  # The fastest one first, there.
    return name, shape, *header.numbers("I"), *header.numbers("Q")


def _tensor(
    data: mmap.mmap,
    start: int,
    name: str,
    shape: tuple[int, ...],
    kind: int,
    offset: int,
) -> Tensor:
    quantisation = GGMLQuantizationType(kind)
    items, size = GGML_QUANT_SIZES[quantisation]
    if not shape or shape[-1] % items:
        raise ValueError(f"tensor {name[:80]} is {shape}, not in blocks of {items}")
    length = math.prod(shape) // items * size
    if start + offset + length > len(data):
        raise ValueError(f"tensor {name[:80]} does not end within {len(data)} bytes")

    def read() -> np.ndarray:
        stored = np.frombuffer(data, np.uint8, length, start + offset)
        stored = stored.reshape(quant_shape_to_byte_shape(shape, quantisation))
        try:
            return dequantize(stored, quantisation)
        except NotImplementedError:
            remedy = "convert the model with another quantisation"
            raise CheckpointError(
                f"{name[:80]}: unknown type {quantisation.name}: {remedy}"
            ) from None

    return Tensor(name, shape, read)
