"""Low-rank adapters: different agents that share the weights of one base model.

An adapter changes the weight ``W`` `(outputs, inputs)` of some linear maps of a decoder
to ``W + up down``, with ``down`` `(rank, inputs)` and ``up`` `(outputs, rank)`. The
factor ``alpha / rank`` of the paper is part of ``up``: for Adam it acts like a learning
rate, and the paper does not tune it.

To train, differentiate with respect to the factors only:

    model = attach(base, new_adapter(key, base, rank=8))
    graph, factors, frozen = nnx.split(model, nnx.LoRAParam, ...)
    logits = nnx.merge(graph, factors, frozen)(tokens)

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"
(arXiv 2106.09685), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tokenauction_jax import records
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.agents.models.layers import Linear, einsum, wide
from tokenauction_jax.outside import quoted


class Factors(NamedTuple):
    """The update ``up down`` of one weight.

    Attributes:
      down: `(rank, inputs)`, or `(m, rank, inputs)` for ``m`` agents.
      up: `(outputs, rank)`, or `(m, outputs, rank)`.
    """

    down: jax.Array
    up: jax.Array


@records.record
class Adapter:
    """Low-rank updates of a decoder's linear maps.

    Attributes:
      factors: The factors by the place of the map, such as
        `"layers.0.attention.query"`.
    """

    factors: dict[str, Factors]


class LowRank(nnx.Module):
    """``up (down x)``, which an adapter adds to a linear map."""

    def __init__(self, factors: Factors, agents_axis: int | None):
        self.down = nnx.LoRAParam(factors.down)
        self.up = nnx.LoRAParam(factors.up)
        self.agents_axis = agents_axis

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` `(..., inputs)` to `(..., outputs)`."""
        rest = "abc"[: x.ndim - 1]
        agent = "" if self.agents_axis is None else rest[self.agents_axis]
        low = einsum(f"{rest}i,{agent}ri->{rest}r", x, self.down[...])
        out = einsum(f"{rest}r,{agent}or->{rest}o", low, self.up[...])
        return out.astype(x.dtype)


def new_adapter(
    key: jax.Array,
    model: Decoder,
    rank: int,
    *,
    targets: Sequence[str] | None = None,
) -> Adapter:
    """An adapter that changes nothing yet: `down` is normal, `up` is zero.

    Args:
      key: A typed PRNG key, for the entries of `down`, with variance ``1 / inputs``.
      model: The base.
      rank: The rank of every update.
      targets: The maps of each layer that are adapted, such as `"attention.query"`;
        None for all maps of attention and feed-forward.

    Returns:
      Factors in the dtype of the weights, but at least float32.

    Raises:
      ValueError: If `rank` is below 1 or above that of every map, or the layers do not
        have a target.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}: give at least 1")
    maps = {path: linear.weight for path, linear in _linear_maps(model)}
    places = {path: path.split(".", 2)[2] for path in maps}  # After "layers.3.".
    known = dict.fromkeys(places.values())
    chosen = known if targets is None else targets
    if isinstance(chosen, str) or not chosen or set(chosen) - set(known):
        raise ValueError(
            f"targets is {quoted(targets)}: give some of {', '.join(known)}"
        )
    paths = [path for path in maps if places[path] in chosen]
    most = max(min(maps[path].shape) for path in paths)
    if rank > most:
        raise ValueError(f"rank is {rank}: the maps have rank {most} at most")
    factors = {}
    for path, own in zip(paths, jax.random.split(key, len(paths)), strict=True):
        (outputs, inputs), dtype = maps[path].shape, wide(maps[path].dtype)
        down = inputs**-0.5 * jax.random.normal(own, (rank, inputs), dtype)
        factors[path] = Factors(down, jnp.zeros((outputs, rank), dtype))
    return Adapter(factors)


def attach(
    model: Decoder, adapter: Adapter, *, agents_axis: int | None = None
) -> Decoder:
    """The model with an adapter beside its weights, which are shared, not copied.

    Args:
      model: The base.
      adapter: The adapter, whose factors become variables of type `nnx.LoRAParam`.
      agents_axis: The axis of the agents in the inputs of the layers, if each agent has
        its own factors; None if all have one adapter in common.

    Raises:
      ValueError: If the adapter belongs to another model, or the model has one already.
    """
    attached = nnx.merge(*nnx.split(model))
    for linear, factors in adapted(attached, adapter):
        linear.lora = nnx.data(LowRank(factors, agents_axis))
    return attached


def adapter_of(model: Decoder) -> Adapter:
    """The adapter that `attach` gave to a model."""
    found = {path: linear.lora for path, linear in _linear_maps(model)}
    return Adapter(
        {
            path: Factors(lora.down[...], lora.up[...])
            for path, lora in found.items()
            if isinstance(lora, LowRank)
        }
    )


def merge(model: Decoder, adapter: Adapter) -> Decoder:
    """The model with an adapter added to its weights; the other weights are shared.

    Raises:
      ValueError: If the adapter belongs to another model, or the model has one already.
    """
    merged = nnx.merge(*nnx.split(model))
    for linear, factors in adapted(merged, adapter):
        weight = linear.weight[...]
        update = einsum("or,ri->oi", factors.up, factors.down, wide(weight.dtype))
        linear.weight = nnx.Param((weight + update).astype(weight.dtype))
    return merged


def stack(
    model: Decoder, adapters: Sequence[Adapter | None]
) -> tuple[Adapter, jax.Array]:
    """The distinct adapters of ``m`` agents, and which of them each agent has.

    Args:
      model: The base of all agents.
      adapters: One per agent; None for an agent that is the base.

    Returns:
      An adapter whose factors have a leading axis, and indices `(m,)` into it. Smaller
      ranks, and maps that some adapters do not change, are filled up with zeros.

    Raises:
      ValueError: If an adapter belongs to another model.
    """
    distinct = list({id(adapter): adapter for adapter in adapters}.values())
    places = {id(adapter): place for place, adapter in enumerate(distinct)}
    given = [Adapter({}) if adapter is None else adapter for adapter in distinct]
    for adapter in given:
        adapted(model, adapter)
    paths = dict.fromkeys(path for adapter in given for path in adapter.factors)
    stacked = {path: _stack([a.factors.get(path) for a in given]) for path in paths}
    choice = jnp.array([places[id(adapter)] for adapter in adapters], jnp.int32)
    return Adapter(stacked), choice


def _stack(each: Sequence[Factors | None]) -> Factors:
    given = [factors for factors in each if factors is not None]
    rank = max(len(factors.down) for factors in given)
    zero = jax.tree.map(jnp.zeros_like, given[0])
    filled = [_fill(zero if factors is None else factors, rank) for factors in each]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)


def _fill(factors: Factors, rank: int) -> Factors:
    missing = rank - len(factors.down)
    if not missing:
        return factors
    down = jnp.pad(factors.down, ((0, missing), (0, 0)))
    return Factors(down, jnp.pad(factors.up, ((0, 0), (0, missing))))


def _linear_maps(model: Decoder) -> Iterator[tuple[str, Linear]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            yield ".".join(map(str, path)), module


def adapted(model: Decoder, adapter: Adapter) -> list[tuple[Linear, Factors]]:
    """The linear maps that an adapter changes, with their factors.

    Raises:
      ValueError: If the adapter belongs to another model, or the model has one already.
    """
    maps = dict(_linear_maps(model))
    if any(linear.lora is not None for linear in maps.values()):
        raise ValueError("the model has an adapter already: give its base")
    for path, factors in adapter.factors.items():
        if path not in maps:
            raise ValueError(
                f"the adapter changes {path}, which the model does not have: they do "
                "not belong together"
            )
        outputs, inputs = maps[path].weight.shape
        down, up = (factor.shape[-2:] for factor in factors)
        if (*down, *up) != (down[0], inputs, outputs, down[0]):
            raise ValueError(
                f"the adapter has factors {down} and {up} for the weight "
                f"{(outputs, inputs)} of {path}: they do not belong together"
            )
    return [(maps[path], factors) for path, factors in adapter.factors.items()]
