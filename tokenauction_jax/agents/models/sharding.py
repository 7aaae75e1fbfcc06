"""Weights of language models over several devices, for models larger than one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokenauction_jax.agents.language_model import LanguageModelPool

# Projections back to the residual stream: what comes in is shared out already, so that
# each device adds its share of the sum. All others are shared out by what they put out.
_BACK = {"output", "down"}


def shard_weights(
    pool: LanguageModelPool, mesh: Mesh, *, axis: str = "model"
) -> LanguageModelPool:
    """The pool, with each matrix of its models' weights shared out over devices.

    Attention is shared out by heads, feed-forward blocks by hidden units, embeddings
    by tokens (tensor parallelism as in Megatron-LM, arXiv 1909.08053); what the devices
    do not divide, all of them have. Sums in another order change logits by rounding.
    A model that no device holds is loaded in the host's memory, within
    ``jax.default_device(jax.devices("cpu")[0])``.

    Args:
      pool: Agents of `from_language_model`.
      mesh: The devices; the same that is set while auctions run.
      axis: The mesh's axis whose devices share a model.

    Raises:
      ValueError: If the mesh has no such axis.

    >>> kinds = (jax.sharding.AxisType.Auto,) * 2
    >>> mesh = jax.make_mesh(
    ...     (4, 2), ("auctions", "model"), axis_types=kinds)  # doctest: +SKIP
    >>> pool = shard_weights(pool, mesh)  # doctest: +SKIP
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis is {axis!r}, but the mesh has {mesh.axis_names}")

    def place(path: Any, leaf: jax.Array) -> jax.Array:
        spec = _spec([getattr(key, "key", None) for key in path], leaf, mesh, axis)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    everywhere = NamedSharding(mesh, PartitionSpec())
    groups = [
        dataclasses.replace(
            # The whole of them may not fit on a device.
            jax.device_put(dataclasses.replace(group, weights=None), everywhere),
            weights=jax.tree_util.tree_map_with_path(place, group.weights),
        )
        for group in pool.groups
    ]
    about = jax.device_put({"sampling": pool.sampling, "known": pool.known}, everywhere)
    return dataclasses.replace(pool, groups=tuple(groups), **about)


def _spec(names: list[Any], leaf: jax.Array, mesh: Mesh, axis: str) -> PartitionSpec:
    """How a parameter is shared out, a matrix `(outputs, inputs)`."""
    if leaf.ndim != 2:
        return PartitionSpec()
    best = 1 if _BACK & set(names) else 0
    for place in (best, 1 - best):
        if leaf.shape[place] % mesh.shape[axis] == 0:
            return PartitionSpec(*[None] * place, axis)
    return PartitionSpec()
