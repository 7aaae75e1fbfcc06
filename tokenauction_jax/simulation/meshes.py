"""Auctions over the devices of a mesh, each of which computes its own."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from tokenauction_jax import records

# The axis of a mesh whose devices share out the auctions.
AXIS = "auctions"


def over_mesh(function: Callable[..., Any], rows: Any, *shared: Any) -> Any:
    """`function(rows, *shared)`, on each device of the mesh that is set with its rows.

    Without a mesh it is on all rows.

    Args:
      function: From pytrees of arrays to one of arrays `(A, ...)`, row by row of the
        first.
      rows: A pytree of arrays `(A, ...)`.
      *shared: Further arguments, the same on each device; other axes of the mesh may
        share them out.

    Raises:
      ValueError: If the devices do not divide the rows, or the mesh's axis is explicit.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    # Within a `shard_map` over this axis each device has its own auctions already.
    if kinds.get(AXIS, AxisType.Manual) == AxisType.Manual:
        return function(rows, *shared)
    if kinds[AXIS] == AxisType.Explicit:
        raise ValueError(
            f"the mesh's axis {AXIS!r} is explicit, which is not supported: "
            f"make it with axis_types=(jax.sharding.AxisType.Auto,) * {len(kinds)}"
        )
    total, devices = jax.tree.leaves(rows)[0].shape[0], mesh.shape[AXIS]
    if total % devices:
        raise ValueError(
            f"num_auctions is {total}, which the {devices} devices of the mesh's axis "
            f"{AXIS!r} do not divide: take {total + -total % devices}, or a mesh of "
            "fewer devices"
        )
    own, same = PartitionSpec(AXIS), PartitionSpec()
    specs = (own, *[same] * len(shared))
    # There are no copies that could differ, which is what it would check.
    return jax.shard_map(
        function, in_specs=specs, out_specs=own, axis_names={AXIS}, check_vma=False
    )(rows, *shared)


def is_spread(*trees: Any) -> bool:
    """Whether an array lies on several devices, and no mesh that is set says why."""
    if AXIS in jax.sharding.get_abstract_mesh().axis_names:
        return False
    arrays = (x for x in jax.tree.leaves(trees) if isinstance(x, jax.Array))
    known = (x for x in arrays if records.is_concrete(x))
    return any(len(x.sharding.device_set) > 1 for x in known)
