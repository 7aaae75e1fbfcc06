"""What the machine can do at most, measured beside what runs on it.

Each limit is a contender whose `count` is the number of units that so much work
would be enough for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from benchmarks.harness import Contender, clock, cores, on_all_cores

if TYPE_CHECKING:
    from tokenauction_jax.agents.models.config import DecoderConfig

# Beyond the caches, and for accelerators long enough to hide the start of a kernel.
_COPIED = {"cpu": 2**27}
_MOST_COPIED = 2**30
# Rows and columns of a matrix that keeps all units busy.
_WIDTH = {"cpu": 1536}
_MOST_WIDTH = 8192
# Bytes of a block that stays in the cache of a core.
_BLOCK = 2**20
_LANES = 8


def copy(bytes_of_unit: float) -> Contender:
    """Bandwidth of a copy, bytes read and written both counted."""
    backend = jax.default_backend()
    size = _COPIED.get(backend, _MOST_COPIED)
    # New memory of a CPU is mapped page by page, which takes longer than the copy.
    call = _copy_on_cpu(size) if backend == "cpu" else _copy_on_device(size)
    return Contender("copy bandwidth", "limit", call, 2 * size / bytes_of_unit)


def _copy_on_cpu(size: int) -> Callable[[int], None]:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    pieces = np.array_split(source, cores()), np.array_split(target, cores())

    def call(turn: int) -> None:
        del turn
        on_all_cores(
            lambda pair: np.copyto(pair[1], pair[0]), zip(*pieces, strict=True)
        )

    return call


def _copy_on_device(size: int) -> Callable[[int], jax.Array]:
    source, move = jnp.ones(size // 4, jnp.float32), jax.jit(jnp.copy)
    return lambda turn: move(source)


def sum_of_exponentials(logits: jax.Array) -> Contender:
    """One pass over logits `(A, n, V)` in the fastest of some layouts: exp, then sum.

    These are rows, columns, and on a CPU blocks of columns that stay in the cache,
    on all cores; the count of the contender is in auctions.
    """
    layouts = [_rows, _columns]
    if jax.default_backend() == "cpu":
        layouts.append(_blocks)
    return min((layout(logits) for layout in layouts), key=_seconds_each)


def _seconds_each(contender: Contender) -> float:
    return min(clock(contender, i).seconds for i in range(3)) / contender.count


def _contender(call: Callable[[int], object], count: int) -> Contender:
    return Contender("one-pass sum of exponentials", "limit", call, count)


def _rows(logits: jax.Array) -> Contender:
    add = jax.jit(lambda x: jnp.exp(x).sum(2))
    return _contender(lambda turn: add(logits), len(logits))


def _columns(logits: jax.Array) -> Contender:
    columns, add = jnp.moveaxis(logits, 0, 2), jax.jit(lambda x: jnp.exp(x).sum(1))
    return _contender(lambda turn: add(columns), len(logits))


def _blocks(logits: jax.Array) -> Contender:
    count, *size = logits.shape
    most = max(count // cores(), 1)
    fitting = _BLOCK // (4 * math.prod(size)) // _LANES * _LANES
    width = min(max(fitting, _LANES), most)
    each = most // width
    used = [logits[k * most :][: each * width] for k in range(min(cores(), count))]
    blocks = [jnp.moveaxis(x.reshape(each, width, *size), 1, 3) for x in used]

    @jax.jit
    def add(blocks: jax.Array) -> jax.Array:
        return lax.map(lambda block: jnp.exp(block).sum(1), blocks)

    def one(piece: jax.Array) -> jax.Array:
        return jax.block_until_ready(add(piece))

    return _contender(lambda turn: on_all_cores(one, blocks), len(used) * each * width)


def matrix_products(flops_of_unit: float, dtype: DTypeLike) -> Contender:
    """The rate of large square matrix products, two operations a multiplication."""
    width = _WIDTH.get(jax.default_backend(), _MOST_WIDTH)
    # Of zeros or ones a chip multiplies more before it is too hot.
    matrix = jax.random.normal(jax.random.key(0), (width, width), dtype)
    multiply = jax.jit(jnp.dot)
    count = 2 * width**3 / flops_of_unit
    return Contender(
        "peak of matrix products",
        "limit",
        lambda turn: multiply(matrix, matrix),
        count,
    )


def decoder_products(config: DecoderConfig, rows: int, dtype: DTypeLike) -> Contender:
    """Nothing but the products of a decoder's weights with `rows` texts, once.

    Projections that read the same are fused. The count is 1.
    """
    shapes = product_shapes(config)
    most = max(map(math.prod, shapes))
    numbers = jax.random.normal(jax.random.key(0), (most,), dtype)
    weights = [numbers[: math.prod(shape)].reshape(shape) for shape in shapes]
    inputs = {size: jnp.resize(numbers, (rows, size)) for size, _ in shapes}

    @jax.jit
    def multiply(inputs: dict[int, jax.Array], weights: list[jax.Array]):
        return [inputs[len(weight)] @ weight for weight in weights]

    name = "matrix products of the model alone"
    return Contender(name, "limit", lambda turn: multiply(inputs, weights), 1)


def product_shapes(config: DecoderConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of all maps that a token passes."""
    width, shapes = config.width, []
    for layer in config.layers:
        queries, keys = (
            heads * layer.head_dim for heads in (layer.num_heads, layer.num_kv_heads)
        )
        hidden = layer.mlp_width
        raised = 2 * hidden if layer.gated else hidden
        shapes += [
            *((width, queries + 2 * keys), (queries, width)),
            *((width, raised), (hidden, width)),
        ]
    return [*shapes, (width, config.vocab_size)]
